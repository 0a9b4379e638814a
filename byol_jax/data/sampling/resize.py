"""Parts of images resized on the host, of any size each.

Keys' bicubic (a = -0.5), half-pixel centres, no antialiasing, its coefficients
from a table of 1,024 places between two pixels: `tf.image.resize` of the
official code (spec 3.2), to rounding. That op spends 16 products on each
number; rows first and columns then are 8, and its crop, division and clip are
done on the way: a third of the time. Compiled by numba, with the global lock
released, in IEEE arithmetic without contraction: the same bits on any machine.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import numba
import numpy as np

from byol_jax import errors

_F = np.float32
_U = np.uint64  # numba asks of a signed index whether it is negative

METHODS = ('resize', 'crop', 'whole')  # of `evaluation`
_PLACES = 1024  # of TensorFlow's table
_ELONGATED = 4  # beyond this ratio of the sides only the middle is resized


def to_float(image: np.ndarray) -> np.ndarray:
  """uint8 [H, W, 3] to float32 in [0, 1]; floats must be there already.

  Raises:
    DataError: another shape, dtype or range.
  """
  image = np.asarray(image)
  if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
    raise errors.DataError(
      f'images: expected [H, W, 3], found {list(image.shape)}'
    )
  if image.dtype == np.uint8:
    return image.astype(np.float32) / 255
  # Not np.issubdtype: bfloat16, which JAX users have, is no numpy float.
  if not np.can_cast(image.dtype, np.float64) or image.dtype.kind in 'biu':
    raise errors.DataError(
      f'images: expected uint8 or floats in [0, 1], found {image.dtype}'
    )
  lowest, highest = float(image.min()), float(image.max())
  if not (lowest >= 0 and highest <= 1):  # NaN fails too
    raise errors.DataError(
      f'images: expected floats in [0, 1], found [{lowest:g}, {highest:g}];'
      ' divide by 255?'
    )
  return image.astype(np.float32)


def cubic(distance: np.ndarray) -> np.ndarray:
  """Keys' kernel at distances in [0, 2] pixels."""
  x = np.asarray(distance, np.float64)
  near = (1.5 * x - 2.5) * x * x + 1
  far = ((-0.5 * x + 2.5) * x - 4) * x + 2
  return np.where(x <= 1, near, far)


def taps(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray]:
  """What each new pixel of a line is made of.

  Args:
    size: pixels of the line.
    new_size: pixels of the resized line.

  Returns:
    Indices int64 [new_size, 4] in [0, size), and weights float32
    [new_size, 4]: rows sum to 1, a place beyond the line weighs 0.
  """
  # In float32, as TensorFlow: which place of the table is next may hang on it.
  half = np.float32(0.5)
  scale = np.float32(size) / np.float32(new_size)
  places = (np.arange(new_size, dtype=np.float32) + half) * scale - half
  first = np.floor(places).astype(np.int64)
  part = np.rint((places - np.floor(places)) * np.float32(_PLACES)) / _PLACES
  offsets = np.arange(-1, 3)
  weights = cubic(np.abs(part[:, None] - offsets))
  indices = first[:, None] + offsets
  weights = np.where((indices >= 0) & (indices < size), weights, 0.0)
  weights /= weights.sum(axis=1, keepdims=True)
  return np.clip(indices, 0, size - 1), weights.astype(np.float32)


def _compiled(function: Callable) -> Callable:
  """Compiled at its first call, and kept for the next process."""
  try:
    return numba.njit(nogil=True, cache=True)(function)
  except RuntimeError:  # no folder that it could be kept in
    return numba.njit(nogil=True)(function)


class Lines(NamedTuple):
  """What each new line is made of; see `taps`."""

  indices: np.ndarray  # uint64 [n, 4]
  weights: np.ndarray  # float32 [n, 4]

  def part(self, start: int, count: int) -> 'Lines':
    """The new lines from `start`."""
    return Lines(*(array[start : start + count] for array in self))

  def reversed(self) -> 'Lines':
    """The new lines the other way round: a flip."""
    return Lines(*(np.ascontiguousarray(array[::-1]) for array in self))


class Place(NamedTuple):
  """A picture of an image: its window, and how that is resized."""

  window: tuple[int, int, int, int]  # y, x, height, width, in pixels
  rows: Lines
  columns: Lines


@functools.lru_cache(maxsize=4096)  # 10 KB each
def lines(size: int, new_size: int) -> Lines:
  """`taps`, kept: the sides of windows come again."""
  indices, weights = taps(size, new_size)
  return Lines(indices.astype(_U), weights)


def square(window: tuple[int, int, int, int], new_size: int) -> Place:
  """The whole of a window as [new_size, new_size]."""
  _, _, height, width = window
  return Place(window, lines(height, new_size), lines(width, new_size))


