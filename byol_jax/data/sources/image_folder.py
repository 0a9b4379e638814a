"""Reads a folder of images, or a tar file of one: files, splits and classes.

  DATA/CLASS/**.jpg               labelled; a share is held out as test
  DATA/train/CLASS/**.jpg         labelled; DATA/val (dev, eval, test, ...)
                                  is the test set where it exists
  DATA/**.jpg, DATA/train/*.jpg   unlabelled, unless each lies in a folder

Whether an image is held out depends only on its path below DATA, so adding
files moves no other file between the splits. Hidden files are ignored. If all
of this lies in one folder, as in most tar files, that folder counts as DATA.

Every file with the extension of an image is a record, whatever it holds: a
file that cannot be read or decoded is counted and replaced when it is read.
"""

import collections
from collections.abc import Collection, Iterable, Mapping, Sequence
import hashlib
import os
import pathlib
from typing import NamedTuple, Protocol

import numpy as np

from byol_jax import errors
from byol_jax.data.sources import base, folder_names

_SHOWN = 12  # kinds of files that are not read, the others are summed up


class Files(Protocol):
  """Files that any thread may read, by posix path below `root`."""

  root: pathlib.Path

  @property
  def names(self) -> Iterable[str]: ...

  def size(self, name: str) -> int: ...

  def read(self, name: str) -> bytes: ...


EXTENSIONS = (
  *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.bmp', '.gif'),
  *('.tif', '.tiff', '.avif', '.heic', '.heif'),
)


class Layout(NamedTuple):
  """The images among files, by split, as sorted posix paths below `prefix`.

  Attributes:
    files: all of them.
    prefix: '', or the one folder around the set with its slash.
    class_names: None without classes.
    classes: the folder that is the class of each image, '' if it lies in none.
    splits: the images of each split.
    test_place: where the test set is; '' without one.
    no_classes: why there are no classes.
    left_out: what is not read, and how many of it.
    shown_below: begins the names of its files, to tell them from those of
      other folders.
  """

  files: Files
  prefix: str
  class_names: tuple[str, ...] | None
  classes: dict[str, str]
  splits: dict[str, list[str]]
  test_place: str
  no_classes: str
  left_out: dict[str, int]
  shown_below: str = ''

  @property
  def root(self) -> pathlib.Path:
    """The folder of the set, or its tar file."""
    return self.files.root / self.prefix


class FolderSource:
  """The images of one split of a layout, sorted by path."""

  def __init__(self, layout: Layout, split: str) -> None:
    self._files, self._prefix = layout.files, layout.prefix
    self._names = layout.splits[split]
    self._shown_below = layout.shown_below
    self.name = layout.root.name
    self.class_names = layout.class_names
    self.num_classes = len(layout.class_names) if layout.class_names else None
    rows = {name: i for i, name in enumerate(layout.class_names or ())}
    labels = np.array(
      [rows.get(layout.classes[name], -1) for name in self._names], np.int32
    )
    self.labels = labels if rows else None
    # Covers names, sizes and labels, not the pixels.
    digest = hashlib.sha256(repr(self.class_names).encode(errors='replace'))
    for name, label in zip(self._names, labels):
      size = self._files.size(self._prefix + name)
      digest.update(f'{name}\n{size} {label}\n'.encode(errors='replace'))
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._names)

  def read(self, index: int) -> tuple[bytes, int]:
    """Returns the encoded image and the label, -1 if there is none."""
    data = self._files.read(self._prefix + self._names[index])
    label = -1 if self.labels is None else int(self.labels[index])
    return data, label

  def file_name(self, index: int) -> str:
    """Returns the path below the folder, of several with its name."""
    return self._shown_below + self._names[index]


def open_split(layout: Layout, split: str) -> base.Source:
  """Returns a split; of 'train', if it can be a part of it."""
  if split not in ('fit', 'valid'):
    return FolderSource(layout, split)
  names = layout.splits['train']
  chosen = set(layout.splits[split])
  ids = [row for row, name in enumerate(names) if name in chosen]
  if len(ids) < len(chosen):
    return FolderSource(layout, split)
  return base.Subset(FolderSource(layout, 'train'), np.array(ids, np.int64))


