"""Finds the images, splits and classes of local paths of any kind.

Whether an image is held out depends only on its path below the set, so adding
files moves no other file between the splits.
"""

import collections
from collections.abc import Collection, Mapping, Sequence
import hashlib
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from byol_jax import errors
from byol_jax.data.sources import (
  annotations,
  archives,
  base,
  image_folder,
  label_tables,
  parquet,
  path_lists,
  paths,
  webdataset,
)

_NUMBER = re.compile(r'\d{1,9}')
_Annotated = tuple[annotations.Files, annotations.Annotations]


class Layout(NamedTuple):
  """The images among files, by split.

  Attributes:
    files: all of them.
    known: what is known of the images, whose names are below its `prefix`.
    class_names: None without classes.
    splits: the names of the images of each split, sorted.
    test_place: where the test set is; '' without one.
    shown_below: begins the names of its files, to tell them from those of
      other folders.
  """

  files: annotations.Files
  known: annotations.Annotations
  class_names: tuple[str, ...] | None
  splits: Mapping[str, Sequence[str]]
  test_place: str
  shown_below: str = ''

  @property
  def root(self) -> pathlib.Path:
    """The folder of the set, or its file."""
    return self.files.root / self.known.prefix


class FolderSource(base.Source):
  """The images of one split of a layout, sorted by path."""

  def __init__(self, layout: Layout, split: str) -> None:
    self._files, self._prefix = layout.files, layout.known.prefix
    self._names = layout.splits[split]
    self._shown_below = layout.shown_below
    self.name = layout.root.name
    self.class_names = layout.class_names
    self.num_classes = len(layout.class_names) if layout.class_names else None
    rows = {name: i for i, name in enumerate(layout.class_names or ())}
    classes = layout.known.classes
    labels = np.array(
      [rows.get(classes[name], -1) for name in self._names], np.int32
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
  if split in ('fit', 'valid'):
    rows = {name: row for row, name in enumerate(layout.splits['train'])}
    ids = [rows.get(name, -1) for name in layout.splits[split]]
    if -1 not in ids:
      return base.Subset(FolderSource(layout, 'train'), np.array(ids, np.int64))
  return FolderSource(layout, split)


def find_layouts(
  roots: Sequence[pathlib.Path], share: float, labels: str, least: int
) -> list[Layout]:
  """Returns the layouts of local paths that are one set together.

  They have classes only if each has some; these are those of all.

  Args:
    roots: folders, files, or a pattern of shards.
    share, labels: see `lookup.find_set`.
    least: images that are expected of folders.

  Raises:
    DataError: a path holds no images, or cannot be read.
  """
  folders: list[annotations.Files] = []
  for root in roots:
    if annotated := _read_annotated(root, labels):
      if len(roots) > 1:
        raise errors.DataError(
          f'dataset: {errors.quote(root)} has labels beside its images, so it'
          ' cannot be one of several sets; give it alone'
        )
      files, known = annotated
      if labels == 'none':
        known = known.drop_classes('none, by data.labels=none')
      return [_make_layout(files, known, share)]
    folders += _list_files(root)
  path_lists.refuse_overlap(
    [x.root for x in folders if isinstance(x, paths.Directory) and x.is_whole]
  )
  read = [image_folder.read_annotations(x, labels) for x in folders]
  if sum(len(known.classes) for known in read) < least:
    raise errors.DataError(image_folder.describe_too_few(folders[0]))
  has_classes = [known.class_names is not None for known in read]
  if labels != 'folders' and any(has_classes) and not all(has_classes):
    first = has_classes.index(False)
    root = folders[first].root / read[first].prefix
    read = [
      image_folder.read_annotations(x, 'none').drop_classes(
        f'none, {errors.quote(root)} has none'
      )
      for x in folders
    ]
  found = [_make_layout(x, known, share) for x, known in zip(folders, read)]
  if len(found) == 1:
    return found
  names = sorted({x for layout in found for x in layout.class_names or ()})
  around = os.path.commonpath([os.path.abspath(x.root.parent) for x in found])
  return [
    layout._replace(
      class_names=tuple(names) or None,
      shown_below=os.path.relpath(layout.root, around) + '/',
    )
    for layout in found
  ]


def _read_annotated(root: pathlib.Path, labels: str) -> _Annotated | None:
  """Returns images and labels of a table, shards or parquet; None of others."""
  shards: archives.Archive | archives.Shards | None = None
  if root.suffix.lower() == '.csv':
    return label_tables.read_table(
      paths.Directory(root.parent), root.name, True
    )
  if tables := parquet.find_tables(root):
    return parquet.open_tables(root, tables)
  if webdataset.is_pattern(str(root)) and not root.exists():
    shards = webdataset.open_pattern(root)
  elif root.is_dir():
    shards = webdataset.open_folder(root)
    has_table = (root / label_tables.NAME).exists() and labels == 'auto'
    if not shards and has_table:
      return label_tables.read_table(paths.Directory(root), label_tables.NAME)
  elif root.suffix.lower() == '.tar' and labels == 'auto':
    tar = archives.Archive(root)
    if table := label_tables.find_table(tar):
      return label_tables.read_table(tar, table)
    shards = tar if webdataset.has_labels(tar) else None
  return (
    (shards, webdataset.read_annotations(shards, labels)) if shards else None
  )


def _list_files(root: pathlib.Path) -> Sequence[annotations.Files]:
  """Returns the folders of images, or the tar file, that a path stands for."""
  if root.is_dir():
    return [paths.Directory(root)]
  if root.suffix.lower() == '.txt':
    return path_lists.read_list(root)
  if annotations.is_image(root.name):
    return [paths.Directory(root.parent, [root.name])]
  return [archives.Archive(root)]


def _make_layout(
  files: annotations.Files, known: annotations.Annotations, share: float
) -> Layout:
  """Returns classes and splits of images of which these are known.

  Classes are sorted by name, or by value if all are whole numbers.

  Raises:
    DataError: a test set has a class that no image for training has.
  """
  of_split = collections.defaultdict(list)
  for image in sorted(known.classes):
    of_split[known.splits.get(image, 'train')].append(image)
  train = of_split['train']
  if not train and known.splits:  # a test set was given alone
    return _make_layout(files, known._replace(splits={}), share)
  names = _sort_names({known.classes[x] for x in train} - {''})
  if names and known.class_names:
    names = known.class_names
  elif len(names) == 1:
    why = f'none, all labels are {errors.quote(names[0])}'
    known, names = known.drop_classes(why), ()
  tests = {x: of_split[x] for x in known.tests if x in of_split}
  found = {known.classes[x] for members in tests.values() for x in members}
  if names and (unknown := found - {'', *names}):
    shown = ', '.join(map(base.show_name, _sort_names(unknown)[:3]))
    raise errors.DataError(
      f'{errors.quote(files.root / known.prefix)}:'
      f' {base.show_count(len(unknown), "classes")} of {" and ".join(tests)}'
      f' that no image for training has: {shown}; expected the same classes'
    )

  def divide(images: list[str], salt: str) -> tuple[list[str], list[str]]:
    # In a set with classes an image without one is not held out.
    held = {
      image
      for image in images
      if (known.classes[image] or not names) and is_heldout(image, share, salt)
    }
    return [x for x in images if x not in held], sorted(held)

  splits = {'all': sorted(known.classes)}
  place = ''
  if tests:
    place, splits['test'] = list(tests.items())[-1]
  elif names:
    train, splits['test'] = divide(train, 'test')
    place = f'a share of {share:g} held out' if share else ''
  splits['train'] = splits['fit'] = train
  if len(tests) > 1:
    splits['valid'] = next(iter(tests.values()))
  else:
    splits['fit'], splits['valid'] = divide(train, 'valid')
  return Layout(files, known, tuple(names) or None, splits, place)


def _sort_names(names: Collection[str]) -> tuple[str, ...]:
  """Returns classes by value if all are whole numbers, else by name."""
  by_value = all(map(_NUMBER.fullmatch, names))
  return tuple(sorted(sorted(names), key=int if by_value else None))


def is_heldout(file: str, share: float, salt: str) -> bool:
  """Returns whether a hash of the path, uniform in [0, 1), is below share."""
  digest = hashlib.sha256(f'{salt}\n{file}'.encode(errors='replace')).digest()
  return int.from_bytes(digest[:8], 'big') < share * 2**64


def describe_layouts(layouts: Sequence[Layout]) -> str:
  """Returns one line: images, classes, test set, what is not read."""
  count = lambda split: sum(len(x.splits.get(split, ())) for x in layouts)
  left_out: collections.Counter[str] = collections.Counter()
  for layout in layouts:
    left_out.update(layout.known.left_out)
  places = dict.fromkeys(x.test_place for x in layouts if x.test_place)
  reasons = {layout.known.no_classes for layout in layouts}
  no_classes = reasons.pop() if len(reasons) == 1 else 'none'
  unlabelled = sum(
    not x.known.classes[image] for x in layouts for image in x.splits['train']
  )
  tests = base.show_count(count('test'), 'images')
  return base.describe_set(
    count('train'),
    base.describe_classes(layouts[0].class_names, None, unlabelled)
    or no_classes,
    f'{", ".join(places)}, {tests}' if places else 'none',
    left_out,
  )
