"""Resizes windows of images on the host, each to its own size.

Keys' bicubic (a = -0.5), half-pixel centres, no antialiasing, coefficients from
a table of 1,024 positions between two pixels: `tf.image.resize` of the official
code (method.md 3.2), up to rounding. That op computes 16 products for each
number; rows first and then columns are 8, and crop, division and clip are part
of the same pass (`resize_loops`): a third of the time.
"""

import functools
from typing import NamedTuple

import numpy as np

from byol_jax import errors

METHODS = ('resize', 'crop', 'whole')  # of `make_evaluation_window`
_TABLE_SIZE = 1024  # of TensorFlow's coefficients
_MARGIN = 2  # pixels beyond either end of a line that a new pixel reaches
_ELONGATED = 4  # beyond this ratio of the sides only the middle is resized


def convert_image(image: np.ndarray) -> np.ndarray:
  """Returns uint8 or float [H, W, 3] as float32 in [0, 1].

  Raises:
    DataError: another shape or dtype, or floats that are not in [0, 1].
  """
  image = np.asarray(image)
  if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
    raise errors.DataError(
      f'images: expected [H, W, 3], found {list(image.shape)}'
    )
  if image.dtype == np.uint8:
    return image.astype(np.float32) / 255
  # Not np.issubdtype: bfloat16, which JAX users have, is not a numpy float.
  if not np.can_cast(image.dtype, np.float64) or image.dtype.kind in 'biu':
    raise errors.DataError(
      f'images: expected uint8 or floats in [0, 1], found {image.dtype}'
    )
  lowest, highest = float(image.min()), float(image.max())
  if not (lowest >= 0 and highest <= 1):  # NaN fails too
    raise errors.DataError(
      f'images: expected floats in [0, 1], found [{lowest:.9g},'
      f' {highest:.9g}]; divide by 255, undo a normalisation, or clip'
    )
  return image.astype(np.float32)


class Taps(NamedTuple):
  """The four pixels of a line that each new pixel combines.

  Attributes:
    indices: uint64 [n, 4], inside the line.
    weights: float32 [n, 4]: rows sum to 1; a pixel beyond the line has 0.
    starts: uint64 [n], index of the first of the four in a line with `_MARGIN`
      more pixels before it.
  """

  indices: np.ndarray
  weights: np.ndarray
  starts: np.ndarray

  def part(self, start: int, count: int) -> 'Taps':
    """Returns the new pixels [start, start + count)."""
    return Taps(*(array[start : start + count] for array in self))

  def reversed(self) -> 'Taps':
    """Returns the new pixels in reverse order: a flip."""
    return Taps(*(np.ascontiguousarray(array[::-1]) for array in self))


class ResampleWindow(NamedTuple):
  """A window of an image, and the taps that resize it."""

  window: tuple[int, int, int, int]  # y, x, height, width, in pixels
  rows: Taps
  columns: Taps


def _evaluate_cubic(distance: np.ndarray) -> np.ndarray:
  """Returns Keys' kernel at distances in [0, 2] pixels."""
  x = np.asarray(distance, np.float64)
  near = (1.5 * x - 2.5) * x * x + 1
  far = ((-0.5 * x + 2.5) * x - 4) * x + 2
  return np.where(x <= 1, near, far)


@functools.lru_cache(maxsize=4096)  # 10 KB each; the sides of windows recur
def compute_taps(size: int, new_size: int) -> Taps:
  """Returns the taps that resize a line of `size` pixels to `new_size`."""
  # In float32 as in TensorFlow: the nearest entry of the table can depend on
  # it.
  half = np.float32(0.5)
  scale = np.float32(size) / np.float32(new_size)
  centres = (np.arange(new_size, dtype=np.float32) + half) * scale - half
  first = np.floor(centres).astype(np.int64)
  part = np.rint((centres - np.floor(centres)) * np.float32(_TABLE_SIZE))
  part /= _TABLE_SIZE
  offsets = np.arange(-1, 3)
  weights = _evaluate_cubic(np.abs(part[:, None] - offsets))
  indices = first[:, None] + offsets
  weights = np.where((indices >= 0) & (indices < size), weights, 0.0)
  weights /= weights.sum(axis=1, keepdims=True)
  starts = indices[:, 0] + _MARGIN
  indices = np.clip(indices, 0, size - 1)
  return Taps(
    indices.astype(np.uint64),
    weights.astype(np.float32),
    starts.astype(np.uint64),
  )


