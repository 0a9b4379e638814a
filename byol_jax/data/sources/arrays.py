"""Serves images from arrays in memory, or from an .npz file.

The file holds `images`, uint8 [N, H, W, 3], `labels`, int [N] from 0, if there
are any, and `test_images` and `test_labels` if there is a test set.
"""

from collections.abc import Sequence
import hashlib
import pathlib
import zipfile

import numpy as np

from byol_jax import errors


class ArraySource:
  """Images held in memory, uint8 [N, H, W, 3], labels [N] or None."""

  def __init__(
    self,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    name: str = 'arrays',
    class_names: Sequence[str] | None = None,
  ) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
      raise errors.DataError(
        f'{name}: expected images uint8 [N, H, W, 3], found {images.dtype}'
        f' {list(images.shape)}'
      )
    if labels is not None and len(labels) != len(images):
      raise errors.DataError(
        f'{name}: {len(labels)} labels for {len(images)} images'
      )
    if not len(images):
      raise errors.DataError(f'{name}: no images')
    self._images = images
    self._labels = None if labels is None else np.asarray(labels, np.int64)
    self.name = name
    self.class_names = None if class_names is None else tuple(class_names)
    self.num_classes = None
    if self._labels is not None:
      self.num_classes = len(self.class_names or ()) or int(
        self._labels.max() + 1
      )
    digest = hashlib.sha256(f'{images.shape}'.encode())
    digest.update(np.ascontiguousarray(images).data)
    if self._labels is not None:
      digest.update(self._labels.tobytes())
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._images)

  def read(self, index: int) -> tuple[np.ndarray, int]:
    """Returns pixels, uint8 [H, W, 3], and the label, -1 if there is none."""
    label = -1 if self._labels is None else int(self._labels[index])
    return self._images[index], label

  def file_name(self, index: int) -> str:
    """Returns a name for reports; no such file exists."""
    return f'{self.name}/{index:08d}'


def read_npz(path: pathlib.Path) -> dict[str, ArraySource]:
  """Returns 'train', and 'test' if the file has it.

  Raises:
    DataError: no .npz file, or an array is missing or of another type.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      found = dict(file)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise errors.DataError(
      f'{path}: no readable .npz file: {errors.first_line(error)}'
    ) from error
  sources = {}
  for split, prefix in (('train', ''), ('test', 'test_')):
    if f'{prefix}images' in found:
      name = f'{path.stem} ({split})'
      images, labels = found[f'{prefix}images'], found.get(f'{prefix}labels')
      sources[split] = ArraySource(images, labels, name=name)
  if 'train' not in sources:
    raise errors.DataError(
      f'{path}: expected the array images, uint8 [N, H, W, 3], found'
      f' {sorted(found)}'
    )
  return sources
