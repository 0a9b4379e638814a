"""What a user should know of images before training on them."""

import contextlib
import logging

import numpy as np

from byol_jax import errors
from byol_jax.data.loading import decode
from byol_jax.data.sources import base

# Has an EXIF orientation; may have transparent pixels; is grey of more than 8
# bits; is that, and stays below an eighth of the range; has one colour.
TRAITS = ('rotated_by_exif', 'transparent', 'many_bits', 'dark', 'one_colour')
_SAMPLE = 8  # images
_DARK = 256 // 8
_LOG = logging.getLogger(__name__)


def find_traits(
  image: bytes | np.ndarray, options: decode.PixelOptions
) -> tuple[str, tuple[int, int], frozenset[str]]:
  """Returns kind, height and width, and names in `TRAITS`.

  Raises:
    decode.Unusable: the image cannot be decoded.
  """
  pixels = decode.to_pixels(image, options)
  first = pixels[0, 0]
  has = {'one_colour': (pixels[0] == first).all() and (pixels == first).all()}
  kind = 'pixels'
  if isinstance(image, bytes):
    header = decode.read_header(image, options)
    kind = header.kind
    has |= {
      'rotated_by_exif': header.orientation != 1,
      'transparent': header.has_alpha,
      'many_bits': header.is_deep,
      'dark': header.is_deep and pixels.max() < _DARK,
    }
  height, width = pixels.shape[:2]
  return kind, (height, width), frozenset(name for name in has if has[name])


def warn_of_traits(source: base.Source, options: decode.PixelOptions) -> None:
  """Warns if a few images suggest that there is nothing to learn."""
  count = min(_SAMPLE, len(source))
  found = []
  for index in np.linspace(0, len(source) - 1, count, dtype=int):
    with contextlib.suppress(Exception):  # named when a batch needs it
      found.append(find_traits(source.read(int(index))[0], options)[2])
  where = f'{errors.quote(source.name)}: {len(found)} images were looked at,'
  if found and all('one_colour' in traits for traits in found):
    _LOG.warning(
      '%s each of one colour: there is nothing to learn, and the'
      ' representations collapse',
      where,
    )
  deep = [traits for traits in found if 'many_bits' in traits]
  if deep and all('dark' in traits for traits in deep):
    _LOG.warning(
      '%s %s of them grey of more than 8 bits, with all values below an eighth'
      ' of data.grey_range, %s: almost black; set it to what the files use,'
      ' --config.data.grey_range="(0, 4095)" for 12 bits',
      *(where, len(deep), '({:g}, {:g})'.format(*options.grey_range)),
    )