@_compiled
def _resized_line(above, weights, columns, along, row, line):  # type: ignore
  """One new line: four rows of bytes or floats, [W * 3] each, and the taps."""
  a, b, c, d = above
  p, q, r, s = weights
  for j in range(len(a)):
    row[j] = p * _F(a[j]) + q * _F(b[j]) + r * _F(c[j]) + s * _F(d[j])
  for x in range(len(columns)):
    i, j = _U(3) * columns[x, 0], _U(3) * columns[x, 1]
    k, m = _U(3) * columns[x, 2], _U(3) * columns[x, 3]
    t, u, v, w = along[x, 0], along[x, 1], along[x, 2], along[x, 3]
    at = _U(3) * _U(x)
    # Four at once, where a pixel has three: so they are one instruction. The
    # next pixel overwrites the fourth.
    for n in range(_U(4)):
      line[at + n] = (
        t * row[i + n] + u * row[j + n] + v * row[k + n] + w * row[m + n]
      )


@_compiled
def _resample(pixels, window, rows, down, columns, along, unit, out):  # type: ignore
  """Into floats: what `unit` is in the image is 1 in the picture."""
  y, x, _, width = window
  left, right = 3 * x, 3 * (x + width)
  row = np.zeros(3 * width + 1, _F)
  line = np.zeros(3 * len(columns) + 1, _F)
  for i in range(len(rows)):
    above = (
      pixels[_U(y) + rows[i, 0], left:right],
      pixels[_U(y) + rows[i, 1], left:right],
      pixels[_U(y) + rows[i, 2], left:right],
      pixels[_U(y) + rows[i, 3], left:right],
    )
    weights = (down[i, 0], down[i, 1], down[i, 2], down[i, 3])
    _resized_line(above, weights, columns, along, row, line)
    # Bicubic overshoots, so we clip, here and not later.
    for j in range(out.shape[1]):
      out[i, j] = min(max(line[j] / unit, _F(0)), _F(1))


@_compiled
def _to_bytes(floats, out):  # type: ignore
  for i in range(len(floats)):
    for j in range(floats.shape[1]):
      out[i, j] = np.uint8(np.rint(floats[i, j] * _F(255)))


def resample(image: np.ndarray, place: Place, out: np.ndarray) -> None:
  """Resizes a window of an image into a picture.

  Args:
    image: [H, W, 3], uint8, or float32 in [0, 1].
    place: its window and lines.
    out: [h, w, 3], float32 for values in [0, 1], or uint8 for those rounded.
  """
  height, width, _ = image.shape
  pixels = np.ascontiguousarray(image).reshape(height, 3 * width)
  unit = _F(255 if image.dtype == np.uint8 else 1)
  flat = out.reshape(len(out), -1)
  floats = flat if out.dtype == _F else np.empty(flat.shape, _F)
  _resample(pixels, place.window, *place.rows, *place.columns, unit, floats)
  if floats is not flat:
    _to_bytes(floats, flat)


def evaluation(height: int, width: int, size: int, method: str) -> Place:
  """The picture of an image that is evaluated, spec 5.1 and 3.2.

  Args:
    height, width: of the image.
    size: of the picture, pixels.
    method: 'resize' (shorter side to size * 256 / 224, centre crop; paper),
      'crop' (centre square of 0.875 of the shorter side, then resized;
      official code) or 'whole' (shorter side to size, centre crop).
  """
  shorter = min(height, width)
  if method == 'crop':
    side = max(1, int(0.875 * shorter))
    return square((*_centre(height, width, side), side, side), size)
  target = round(size * 256 / 224) if method == 'resize' else size
  # Resizing 1 x 500 pixels to 256 rows would take 128,000 columns. The margin
  # is more than the two pixels that bicubic looks beyond.
  most = max(_ELONGATED * shorter, shorter + 8)
  top, left = (max(side - most, 0) // 2 for side in (height, width))
  height, width = height - 2 * top, width - 2 * left
  down, along = (round(side * (target / shorter)) for side in (height, width))
  y, x = _centre(down, along, size)
  return Place(
    (top, left, height, width),
    lines(height, down).part(y, size),
    lines(width, along).part(x, size),
  )


def _centre(height: int, width: int, size: int) -> tuple[int, int]:
  """Of an odd remainder more is cut before than after."""
  return (height - size + 1) // 2, (width - size + 1) // 2


def evaluation_crop(image: np.ndarray, size: int, method: str) -> np.ndarray:
  """That picture, [H, W, 3] in [0, 1] or uint8 -> float32 [size, size, 3]."""
  out = np.empty((size, size, 3), _F)
  height, width, _ = image.shape
  resample(image, evaluation(height, width, size, method), out)
  return out
