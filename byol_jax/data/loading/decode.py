"""Decodes images by Pillow, without TensorFlow.

Three channels, the first frame of an animation. JPEG pixels equal TensorFlow's
with the accurate DCT, bit for bit. Headers are read before pixels, and what
claims too many pixels is refused by its header.
"""

from collections.abc import Iterator
import contextlib
import functools
import importlib
import io
from typing import NamedTuple
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

Image.init()  # or formats that are asked for by name are not known
# Large images are allowed; what is too large is decided here. For the whole
# process, since `warnings.catch_warnings` is not safe with threads.
warnings.simplefilter('ignore', Image.DecompressionBombWarning)
# A file that cannot be used is named by an exception, others need no words.
warnings.filterwarnings('ignore', module=r'PIL\.')

# AVIF needs Pillow 11.3, HEIF (.heic) the package pillow-heif.
KINDS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'AVIF', 'HEIF')
Colour = tuple[int, int, int]  # red, green, blue in [0, 255]
MAX_PIXELS = 178_956_970  # where Pillow too suspects a decompression bomb
BACKGROUNDS: dict[str, Colour | None] = {
  'white': (255, 255, 255),
  'black': (0, 0, 0),
  'drop': None,
}
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_SWAPPED = (5, 6, 7, 8)  # height and width
_JPEG = b'\xff\xd8\xff'
_HEIF_BRANDS = (b'heic', b'heix', b'heim', b'heis', b'hevc', b'mif1', b'msf1')


class Unusable(ValueError):
  """Raised for bytes that cannot be used as an image, with the reason."""


class PixelOptions(NamedTuple):
  """How an encoded image becomes pixels.

  Attributes:
    exif: whether images are turned as their EXIF orientation says; TIFF and
      HEIF images are always, since it is a part of these formats.
    background: the colour below transparent pixels; None drops alpha.
    grey_range: what becomes black and white in grey images of more than eight
      bits a pixel; (0, 65535) keeps the upper eight of sixteen bits.
  """

  exif: bool = True
  background: Colour | None = (255, 255, 255)
  grey_range: tuple[float, float] = (0.0, 65535.0)


AS_FILES = PixelOptions()  # the defaults for image files


class Header(NamedTuple):
  """What the header of an image says.

  Attributes:
    kind: one of `KINDS`.
    height, width: pixels, after a turn by EXIF.
    orientation: by EXIF, in [1, 8]; 1 is upright.
    has_alpha: whether pixels may be transparent.
    is_deep: whether it is grey with more than eight bits a pixel.
  """

  kind: str
  height: int
  width: int
  orientation: int
  has_alpha: bool
  is_deep: bool


@functools.cache
def _register_heif() -> bool:
  """Lets Pillow read HEIC files; False if pillow-heif is not installed."""
  try:
    importlib.import_module('pillow_heif').register_heif_opener()
  except ImportError:
    return False
  return True


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
  if not data:
    raise Unusable('is empty')
  brand = data[8:12] if data[4:8] == b'ftyp' else b''
  lacks_heif = brand in _HEIF_BRANDS and not _register_heif()
  kinds = [kind for kind in KINDS if kind in Image.OPEN]
  try:
    image = Image.open(io.BytesIO(data), formats=kinds)
  except Image.DecompressionBombError:
    raise Unusable(f'claims more than {MAX_PIXELS:,} pixels') from None
  except UnidentifiedImageError:
    if lacks_heif:
      raise Unusable(
        "is HEIC, which needs a package: pip install 'byol_jax[heif]'"
      ) from None
    raise Unusable(f'is none of {", ".join(KINDS)}') from None
  except Exception as error:  # Pillow raises many kinds on broken headers
    reason = str(error) or type(error).__name__
    raise Unusable(f'has a broken header: {reason}') from None
  with image:
    if image.width * image.height > MAX_PIXELS or not (
      image.width and image.height
    ):
      raise Unusable(f'claims {image.width} x {image.height} pixels')
    yield image


