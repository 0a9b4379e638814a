"""Images that a caller has in memory or names one by one, as model input."""

from collections.abc import Iterable, Mapping, Sequence
import os
from typing import Any

import numpy as np
from PIL import Image

from byol_jax import errors, files
from byol_jax.data.loading import decode
from byol_jax.data.sampling import resize
from byol_jax.data.sources import base

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
    pixels = resize.convert_image(_to_array(image, options))
    crop[:] = resize.crop_for_evaluation(pixels, image_size, eval_crop)
  return crops


class ListedImages(base.Source):
  """What `list_images` takes, as a source without labels.

  Args:
    images: see `crop_images`.
    options: how a path or an image of Pillow becomes pixels.
  """

  name, fingerprint = 'images', ''
  num_classes = class_names = labels = None

  def __init__(self, images: Any, options: decode.PixelOptions) -> None:
    self._images, self._options = list_images(images), options

  def __len__(self) -> int:
    return len(self._images)

  def read(self, index: int) -> tuple[np.ndarray, int]:
    """Returns [H, W, 3], uint8 or float32 in [0, 1], and -1."""
    pixels = _to_array(self._images[index], self._options)
    is_exact = pixels.dtype == np.uint8 and pixels.ndim == 3
    return pixels if is_exact else resize.convert_image(pixels), -1

  def file_name(self, index: int) -> str:
    """Returns the path, or the number of an image without one."""
    image = self._images[index]
    is_path = isinstance(image, str | os.PathLike)
    return os.fspath(image) if is_path else f'{index:08d}'


def _to_array(image: Any, options: decode.PixelOptions) -> np.ndarray:
  """Returns an image that may be a path, of Pillow, or an array.

  Raises:
    DataError: it is none of these, or cannot be read or decoded.
  """
  if isinstance(image, str | os.PathLike):
    return read_image(image, options)
  if isinstance(image, Image.Image):  # which may be read only now
    what = f'images: {errors.quote(image)} cannot be decoded'
    with errors.as_data_error(what):
      return decode.flatten_image(image, options)
  return _require_array(image)


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
