"""The evaluation crop in numpy, for images that are already in memory.

The same geometry and the same kernel as `data/preprocess.py` makes with
TensorFlow: Keys' bicubic (a = -0.5), half-pixel centres, no antialiasing, its
coefficients from a table of 1,024 places between two pixels. Nothing here is
compiled, so every image may have another size.
"""

import numpy as np

from byol_jax import errors

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


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Bicubic, float32 [H, W, C] -> [height, width, C]; it overshoots."""
  for axis, new_size in ((1, width), (0, height)):
    indices, weights = taps(image.shape[axis], new_size)
    shape = [1, 1, 1]
    shape[axis] = new_size
    image = sum(
      np.take(image, indices[:, i], axis) * weights[:, i].reshape(shape)
      for i in range(4)
    )
  return image


def evaluation_crop(image: np.ndarray, size: int, method: str) -> np.ndarray:
  """The centre of an image, [H, W, 3] in [0, 1] -> [size, size, 3] likewise.

  Args:
    image: float32, any height and width.
    size: of the network's images, in pixels.
    method: 'resize' (shorter side to size * 256 / 224, centre crop; paper),
      'crop' (centre square of 0.875 of the shorter side, then resized;
      official code) or 'whole' (shorter side to size, centre crop).
  """
  shorter = min(image.shape[:2])
  if method == 'crop':
    square = centre(image, max(1, int(0.875 * shorter)))
    return np.clip(resize(square, size, size), 0, 1)
  target = round(size * 256 / 224) if method == 'resize' else size
  image = middle(image)
  height, width = (round(side * (target / shorter)) for side in image.shape[:2])
  return np.clip(centre(resize(image, height, width), size), 0, 1)


def middle(image: np.ndarray) -> np.ndarray:
  """The image; of a very elongated one no more than the crop sees."""
  shorter = min(image.shape[:2])
  # The margin is more than the two pixels that bicubic looks beyond.
  most = max(_ELONGATED * shorter, shorter + 8)
  y, x = (max(side - most, 0) // 2 for side in image.shape[:2])
  return image[y : image.shape[0] - y, x : image.shape[1] - x]


def centre(image: np.ndarray, size: int) -> np.ndarray:
  """The central square; of an odd remainder more is cut before than after."""
  y, x = ((side - size + 1) // 2 for side in image.shape[:2])
  return image[y : y + size, x : x + size]
