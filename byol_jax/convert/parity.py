"""Compares an exported encoder with ours on the same images."""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from byol_jax import networks

Encode = Callable[[np.ndarray], np.ndarray]
Size = tuple[int, int]  # height, width

# Even and odd: SAME padding depends on it. Not all of them square.
SIZES: tuple[Size, ...] = (
  *((224, 224), (225, 225), (192, 192), (64, 64), (160, 224)),
)  # fmt: skip
# The order of sums alone gives errors near 1e-6.
TOLERANCE = 1e-5
_NUM_IMAGES = 2


def compare_encoders(
  ours: Encode, foreign: Encode, sizes: Sequence[Size] = SIZES
) -> dict[Size, float]:
  """Returns the relative error at each size, max|a - b| / max|b|.

  `ours` gets images float32 [B, H, W, 3] in [0, 1], `foreign` the same
  normalised; both return [B, D]. The error is infinity where a result is not
  finite, has another shape, or is all zeros, which any network could give.
  """
  return {
    size: _compute_error(ours(images), foreign(normalize_images(images)))
    for size in sizes
    for images in [make_images(size)]
  }


def holds(found: Mapping[Size, float]) -> bool:
  """Returns whether every error is at most `TOLERANCE`."""
  return all(error <= TOLERANCE for error in found.values())


def make_ours(
  forward: networks.Forward, params: networks.Params, state: networks.NetState
) -> Encode:
  """Returns our own encoder for `compare_encoders`."""
  represent = jax.jit(
    lambda params, state, images: networks.represent(
      forward, params, state, images
    )
  )
  frozen = jax.device_put((params, state))
  return lambda images: np.asarray(represent(*frozen, images), np.float32)


def make_images(size: Size) -> np.ndarray:
  """Returns images, float32 [2, H, W, 3] in [0, 1], equal in every call.

  They have large patches and noise; no two channels are alike.
  """
  generator = np.random.default_rng(0)
  patches = generator.random((_NUM_IMAGES, 8, 8, 3))
  rows, columns = (np.arange(side) * 8 // side for side in size)
  noise = generator.random((_NUM_IMAGES, *size, 3))
  images = 0.7 * patches[:, rows][:, :, columns] + 0.3 * noise
  return images.astype(np.float32)


def normalize_images(images: np.ndarray) -> np.ndarray:
  """Returns images of [0, 1] as exported encoders take them, float32."""
  mean, deviation = (
    np.array(x, np.float32) for x in (networks.MEAN_RGB, networks.STD_RGB)
  )
  return (images - mean) / deviation


def _compute_error(ours: np.ndarray, foreign: np.ndarray) -> float:
  if ours.shape != foreign.shape:
    return np.inf
  both = np.stack([ours, foreign]).astype(np.float64)
  largest = np.abs(both[1]).max()
  if not np.isfinite(both).all() or largest == 0:
    return np.inf
  return float(np.abs(both[0] - both[1]).max() / largest)
