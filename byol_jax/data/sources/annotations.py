"""What is known of the images of a set before one of them is read.

Readers of folders, tables, shards and parquet files make `Annotations`; from
them `layouts` makes classes and splits, by the same rules for all.
"""

from collections.abc import Iterable, Mapping
import pathlib
import re
from typing import NamedTuple, Protocol

from byol_jax import errors
from byol_jax.data.sources import folder_names

EXTENSIONS = (
  *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.bmp', '.gif'),
  *('.tif', '.tiff', '.avif', '.heic', '.heif'),
)


class Files(Protocol):
  """Files that any thread may read, by posix path below `root`."""

  root: pathlib.Path

  @property
  def names(self) -> Iterable[str]: ...

  def size(self, name: str) -> int: ...

  def read(self, name: str) -> bytes: ...


class Annotations(NamedTuple):
  """What is known of images, by name.

  Attributes:
    classes: of each image, '' without one.
    splits: 'train', one of `tests`, or '' for an image in no split; an image
      that is missing here is in 'train'.
    no_classes: why there are none, if there are none.
    left_out: what is not read, and how many of it.
    class_names: all classes in their order; None: those of the training
      images, if these have several.
    tests: the test sets, for choosing rates before the one for the end.
    prefix: '', or the one folder around the set with its slash; names are
      below it.
  """

  classes: Mapping[str, str]
  splits: Mapping[str, str]
  no_classes: str
  left_out: Mapping[str, int] = {}
  class_names: tuple[str, ...] | None = None
  tests: tuple[str, ...] = ('valid', 'test')
  prefix: str = ''

  def drop_classes(self, why: str) -> 'Annotations':
    """Returns the same images without classes."""
    classes = dict.fromkeys(self.classes, '')
    return self._replace(classes=classes, class_names=None, no_classes=why)


def is_image(name: str) -> bool:
  """Returns whether a path is that of an image, and not hidden."""
  hidden = name.startswith('.') or '/.' in name
  return not hidden and name.lower().endswith(EXTENSIONS)


def read_split(name: str) -> str | None:
  """Returns 'train', 'valid' or 'test' of a name of a split, or None."""
  kind = folder_names.get_kind(name.strip())
  return 'test' if kind == 'eval' else kind


def find_split(path: str) -> str:
  """Returns the split of a file like 'val/000.tar' or 'imagenet-val-000.tar'.

  'train' if no word of its path below the set is the name of one.
  """
  words = map(read_split, re.split(r'[-_./]', path))
  return next(filter(None, words), 'train')


def read_class(value: object, where: str) -> str:
  """Returns the name of a class, '' of an image without one.

  Args:
    value: text or a number; None, -1 and white space are no class.
    where: for messages.

  Raises:
    DataError: it is something else.
  """
  if value is None:
    return ''
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  is_class = isinstance(value, str | int) and not isinstance(value, bool)
  text = str(value).strip()
  if not is_class or '\0' in text or len(text) > 1000:
    raise errors.DataError(
      f'{where}: expected a number or a name as label, one class an image,'
      f' found {errors.quote(value)}; give the set without labels by'
      ' data.labels=none'
    )
  return '' if text == '-1' else text
