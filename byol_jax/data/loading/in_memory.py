"""Images that a caller has in memory or names one by one, as model input."""

from collections.abc import Sequence
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from byol_jax import errors, files
from byol_jax.data.loading import decode
from byol_jax.data.sampling import resize

BACKGROUND = (255, 255, 255)  # white, below transparent pixels


def list_images(images: Any) -> Sequence[Any]:
  """Returns one image, a batch [B, H, W, 3] or a list of images as a sequence.

  Raises:
    DataError: no image, or an array of another shape.
  """
  if isinstance(images, str | os.PathLike | Image.Image):
    return [images]
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


def crop_images(
  images: Sequence[Any], image_size: int, eval_crop: str
) -> np.ndarray:
  """Returns evaluation crops, float32 [B, image_size, image_size, 3] in [0, 1].

  Args:
    images: each a path, an image of Pillow, or [H, W, 3], uint8 in [0, 255] or
      floats in [0, 1].
    image_size: of the crops, pixels.
    eval_crop: see `resize.make_evaluation_window`.

  Raises:
    DataError: something is no image, or cannot be read.
  """
  crops = np.empty((len(images), image_size, image_size, 3), np.float32)
  for crop, image in zip(crops, images, strict=True):
    if isinstance(image, str | os.PathLike):
      image = read_image(image)
    elif isinstance(image, Image.Image):
      image = decode.flatten_image(image, BACKGROUND)
    pixels = resize.convert_image(image)
    crop[:] = resize.crop_for_evaluation(pixels, image_size, eval_crop)
  return crops


def read_image(path: str | os.PathLike) -> np.ndarray:
  """Returns the image in a file, uint8 [H, W, 3], alpha over `BACKGROUND`.

  Raises:
    DataError: it cannot be read or decoded.
  """
  data = files.read_file(pathlib.Path(path).expanduser())
  try:
    return decode.decode_rgb(data, BACKGROUND)
  except decode.Unusable as error:
    raise errors.DataError(f'{errors.quote(path)}: {error}') from error