def make_square_window(
  window: tuple[int, int, int, int], new_size: int
) -> ResampleWindow:
  """Returns a window (y, x, h, w) resized to [new_size, new_size]."""
  _, _, height, width = window
  return ResampleWindow(
    window, compute_taps(height, new_size), compute_taps(width, new_size)
  )


def resample(
  image: np.ndarray, window: ResampleWindow, out: np.ndarray
) -> None:
  """Resizes a window of an image, clips to [0, 1] and writes it to `out`.

  Args:
    image: [H, W, 3], uint8, or float32 in [0, 1].
    window: from `make_square_window` or `make_evaluation_window`.
    out: [h, w, 3], float32 in [0, 1], or uint8: 255 times that, rounded.
  """
  # Numba takes 0.2 s to import; a thread does it while a run compiles.
  from byol_jax.data.sampling import resize_loops

  height, width, _ = image.shape
  pixels = np.ascontiguousarray(image).reshape(height, 3 * width)
  unit = np.float32(255 if image.dtype == np.uint8 else 1)
  flat = out.reshape(len(out), -1)
  floats = flat if out.dtype == np.float32 else np.empty_like(flat, np.float32)
  _, rows, columns = window
  resize_loops.resize_window(
    *(pixels, window.window, rows.indices, rows.weights),
    *(columns.starts, columns.weights, _MARGIN, unit, floats),
  )
  if floats is not flat:
    resize_loops.convert_to_bytes(floats, flat)


def make_evaluation_window(
  height: int, width: int, size: int, method: str
) -> ResampleWindow:
  """Returns the window of an image for evaluation; method.md 5.1 and 3.2.

  Args:
    height, width: of the image.
    size: of the result, pixels.
    method: 'resize' (shorter side to size * 256 / 224, centre crop; paper),
      'crop' (centre square of 0.875 of the shorter side, then resized;
      official code) or 'whole' (shorter side to size, centre crop).
  """
  shorter = min(height, width)
  if method == 'crop':
    side = max(1, int(0.875 * shorter))
    return make_square_window((*_centre(height, width, side), side, side), size)
  target = round(size * 256 / 224) if method == 'resize' else size
  # Resizing 1 x 500 pixels to 256 rows would take 128,000 columns. The margin
  # is more than the two pixels that bicubic reads beyond the window.
  longest = max(_ELONGATED * shorter, shorter + 8)
  top, left = (max(side - longest, 0) // 2 for side in (height, width))
  height, width = height - 2 * top, width - 2 * left
  down, along = (round(side * (target / shorter)) for side in (height, width))
  y, x = _centre(down, along, size)
  return ResampleWindow(
    (top, left, height, width),
    compute_taps(height, down).part(y, size),
    compute_taps(width, along).part(x, size),
  )


def _centre(height: int, width: int, size: int) -> tuple[int, int]:
  """Top and left of the centre; more of an odd margin is cut before it."""
  return (height - size + 1) // 2, (width - size + 1) // 2


def crop_for_evaluation(
  image: np.ndarray, size: int, method: str
) -> np.ndarray:
  """Returns the crop for evaluation, float32 [size, size, 3] in [0, 1].

  image: [H, W, 3], uint8, or float32 in [0, 1]. See `make_evaluation_window`.
  """
  out = np.empty((size, size, 3), np.float32)
  height, width, _ = image.shape
  resample(image, make_evaluation_window(height, width, size, method), out)
  return out
