"""A frozen encoder as a function of images that are already in memory."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import numpy as np

from byol_jax import errors, networks
from byol_jax.data.sampling import resize
from byol_jax.evals import features

AT_ONCE = 64  # images on the device


def make_encode(
  encoder: features.Encoder, *, image_size: int, eval_crop: str
) -> Callable[[Any], np.ndarray]:
  """Crop, network, representation; see `api.load_encoder`."""
  represent = jax.jit(functools.partial(networks.represent, encoder.forward))
  # Arguments, not constants of the program.
  frozen = jax.device_put((encoder.params, encoder.state))

  def forward(images: Sequence[Any]) -> np.ndarray:
    count = len(images)
    # A few sizes of batches, so few programs: zeros up to a power of two.
    padded = 1 << (count - 1).bit_length()
    crops = np.zeros((padded, image_size, image_size, 3), np.float32)
    for i, image in enumerate(images):
      pixels = resize.to_float(image)
      crops[i] = resize.evaluation_crop(pixels, image_size, eval_crop)
    return np.asarray(represent(*frozen, crops), np.float32)[:count]

  def encode(images: Any) -> np.ndarray:
    images = several(images)
    starts = range(0, len(images), AT_ONCE)
    return np.concatenate([forward(images[i : i + AT_ONCE]) for i in starts])

  return encode


def several(images: Any) -> Sequence[Any]:
  """One [H, W, 3], [B, H, W, 3] or a list of [H, W, 3] as a sequence.

  Raises:
    DataError: none, or an array of another shape.
  """
  if not isinstance(images, list | tuple):
    images = np.asarray(images)
    if images.ndim not in (3, 4):
      raise errors.DataError(
        'images: expected [H, W, 3], [B, H, W, 3] or a list, found'
        f' {list(images.shape)}'
      )
    images = images[None] if images.ndim == 3 else images
  if not len(images):
    raise errors.DataError('images: expected at least one, found none')
  return images
