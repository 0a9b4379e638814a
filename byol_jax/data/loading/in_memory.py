"""Images that a caller has in memory or names one by one, as model input."""

from collections.abc import Iterable, Mapping, Sequence
import os
from typing import Any

import numpy as np
from PIL import Image

from byol_jax import errors, files
from byol_jax.data.loading import decode
from byol_jax.data.sampling import resize

_EXPECTED = (
  'images: expected [H, W, 3], [B, H, W, 3], paths or images of Pillow'
)


def list_images(images: Any) -> Sequence[Any]:
  """Returns one image, a batch [B, H, W, 3] or several images as a sequence.

  Several are a list, a generator, an array or a column of paths ...

  Raises:
    DataError: no image, or an array of another shape.
  """
  if isinstance(images, str | os.PathLike | Image.Image):
    return [images]
  if isinstance(images, Iterable) and not (
    isinstance(images, bytes | Mapping) or hasattr(images, '__array__')
  ):
    images = images if isinstance(images, list | tuple) else list(images)
  else:
    images = _require_array(images)
    if images.ndim == 1 and images.dtype.kind in 'OU':
      images = images.tolist()
    elif images.ndim not in (3, 4):
      raise errors.DataError(f'{_EXPECTED}, found {list(images.shape)}')
    elif images.ndim == 3:
      images = images[None]
  if not len(images):
    raise errors.DataError('images: expected at least one, found none')
  return images


def _require_array(image: Any) -> np.ndarray:
  """Returns an array; DataError of what is one number, or no array at all."""
  array = np.asarray(image)
  if not array.ndim:
    raise errors.DataError(f'{_EXPECTED}, found a {type(image).__name__}')
  return array


def crop_images(
  images: Sequence[Any],
  image_size: int,
  eval_crop: str,
  options: decode.PixelOptions = decode.AS_FILES,
) -> np.ndarray:
  """Returns evaluation crops, float32 [B, image_size, image_size, 3] in [0, 1].

  Args:
    images: each a path, an image of Pillow, or [H, W, 3], uint8 in [0, 255] or
      floats in [0, 1].
    image_size: of the crops, pixels.
    eval_crop: see `resize.make_evaluation_window`.
    options: how a path or an image of Pillow becomes pixels.

  Raises:
    DataError: something is no image, or cannot be read.
  """
  crops = np.empty((len(images), image_size, image_size, 3), np.float32)
  for crop, image in zip(crops, images, strict=True):
    if isinstance(image, str | os.PathLike):
      image = read_image(image, options)
    elif isinstance(image, Image.Image):
      image = _flatten_image(image, options)
    pixels = resize.convert_image(_require_array(image))
    crop[:] = resize.crop_for_evaluation(pixels, image_size, eval_crop)
  return crops


def _flatten_image(
  image: Image.Image, options: decode.PixelOptions
) -> np.ndarray:
  """Returns uint8 [H, W, 3] of an image of Pillow, which may be read only now.

  Raises:
    DataError: it cannot be read or decoded.
  """
  what = f'images: {errors.quote(image)} cannot be decoded'
  with errors.as_data_error(what):
    return decode.flatten_image(image, options)


def read_image(
  path: str | os.PathLike, options: decode.PixelOptions = decode.AS_FILES
) -> np.ndarray:
  """Returns the image in a file, uint8 [H, W, 3].

  Raises:
    DataError: it cannot be read or decoded.
  """
  data = files.read_file(files.expand_home(path))
  try:
    return decode.decode_rgb(data, options)
  except decode.Unusable as error:
    raise errors.DataError(f'{errors.quote(path)}: {error}') from error
