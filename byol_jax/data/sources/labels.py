"""Checks the labels of a set when it is opened: kind, shape and range.

-1 is an image without a label: it pretrains without a classifier loss, and
counts in no accuracy.
"""

from typing import Any

import numpy as np

from byol_jax import errors
from byol_jax.data.sources import base

MAX_CLASSES = 1_000_000  # a classifier has a column for each


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
  # A number that is none compares False.
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
