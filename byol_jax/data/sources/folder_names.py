"""Tells splits, folds and modalities from classes by the names of folders.

Case does not matter. A folder is never taken for a class silently if its name
is usual for something else: `data.labels=folders` permits that.
"""

from collections.abc import Collection, Iterable
import re
from typing import NamedTuple

from byol_jax import errors

_SPLIT_NAMES = {
  'train': 'train(ing)?',
  'valid': 'val(id(ation)?)?|dev',
  'eval': 'eval(uation)?',
  'test': 'test(ing)?',
}
# 'train2017', 'val_images', 'TestSet'
_ENDING = r'[-_ ]?(sets?|data|images|\d{4})?'
_SPLITS = {
  kind: re.compile(f'({names}){_ENDING}')
  for kind, names in _SPLIT_NAMES.items()
}
# 'fold_0', 'part 2', 'trainA', 'seg_test'
_PART = re.compile(
  rf'(.*[-_ ])?({"|".join(_SPLIT_NAMES.values())}|folds?|split|part|batch'
  r'|shard|chunk|cv)[-_ ]?(\d+|[a-d])?'
  rf'{_ENDING}'
)
_MODALITY = re.compile(
  r'masks?|labels?|annotations?|seg|segmentations?(class|object)?|gt'
  r'|ground_?truths?|depths?|normals?|edges?|trimaps?|mattes?|alphas?'
)
_PICTURES = re.compile(
  r'(jpeg|rgb|color|input|raw|original)?[-_ ]?(images?|imgs?|photos?|pictures?)'
  r'|inputs?|rgb|originals?'
)


class Splits(NamedTuple):
  """The folders that are splits, None or () where there is none."""

  train: str | None = None
  tests: tuple[str, ...] = ()  # a validation folder before a test folder

  @property
  def folders(self) -> tuple[str, ...]:
    """All of them."""
    return (self.train, *self.tests) if self.train else ()


def find_splits(root: str, images: Collection[str], labels: str) -> Splits:
  """Returns which folders of a set are its splits.

  A folder `train` among others that are no splits is a class, the vehicle,
  unless it has class folders itself.

  Args:
    root: of the set, for messages.
    images: paths below it.
    labels: 'auto', 'folders' or 'none'.

  Raises:
    DataError: two folders for one split, or a test split alone.
  """
  kinds: dict[str, list[str]] = {kind: [] for kind in _SPLITS}
  tops = {image.partition('/')[0] for image in images if '/' in image}
  for top in sorted(tops):
    if kind := get_kind(top):
      kinds[kind].append(top)
  trains = kinds.pop('train')
  tests = [top for found in kinds.values() for top in found]
  if not trains:
    if tests and labels == 'auto':
      raise errors.DataError(
        f'{root}: expected train/ beside {_show(tests)}, found none; give the'
        f' folder {_join(root, tests[0])}, or take all images with'
        f' data.labels=none; data.labels=folders takes {_show(tests)} for a'
        ' class'
      )
    return Splits()
  if not tests and tops != {*trains}:
    starts = tuple(f'{train}/' for train in trains)
    if not any(x.startswith(starts) and x.count('/') > 1 for x in images):
      return Splits()
  if len(trains) > 1 or len(tests) > 2 or max(map(len, kinds.values())) > 1:
    raise errors.DataError(
      f'{root}: expected one folder for training, and at most one for'
      f' validation and one for test, found {_show([*trains, *tests])}; rename'
      f' or move the others, or give the folder {_join(root, trains[0])}'
    )
  return Splits(trains[0], tuple(tests))


def refuse_lookalikes(
  root: str, folders: Collection[str], images: Iterable[str], labels: str
) -> None:
  """Refuses folders that would become classes but look like something else.

  Args:
    root: the folder around them.
    folders: their names, sorted.
    images: paths of the images below `root`.
    labels: 'auto' or 'none', which permits all but masks.

  Raises:
    DataError: at least half of the folders are called like parts of a set; or
      each has a `train`; or one is called like a mask, beside a folder called
      like pictures, or beside one or two others with the same names of files.
  """
  masks = [name for name in folders if _MODALITY.fullmatch(name.casefold())]
  inner: dict[str, set[str]] = {name: set() for name in folders}
  stems: dict[str, set[str]] = {name: set() for name in folders}
  for image in images:
    top, _, rest = image.partition('/')
    if top in stems:
      inner[top].add(rest.partition('/')[0])
      if masks:
        stems[top].add(_get_stem(rest))
  for mask in masks:
    for name in folders:
      shared = len(stems[mask] & stems[name]) / len(stems[mask])
      is_pair = len(folders) <= 3 and shared > 0.5
      is_picture = _PICTURES.fullmatch(name.casefold())
      if name in masks or not (is_pair or is_picture):
        continue
      raise errors.DataError(
        f'{root}: {_show((name, mask))} look like pictures and what belongs to'
        f' them, not like classes; give the folder {_join(root, name)};'
        ' data.labels=folders takes them for classes'
      )
  if labels != 'auto':
    return
  parts = [name for name in folders if _PART.fullmatch(name.casefold())]
  if 2 * len(parts) < len(folders):
    parts = []
  if all('train' in map(get_kind, names) for names in inner.values()):
    parts = [*folders]
  if len(parts) > 1:
    names = ','.join(_join(root, name) for name in parts[:2])
    raise errors.DataError(
      f'{root}: {_show(parts)} look like parts of a set or sets, not like'
      f' classes; give those to use, {names}, or all images by'
      ' data.labels=none; data.labels=folders takes them for classes'
    )


def get_kind(name: str) -> str | None:
  """Returns 'train', 'valid', 'eval' or 'test', None of any other name."""
  folded = name.casefold()
  return next((k for k, x in _SPLITS.items() if x.fullmatch(folded)), None)


def _get_stem(path: str) -> str:
  """'a/1' of 'a/1_mask.png'."""
  stem = path.rpartition('.')[0].casefold()
  return re.sub(rf'[-_ ]({_MODALITY.pattern})$', '', stem)


def _show(names: Iterable[str]) -> str:
  names = [f'{name}/' for name in names]
  shown = [name if name.isprintable() else errors.quote(name) for name in names]
  return ', '.join(shown[:3] + ['...'] * (len(shown) > 3))


def _join(root: str, name: str) -> str:
  return f'{root.rstrip("/")}/{name}'
