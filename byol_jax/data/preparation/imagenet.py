"""ImageNet as it is downloaded: two tars, with the labels that TFDS ships.

ILSVRC2012_img_train.tar   a tar for each class, named after its WordNet id
ILSVRC2012_img_val.tar     ILSVRC2012_val_00000001.JPEG and so on, unlabelled
"""

from collections.abc import Sequence
import hashlib
from importlib import resources
import logging
import pathlib
import re

import numpy as np

from byol_jax import errors
from byol_jax.data import catalog
from byol_jax.data.sources import archives, base, image_folder

NAME = 'imagenet2012'
TARS = {
  'train': 'ILSVRC2012_img_train.tar',
  'test': 'ILSVRC2012_img_val.tar',  # TFDS's validation, read once at the end
}
_VALIDATION = re.compile(r'(?:.*/)?ILSVRC2012_val_(\d{8})\.JPEG')
_LOG = logging.getLogger(__name__)


class TarSource:
  """Images of a tar; labels int [N], file names without their folders."""

  def __init__(
    self,
    archive: archives.Archive,
    names: Sequence[str],
    labels: Sequence[int],
    class_names: Sequence[str],
  ) -> None:
    self._archive, self._names, self._labels = archive, names, labels
    self.name = NAME
    self.class_names: tuple[str, ...] | None = tuple(class_names)
    self.num_classes: int | None = len(class_names)
    digest = hashlib.sha256()
    for name, label in zip(names, labels):
      digest.update(f'{name}\n{archive.size(name)} {label}\n'.encode())
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._names)

  def read(self, index: int) -> tuple[bytes | np.ndarray, int]:
    """Encoded image and label."""
    return self._archive.read(self._names[index]), self._labels[index]

  def file_name(self, index: int) -> str:
    """As TFDS names ImageNet's images: n01440764_10026.JPEG."""
    return self._names[index].rpartition('/')[2]


def is_one(folder: pathlib.Path) -> bool:
  """Whether a folder holds at least one of the tars."""
  return any((folder / name).is_file() for name in TARS.values())


def splits(folder: pathlib.Path) -> dict[str, base.Source]:
  """What the tars in a folder hold, as 'train' and 'test'.

  Raises:
    DataError: a tar is cut, or holds something else.
  """
  facts = catalog.find_facts(NAME)
  assert facts
  expected = {'train': facts.num_train, 'test': facts.num_test}
  found: dict[str, base.Source] = {}
  for split, label in (('train', _train_labels), ('test', _test_labels)):
    path = folder / TARS[split]
    if not path.is_file():
      _LOG.warning('%s: not found; the set will have no such split', path)
      continue
    archive = archives.Archive(path)
    names = [
      n for n in archive.names if n.lower().endswith(image_folder.EXTENSIONS)
    ]
    if len(names) != expected[split]:
      _LOG.warning(
        '%s: %s images, ImageNet has %s: the hold-outs will not be the'
        ' official ones',
        path,
        f'{len(names):,}',
        f'{expected[split]:,}',
      )
    if not names:
      raise errors.DataError(f'{path}: no images')
    labels = label(path, names)
    found[split] = TarSource(archive, names, labels, class_names())
  return found


def class_names() -> tuple[str, ...]:
  """The WordNet ids, sorted: class i is the i-th."""
  return _shipped('labels.txt')


def _shipped(name: str) -> tuple[str, ...]:
  """Lines of a file in TFDS's package, read without importing it."""
  package = resources.files('tensorflow_datasets')
  path = package / 'datasets' / NAME / name
  return tuple(path.read_text().split())


def _train_labels(path: pathlib.Path, names: Sequence[str]) -> list[int]:
  number = {name: i for i, name in enumerate(class_names())}
  labels = [number.get(name.partition('/')[0], -1) for name in names]
  if -1 in labels:
    raise errors.DataError(
      f'{path}: {names[labels.index(-1)]} is in no class of ImageNet; expected'
      ' a tar of tars, n01440764.tar and so on'
    )
  return labels


def _test_labels(path: pathlib.Path, names: Sequence[str]) -> list[int]:
  """By the number in the name; TFDS lists labels in the order of names."""
  number = {name: i for i, name in enumerate(class_names())}
  truth = _shipped('validation_labels.txt')
  labels = []
  for name in names:
    match = _VALIDATION.fullmatch(name)
    if not match or not 1 <= int(match[1]) <= len(truth):
      raise errors.DataError(
        f'{path}: {name} is no image of the validation set; expected'
        ' ILSVRC2012_val_00000001.JPEG and so on'
      )
    labels.append(number[truth[int(match[1]) - 1]])
  return labels