def _read_orientation(image: Image.Image) -> int:
  """Returns the orientation by EXIF or XMP, 1 without one or if it is broken.

  Pillow itself turns TIFF. Of a PNG only what lies before its pixels counts:
  its own `getexif` would decode them.
  """
  with contextlib.suppress(Exception):  # Pillow raises many kinds
    if image.format != 'TIFF':
      value = Image.Image.getexif(image).get(_ORIENTATION)
      return value if value in _TURNS else 1
  return 1


def is_plain_jpeg(data: bytes, options: PixelOptions) -> bool:
  """Returns whether an image is JPEG whose pixels are not to be turned."""
  if not data.startswith(_JPEG):
    return False
  if not options.exif or not _has_metadata(data):
    return True
  with contextlib.suppress(Unusable):
    return read_header(data).orientation == 1
  return False


def _has_metadata(jpeg: bytes) -> bool:
  """Returns whether EXIF or XMP precede the pixels; Pillow takes 100 us."""
  start = 2
  while jpeg[start : start + 1] == b'\xff':
    marker = jpeg[start + 1 : start + 2]
    if marker in (b'\xe1', b'\xda', b''):  # metadata; pixels; the end
      return marker == b'\xe1'
    size = int.from_bytes(jpeg[start + 2 : start + 4], 'big')
    start += 1 if marker == b'\xff' else 2 + size  # 0xff is padding
  return False


def read_header(data: bytes, options: PixelOptions = AS_FILES) -> Header:
  """Returns what the header of an image says.

  Args:
    data: the encoded image, or at least its first part.
    options: how it becomes pixels.

  Raises:
    Unusable: not an image of KINDS, or one that claims too many pixels.
  """
  with _opened(data) as image:
    orientation = _read_orientation(image)
    width, height = image.size
    if options.exif and orientation in _SWAPPED:
      width, height = height, width
    # Pillow names a JPEG with a second picture MPO.
    kind = 'JPEG' if image.format == 'MPO' else str(image.format)
    has_alpha = image.has_transparency_data
    is_deep = image.mode[0] in 'IF'
    return Header(kind, height, width, orientation, has_alpha, is_deep)


def read_sides(
  image: bytes | np.ndarray, options: PixelOptions = AS_FILES
) -> tuple[int, int]:
  """Returns height and width of what a source gives; may raise Unusable."""
  if isinstance(image, bytes):
    return read_header(image, options)[1:3]
  return image.shape[0], image.shape[1]


def decode_rgb(data: bytes, options: PixelOptions = AS_FILES) -> np.ndarray:
  """Returns pixels, uint8 [H, W, 3]; raises Unusable if it cannot."""
  with _opened(data) as image:
    try:
      return flatten_image(image, options)
    except Exception as error:  # as above, on broken pixels
      reason = str(error) or type(error).__name__
      raise Unusable(f'cannot be decoded: {reason}') from None


def flatten_image(
  image: Image.Image, options: PixelOptions = AS_FILES
) -> np.ndarray:
  """Returns an image of Pillow, of any mode, as uint8 [H, W, 3]."""
  if options.exif:
    turn = _TURNS.get(_read_orientation(image))  # before pixels are read
    image = image if turn is None else image.transpose(turn)
  if image.mode[0] in 'IF':
    grey = _scale_grey(np.asarray(image), *options.grey_range)
    return np.repeat(grey[..., None], 3, axis=-1)
  if options.background is not None and image.has_transparency_data:
    # Pillow converts premultiplied grey only to grey with alpha.
    image = image.convert('LA') if image.mode == 'La' else image
    image = image.convert('RGBA')
    below = Image.new('RGBA', image.size, options.background)
    image = Image.alpha_composite(below, image)
  return np.asarray(image.convert('RGB'))


def _scale_grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
  """Returns values of any type between low and high as uint8."""
  # Rounded down; of all 16 bits these are the upper eight, exactly.
  scale = 255.999 / (high - low or 1.0)
  shares = np.nan_to_num((np.clip(values, low, high) - low) * scale)
  return shares.astype(np.uint8)


def to_pixels(
  image: bytes | np.ndarray, options: PixelOptions = AS_FILES
) -> np.ndarray:
  """Returns uint8 [H, W, 3] of what a source gives; may raise Unusable."""
  return decode_rgb(image, options) if isinstance(image, bytes) else image
