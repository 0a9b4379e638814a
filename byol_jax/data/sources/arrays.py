"""Serves images from arrays in memory, or from an .npz file.

The file holds `images`, uint8 [N, H, W, 3] or grey [N, H, W], `labels`, [N]
whole numbers from 0, -1 for an image without one, if there are any, and
`test_images` and `test_labels` if there is a test set. Its classes are those of
`labels`.
"""

from collections.abc import Sequence
import hashlib
import pathlib
from typing import Any
import zipfile

import numpy as np

from byol_jax import errors, files
from byol_jax.data.sources import base

MAX_CLASSES = 1_000_000  # a classifier has a column for each


class ArraySource(base.Source):
  """Images held in memory, uint8 [N, H, W, 3], labels [N] or None.

  Grey images, [N, H, W] or [N, H, W, 1], are read with three equal channels.

  Without `class_names` and `num_classes` the highest label is the last class.
  """

  suits_threads = True

  def __init__(
    self,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    name: str = 'arrays',
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
  ) -> None:
    found = f'{images.dtype} {list(images.shape)}'
    # But [H, W, 3] is one image.
    if images.ndim == 3 and images.shape[-1] != 3:
      images = images[..., None]
    is_shaped = images.ndim == 4 and images.shape[-1] in (1, 3)
    if images.dtype != np.uint8 or not is_shaped or not images.size:
      raise errors.DataError(
        f'{name}: expected images uint8 [N, H, W, 3] or grey [N, H, W], of at'
        f' least one pixel, found {found}'
      )
    self._images = images
    self.name = name
    self.class_names = None if class_names is None else tuple(class_names)
    self.labels = None
    self.num_classes = None
    if labels is not None:
      labels = check_labels(labels, len(images), f'{name}: labels')
      highest = count_classes(labels)
      self.labels = labels if highest else None
      expected = num_classes or len(self.class_names or ()) or highest
      self.num_classes = expected if highest else None
    digest = hashlib.sha256(f'{images.shape}'.encode())
    digest.update(np.ascontiguousarray(images).data)
    if self.labels is not None:
      digest.update(self.labels.tobytes())
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._images)

  def read(self, index: int) -> tuple[np.ndarray, int]:
    """Returns pixels, uint8 [H, W, 3], and the label, -1 if there is none."""
    label = -1 if self.labels is None else int(self.labels[index])
    image = self._images[index]
    if image.shape[-1] == 1:
      image = np.repeat(image, 3, axis=-1)
    return image, label

  def file_name(self, index: int) -> str:
    """Returns a name for reports; no such file exists."""
    return f'{self.name}/{index:08d}'


def read_npz(path: pathlib.Path) -> dict[str, ArraySource]:
  """Returns 'train', and 'test' if the file has it.

  Raises:
    DataError: no .npz file, or an array is missing or of another type.
  """
  with errors.as_data_error(f'{path}: no readable .npz file'):
    if not path.is_file():
      raise ValueError(files.NOT_REGULAR)
    # Of another file numpy says that it is a pickle, and how to load that.
    if not zipfile.is_zipfile(path):
      raise ValueError('expected an archive of arrays by numpy.savez')
    with np.load(path, allow_pickle=False) as file:
      found = dict(file)
  if 'images' not in found:
    raise errors.DataError(
      f'{path}: expected the array images, uint8 [N, H, W, 3] or grey'
      f' [N, H, W], found {sorted(found)}; save it as images, and labels'
    )
  sources: dict[str, ArraySource] = {}
  num_classes = None
  for split, prefix in {'train': '', 'test': 'test_'}.items():
    images, labels = found.get(f'{prefix}images'), found.get(f'{prefix}labels')
    if images is None:
      continue
    if labels is not None:
      where = f'{path}: {prefix}labels'
      count = np.atleast_1d(images).shape[0]
      labels = check_labels(labels, count, where)
      if split == 'train':
        train_labels = labels
        num_classes = count_classes(labels)
      elif num_classes:
        check_same_classes(train_labels, labels, where)
    name = f'{path.stem} ({split})'
    sources[split] = ArraySource(
      images, labels, name=name, num_classes=num_classes
    )
  return sources


def check_labels(labels: Any, num_images: int, where: str) -> np.ndarray:
  """Returns labels as int64 [N], -1 for an image without one.

  Args:
    labels: whole numbers of any type, [N] or [N, 1], in [-1, MAX_CLASSES).
    num_images: N.
    where: the file and key, for messages.

  Raises:
    DataError: they are something else; names the first wrong value.
  """
  found = np.asarray(labels)
  if found.shape == (num_images, 1):
    found = found[:, 0]
  if found.shape != (num_images,):
    raise errors.DataError(
      f'{where}: expected a number for each of {num_images} images, [N], found'
      f' an array of shape {list(found.shape)}; give one class an image (of'
      ' one-hot rows their argmax)'
    )
  if found.dtype.kind not in 'biuf':
    example = f', as {errors.quote(found.flat[0].item())}' if found.size else ''
    raise errors.DataError(
      f'{where}: expected whole numbers, found {found.dtype}{example}; number'
      ' the classes from 0 (numpy.unique with return_inverse)'
    )
  # NaN compares False.
  fits = (found >= -1) & (found < MAX_CLASSES) & (found == np.floor(found))
  if not fits.all():
    first = int(np.argmin(fits))
    raise errors.DataError(
      f'{where}: expected whole numbers in [-1, {MAX_CLASSES:,}), found'
      f' {found[first]} at row {first}; number the classes from 0, -1 is an'
      ' image without a label'
    )
  return found.astype(np.int64)


def count_classes(labels: np.ndarray) -> int | None:
  """Returns the highest label plus one; None where no image has a label."""
  return int(labels.max(initial=-1)) + 1 or None


def check_same_classes(train: np.ndarray, test: np.ndarray, where: str) -> None:
  """Raises DataError if `test` has a class that no image of `train` has.

  Such a class cannot be recognised; `test` may lack classes of `train`.
  """
  unknown = np.setdiff1d(test[test >= 0], train)
  if len(unknown):
    raise errors.DataError(
      f'{where}: {base.show_count(len(unknown), "classes")} that no image of'
      f' the training set has: {", ".join(map(str, unknown[:3]))}; expected'
      f' classes of it, which has {count_classes(train) or 0}'
    )