def find_layouts(
  roots: Sequence[Files], heldout_share: float, labels: str, least: int = 2
) -> list[Layout]:
  """Returns the layouts of folders that are one set together.

  They have classes only if each has some; these are those of all.

  Raises:
    DataError: see `find_splits`; or fewer than `least` images.
  """
  found = [find_splits(files, heldout_share, labels) for files in roots]
  if sum(len(x.splits['all']) for x in found) < least:
    raise errors.DataError(_describe_too_few(found[0].files))
  if len(found) == 1:
    return found
  without = [layout for layout in found if not layout.class_names]
  if labels != 'folders' and 0 < len(without) < len(found):
    found = [find_splits(files, heldout_share, 'none') for files in roots]
    why = f'none, {errors.quote(without[0].root)} has none'
    found = [layout._replace(no_classes=why) for layout in found]
  names = tuple(
    sorted({x for layout in found for x in layout.class_names or ()})
  )
  around = os.path.commonpath([os.path.abspath(x.root.parent) for x in found])
  return [
    layout._replace(
      class_names=names or None,
      shown_below=os.path.relpath(layout.root, around) + '/',
    )
    for layout in found
  ]


def describe_layouts(layouts: Sequence[Layout]) -> str:
  """Returns one line: images, classes, test set, what is not read."""
  count = lambda split: sum(len(x.splits.get(split, ())) for x in layouts)
  left_out: collections.Counter[str] = collections.Counter()
  for layout in layouts:
    left_out.update(layout.left_out)
  places = dict.fromkeys(x.test_place for x in layouts if x.test_place)
  reasons = {layout.no_classes for layout in layouts}
  no_classes = reasons.pop() if len(reasons) == 1 else 'none'
  names = layouts[0].class_names
  unlabelled = sum(
    not x.classes[image] for x in layouts for image in x.splits['train']
  )
  return base.describe_set(
    count('train'),
    base.describe_classes(names, None, unlabelled) or no_classes,
    f'{", ".join(places)}, {count("test"):,} images' if places else 'none',
    _list_counts(left_out),
  )


def find_splits(
  files: Files, heldout_share: float, labels: str = 'auto'
) -> Layout:
  """Returns the images among files, by split; a function of paths alone.

  Args:
    files: with or without images.
    heldout_share: see `lookup.open_source`.
    labels: see `lookup.open_source`.

  Raises:
    DataError: no image, or folders that contradict each other.
  """
  listed = list(files.names)
  images = sorted(filter(is_image, listed))
  if not images:
    raise errors.DataError(_describe_too_few(files))
  prefix = _outer_folder(images)
  images = [image.removeprefix(prefix) for image in images]
  root = str(files.root / prefix)
  tops = {image.partition('/')[0] for image in images if '/' in image}
  folders = folder_names.find_splits(
    root,
    tops,
    lambda top: any(x.count('/') > 1 for x in _images_below(top, images)),
    labels,
  )
  classes = {image: _class_of(image, folders.folders) for image in images}
  left_out = _count_unread(listed)
  train = images
  if folders.train:
    train = _images_below(folders.train, images)
    beside = sum(x.partition('/')[0] not in folders.folders for x in images)
    left_out[f'images beside {folders.train}/'] = beside
  class_names, no_classes = _find_classes(
    root, folders.train, train, classes, labels
  )
  tests: dict[str, list[str]] = {}
  for name in folders.tests:
    found = _images_below(name, images)
    if class_names is not None:
      kept = [image for image in found if classes[image]]
      _check_test_classes(
        root, folders, {classes[x] for x in kept}, class_names
      )
      left_out[f'images of {name}/ in no class folder'] = len(found) - len(kept)
      found = kept
    if found:
      tests[f'{name}/'] = found
  splits = {'all': images, 'train': train}
  labelled = classes if class_names else None
  place = divide(splits, tests, labelled, heldout_share)
  left_out = {what: number for what, number in left_out.items() if number}
  return Layout(
    *(files, prefix, class_names, classes, splits),
    *(place, no_classes, left_out),
  )


def divide(
  splits: dict[str, list[str]],
  tests: Mapping[str, list[str]],
  classes: Mapping[str, str] | None,
  share: float,
) -> str:
  """Adds 'test', 'fit' and 'valid' to 'train'; returns the key of the test set.

  An image in no class folder is not held out of a set with classes.
  """
  place = ''
  if tests:
    place, splits['test'] = [*tests.items()][-1]
    if len(tests) > 1:
      splits['fit'], splits['valid'] = (
        splits['train'],
        next(iter(tests.values())),
      )
  elif classes:
    splits['train'], splits['test'] = _divide_by_hash(
      splits['train'], share, 'test', classes
    )
    if splits['test']:
      place = f'a share of {share:g} held out'
  if 'valid' not in splits:
    splits['fit'], splits['valid'] = _divide_by_hash(
      splits['train'], share, 'valid', classes
    )
  return place


