"""Decodes images by Pillow, without TensorFlow.

Three channels, alpha dropped unless a background is given, the first frame of
an animation, the EXIF orientation ignored. JPEG pixels equal TensorFlow's with
the accurate DCT, bit for bit. Headers are read before pixels, and what claims
too many pixels is refused by its header.
"""

from collections.abc import Iterator
import contextlib
import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

Image.init()  # or formats that are asked for by name are not known
# Large images are allowed; what is too large is decided here. For the whole
# process, since `warnings.catch_warnings` is not safe with threads.
warnings.simplefilter('ignore', Image.DecompressionBombWarning)

KINDS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF')  # what TensorFlow decodes
Colour = tuple[int, int, int]  # red, green, blue in [0, 255]
MAX_PIXELS = 178_956_970  # where Pillow too suspects a decompression bomb


class Unusable(ValueError):
  """Raised for bytes that cannot be used as an image, with the reason."""


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
  if not data:
    raise Unusable('is empty')
  try:
    image = Image.open(io.BytesIO(data), formats=KINDS)
  except Image.DecompressionBombError:
    raise Unusable(f'claims more than {MAX_PIXELS:,} pixels') from None
  except UnidentifiedImageError:
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


def read_header(data: bytes) -> tuple[str, int, int]:
  """Returns (kind, height, width) of an image, from its header.

  Args:
    data: the encoded image, or at least its first part.

  Raises:
    Unusable: not an image of KINDS, or one that claims too many pixels.
  """
  with _opened(data) as image:
    return str(image.format), image.height, image.width


def read_sides(image: bytes | np.ndarray) -> tuple[int, int]:
  """Returns height and width of what a source gives; may raise Unusable."""
  if isinstance(image, bytes):
    return read_header(image)[1:]
  return image.shape[0], image.shape[1]


def decode_rgb(data: bytes, background: Colour | None = None) -> np.ndarray:
  """Returns pixels, uint8 [H, W, 3]; raises Unusable if it cannot.

  `background` is the colour below transparent pixels; None drops alpha.
  """
  with _opened(data) as image:
    try:
      return flatten_image(image, background)
    except Exception as error:  # as above, on broken pixels
      reason = str(error) or type(error).__name__
      raise Unusable(f'cannot be decoded: {reason}') from None


def flatten_image(image: Image.Image, background: Colour | None) -> np.ndarray:
  """Returns an image of Pillow, of any mode, as uint8 [H, W, 3].

  `background` is the colour below transparent pixels; None drops alpha.
  """
  if image.mode.startswith('I'):  # 16 bits a pixel; the upper eight
    grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
  if background is not None and image.has_transparency_data:
    # Pillow converts premultiplied grey only to grey with alpha.
    image = image.convert('LA') if image.mode == 'La' else image
    image = image.convert('RGBA')
    below = Image.new('RGBA', image.size, background)
    image = Image.alpha_composite(below, image)
  return np.asarray(image.convert('RGB'))


def to_pixels(image: bytes | np.ndarray) -> np.ndarray:
  """Returns uint8 [H, W, 3] of what a source gives; may raise Unusable."""
  return decode_rgb(image) if isinstance(image, bytes) else image
