"""Image sets whose labels do not come from folders.

A reader of such labels makes `Annotations`; from them the set gets classes and
splits by the same rules as a folder.
"""

from collections.abc import Iterable, Mapping
import re
from typing import NamedTuple

from byol_jax import errors
from byol_jax.data.sources import base, folder_names, image_folder

_NUMBER = re.compile(r'\d{1,9}')


class Annotations(NamedTuple):
  """What is known of images, by name.

  Attributes:
    classes: of each image, '' without one.
    splits: 'train', 'valid' or 'test'; an image without one is in 'train'.
    no_classes: why there are none, if there are none.
    left_out: what is not read, and how many of it.
    class_names: all classes in their order, None if `classes` has them.
  """

  classes: Mapping[str, str]
  splits: Mapping[str, str]
  no_classes: str
  left_out: Mapping[str, int] = {}
  class_names: tuple[str, ...] | None = None


def make_layout(
  files: image_folder.Files, found: Annotations, heldout_share: float
) -> image_folder.Layout:
  """Returns classes and splits of annotated images.

  Classes are sorted by name, or by value if all are whole numbers.

  Raises:
    DataError: a test set has a class that no image for training has.
  """
  images = sorted(found.classes)
  train = [x for x in images if found.splits.get(x, 'train') == 'train']
  if not train:  # a test set was given alone
    return make_layout(files, found._replace(splits={}), heldout_share)
  names = _sort_names({found.classes[x] for x in train} - {''})
  names = found.class_names if names and found.class_names else names
  no_classes = found.no_classes
  if len(names) == 1:
    no_classes = f'none, all labels are {errors.quote(names[0])}'
  class_names = names if len(names) > 1 else None
  tests = {
    split: [x for x in images if found.splits.get(x) == split]
    for split in ('valid', 'test')
  }
  tests = {split: members for split, members in tests.items() if members}
  unknown = {found.classes[x] for ids in tests.values() for x in ids}
  if class_names and (unknown := unknown - {'', *class_names}):
    shown = ', '.join(map(base.show_name, _sort_names(unknown)[:3]))
    raise errors.DataError(
      f'{errors.quote(files.root)}: {len(unknown)} classes of'
      f' {" and ".join(tests)} that no image for training has: {shown};'
      ' expected the same classes'
    )
  classes = dict(found.classes)
  splits = {'all': images, 'train': train}
  place = image_folder.divide(
    splits, tests, classes if class_names else None, heldout_share
  )
  left_out = {what: n for what, n in found.left_out.items() if n}
  return image_folder.Layout(
    *(files, '', class_names, classes, splits, place, no_classes, left_out)
  )


def read_split(name: str) -> str | None:
  """Returns 'train', 'valid' or 'test' of a name of a split, or None."""
  kind = folder_names.get_kind(name.strip())
  return 'test' if kind == 'eval' else kind


def find_split(path: str) -> str | None:
  """Returns the split of a file like 'val/000.tar' or 'imagenet-val-000.tar'.

  None if no word of its path below the set is the name of one.
  """
  return next(filter(None, map(read_split, re.split(r'[-_./]', path))), None)


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
  if isinstance(value, bool) or not isinstance(value, (str, int)):
    raise errors.DataError(
      f'{where}: expected a number or a name as label, one class an image,'
      f' found {errors.quote(value)}; give the set without labels by'
      ' data.labels=none'
    )
  text = str(value).strip()
  if '\0' in text or len(text) > 1000:
    raise errors.DataError(
      f'{where}: expected a number or a name as label, found'
      f' {errors.quote(text)}; give the set without labels by data.labels=none'
    )
  return '' if text == '-1' else text


def _sort_names(names: Iterable[str]) -> tuple[str, ...]:
  names = sorted(names)
  if all(map(_NUMBER.fullmatch, names)):
    names.sort(key=int)
  return tuple(names)
