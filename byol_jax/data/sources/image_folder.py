"""Reads splits and classes from the folders in which images lie.

  DATA/CLASS/**.jpg               labelled; a share is held out as test
  DATA/train/CLASS/**.jpg         labelled; DATA/val (dev, eval, test, ...)
                                  is the test set where it exists
  DATA/**.jpg, DATA/train/*.jpg   unlabelled, unless each lies in a folder

Hidden files are ignored. If all of this lies in one folder, as in most tar
files, that folder counts as DATA. Every file with the extension of an image is
a record, whatever it holds: a file that cannot be read or decoded is counted
and replaced when it is read.
"""

import collections
from collections.abc import Collection, Mapping, Sequence
import os

from byol_jax import errors
from byol_jax.data.sources import annotations, base, folder_names


def read_annotations(
  files: annotations.Files, labels: str
) -> annotations.Annotations:
  """Returns the images among files; a function of their paths alone.

  Args:
    files: with or without images.
    labels: see `lookup.find_set`.

  Raises:
    DataError: no image, or folders that contradict each other.
  """
  listed = list(files.names)
  images = sorted(filter(annotations.is_image, listed))
  if not images:
    raise errors.DataError(describe_too_few(files))
  prefix = _outer_folder(images)
  images = [image.removeprefix(prefix) for image in images]
  root = str(files.root / prefix)
  folders = folder_names.find_splits(root, images, labels)
  classes = {image: _class_of(image, folders.folders) for image in images}
  left_out = _count_unread(listed)
  tests = tuple(f'{name}/' for name in folders.tests)
  splits: dict[str, str] = {}
  if folders.train:
    places = dict(zip(folders.folders, ('train', *tests)))
    splits = {x: places.get(x.partition('/')[0], '') for x in images}
    beside = sum(not place for place in splits.values())
    left_out[f'images beside {folders.train}/'] = beside
  train = [x for x in images if splits.get(x, 'train') == 'train']
  class_names, no_classes = _find_classes(
    root, folders.train, train, classes, labels
  )
  for image, place in splits.items():
    if class_names and place in tests and not classes[image]:
      splits[image] = ''  # as in ImageNet's val/ before it is sorted
      left_out[f'images of {place} in no class folder'] += 1
  found = annotations.Annotations(
    *(classes, splits, no_classes, left_out, class_names, tests, prefix)
  )
  return found if class_names else found.drop_classes(no_classes)


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
  if labels != 'folders':
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


def _count_unread(listed: Sequence[str]) -> collections.Counter[str]:
  """Returns how many files are no image, by extension, and how many hidden."""
  found: collections.Counter[str] = collections.Counter()
  for name in listed:
    if annotations.is_image(name):
      continue
    ending = os.path.splitext(name)[1].lower()
    if name.startswith('.') or '/.' in name:
      ending = 'hidden folders' if name.endswith('/') else 'hidden files'
    elif name.endswith('/'):
      ending = 'unreadable folders'
    found[base.show_name(ending) or 'without extension'] += 1
  return found


def describe_too_few(files: annotations.Files) -> str:
  """Returns what to say of files of which at most one is an image."""
  names = sorted(files.names)
  number = sum(map(annotations.is_image, names))
  unread = ', '.join(base.list_counts(_count_unread(names)))
  arrays = [name for name in names if name.lower().endswith('.npz')]
  advice = f'; give one file, as {files.root / arrays[0]}' if arrays else ''
  return (
    f'{files.root}: {base.show_count(number, "image files")} found, expected at'
    ' least 2 with one of the extensions'
    f' {" ".join(annotations.EXTENSIONS)}; not read: {unread or "nothing"}'
    f'{advice}'
  )


def _outer_folder(images: Sequence[str]) -> str:
  """'NAME/' if one folder holds several others, or train/, and all images."""
  tops = {image.partition('/')[0] for image in images}
  inner = {_class_of(image, tops) for image in images}
  if len(tops) != 1 or '' in inner or any(map(folder_names.get_kind, tops)):
    return ''
  kinds = set(map(folder_names.get_kind, inner))
  return f'{tops.pop()}/' if len(inner) > 1 or 'train' in kinds else ''


def _class_of(image: str, split_folders: Collection[str]) -> str:
  """The folder of an image below its split; '' if it lies in none."""
  *parts, _ = image.split('/')
  if parts and parts[0] in split_folders:
    del parts[0]
  return parts[0] if parts else ''
