"""The images of a folder, or of a tar file as a folder.

Every file with the extension of an image is a record, whatever it holds: what
cannot be read or decoded is seen, counted and replaced when it is read.
"""

from collections.abc import Sequence
import hashlib

import numpy as np

from byol_jax.data.sources import layouts


class FolderSource:
  """The images of one split of a folder, sorted by path.

  Args:
    layout: from `layouts.scan`.
    split: a key of layout.splits.
  """

  def __init__(self, layout: layouts.Layout, split: str) -> None:
    self._files = layout.files
    self._names = layout.splits[split]
    self.name = layout.files.root.name
    self.class_names = layout.class_names
    self.num_classes = len(layout.class_names) if layout.class_names else None
    self._labels = _labels(self._names, layout)
    self.fingerprint = self._digest()

  def _digest(self) -> str:
    """Covers names, sizes and labels, not the pixels."""
    digest = hashlib.sha256(repr(self.class_names).encode(errors='replace'))
    for name, label in zip(self._names, self._labels):
      size = self._files.size(name)
      digest.update(f'{name}\n{size} {label}\n'.encode(errors='replace'))
    return digest.hexdigest()

  def __len__(self) -> int:
    return len(self._names)

  def read(self, index: int) -> tuple[bytes, int]:
    """Encoded image and label, -1 if there is none."""
    return self._files.read(self._names[index]), int(self._labels[index])

  def file_name(self, index: int) -> str:
    """The path below the folder."""
    return self._names[index]


def _labels(files: Sequence[str], layout: layouts.Layout) -> np.ndarray:
  """Classes of files, int32 [N], -1 for none."""
  number = {name: i for i, name in enumerate(layout.class_names or ())}
  labels = np.full(len(files), -1, np.int32)
  for i, file in enumerate(files):
    top = file.partition('/')[0]
    base = f'{top}/' if top in layout.split_folders else ''
    labels[i] = number.get(layouts.class_of(file, base) or '', -1)
  return labels