def _find_classes(
  root: str,
  folder: str | None,
  train: Sequence[str],
  classes: Mapping[str, str],
  labels: str,
) -> tuple[tuple[str, ...] | None, str]:
  """Returns the names of the classes, or None and why there are none."""
  names = sorted({classes[image] for image in train} - {''})
  loose = [image for image in train if not classes[image]]
  if labels == 'folders':
    return tuple(names) or None, 'none, there are no folders'
  start = f'{folder}/' if folder else ''
  folder_names.refuse_lookalikes(
    f'{root.rstrip("/")}/{start}'.rstrip('/'),
    names,
    (image.removeprefix(start) for image in train),
    labels,
  )
  if labels == 'none':
    return None, 'none, by data.labels=none'
  if loose and names:
    return None, (
      f'none, {len(loose):,} of {len(train):,} images lie in no folder'
      f' ({errors.quote(loose[0])}); data.labels=folders takes folders for'
      ' classes'
    )
  if len(names) == 1:
    return None, f'none, all images lie in {errors.quote(names[0])}'
  return tuple(names) or None, 'none, there are no folders'


def _check_test_classes(
  root: str,
  folders: folder_names.Splits,
  found: set[str],
  class_names: Sequence[str],
) -> None:
  if unknown := sorted(found - set(class_names)):
    shown = ', '.join(map(base.show_name, unknown[:3]))
    raise errors.DataError(
      f'{root}: {len(unknown)} class folders of {", ".join(folders.tests)} that'
      f' {folders.train}/ does not have: {shown}; expected the same classes'
    )


def _count_unread(listed: Sequence[str]) -> dict[str, int]:
  """Returns how many files are no image, by extension, and how many hidden."""
  found: collections.Counter[str] = collections.Counter()
  for name in listed:
    if is_image(name):
      continue
    ending = os.path.splitext(name)[1].lower()
    if name.startswith('.') or '/.' in name:
      ending = 'hidden folders' if name.endswith('/') else 'hidden files'
    found[base.show_name(ending) or 'without extension'] += 1
  return found


def _list_counts(counts: Mapping[str, int]) -> list[str]:
  found = sorted(counts.items(), key=lambda x: (-x[1], x[0]))
  shown = [f'{number:,} {what}' for what, number in found[:_SHOWN]]
  others = sum(number for _, number in found[_SHOWN:])
  return shown + ([f'{others:,} others'] if others else [])


def _describe_too_few(files: Files) -> str:
  names = list(files.names)
  unread = _list_counts(_count_unread(names))
  return (
    f'{files.root}: {sum(map(is_image, names))} image files'
    ' found, expected at least 2 with one of the extensions'
    f' {" ".join(EXTENSIONS)}; not read: {", ".join(unread) or "nothing"}'
  )


def is_image(name: str) -> bool:
  """Returns whether a path is that of an image, and not hidden."""
  hidden = name.startswith('.') or '/.' in name
  return not hidden and name.lower().endswith(EXTENSIONS)


def is_heldout(file: str, share: float, salt: str) -> bool:
  """Returns whether a hash of the path, uniform in [0, 1), is below share."""
  digest = hashlib.sha256(f'{salt}\n{file}'.encode(errors='replace')).digest()
  return int.from_bytes(digest[:8], 'big') < share * 2**64


def _divide_by_hash(
  files: Sequence[str],
  share: float,
  salt: str,
  classes: Mapping[str, str] | None,
) -> tuple[list[str], list[str]]:
  heldout = [
    file
    for file in files
    if (not classes or classes[file]) and is_heldout(file, share, salt)
  ]
  return sorted(set(files) - set(heldout)), heldout


def _outer_folder(images: Sequence[str]) -> str:
  """'NAME/' if one folder holds several others, or train/, and all images."""
  tops = {image.partition('/')[0] for image in images}
  inner = {_class_of(image, tops) for image in images}
  if len(tops) != 1 or '' in inner or any(map(folder_names.is_split, tops)):
    return ''
  is_set = len(inner) > 1 or any(map(folder_names.is_train, inner))
  return f'{tops.pop()}/' if is_set else ''


def _images_below(folder: str, images: Sequence[str]) -> list[str]:
  return [image for image in images if image.startswith(f'{folder}/')]


def _class_of(image: str, split_folders: Collection[str]) -> str:
  """The folder of an image below its split; '' if it lies in none."""
  *parts, _ = image.split('/')
  if parts and parts[0] in split_folders:
    del parts[0]
  return parts[0] if parts else ''
