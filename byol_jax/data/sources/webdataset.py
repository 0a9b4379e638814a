"""Reads WebDataset shards: tar files with an image and its label side by side.

  000017.jpg, 000017.cls    text: a number or the name of a class
  000017.jpg, 000017.json   an object with the key label, class or cls

The files of an image have the same name up to the first dot of the last part.
Shards with `train`, `val` or `test` in their names, or in folders of such
names, are the splits.
"""

from collections.abc import Collection, Iterator
import itertools
import json
import os
import pathlib
import posixpath
import re

from byol_jax import errors
from byol_jax.data.sources import (
  annotations,
  archives,
  base,
  folder_names,
  index_cache,
  paths,
)

_RANGE = re.compile(r'\{(\d{1,9})\.\.(\d{1,9})\}')
_MAX_SHARDS = 1_000_000
_MAX_LABEL = 2**20  # bytes of a file with a label
_KEYS = ('label', 'class', 'cls')


def is_pattern(dataset: str) -> bool:
  """Returns whether a path is one of shards, as 'x-{000..009}.tar'."""
  return bool(_RANGE.search(dataset)) and dataset.endswith('.tar')


def open_pattern(path: pathlib.Path) -> archives.Shards:
  """Returns the shards of a pattern; see `is_pattern`.

  Raises:
    DataError: there are none, one is missing, or is no tar.
  """
  found = list(itertools.islice(_expand(str(path)), _MAX_SHARDS))
  missing = [shard for shard in found if not os.path.exists(shard)]
  if missing or not found:
    first = f': {errors.quote(pathlib.Path(missing[0]))}' if missing else ''
    raise errors.DataError(
      f'{errors.quote(path)}: {len(missing):,} of {len(found):,} shards are'
      f' missing{first}; expected {{FIRST..LAST}} with as many digits as in the'
      ' names'
    )
  return archives.Shards(path.parent, [pathlib.Path(shard) for shard in found])


def _expand(text: str) -> Iterator[str]:
  match = _RANGE.search(text)
  if not match:
    yield text
    return
  for number in range(int(match[1]), int(match[2]) + 1):
    digits = str(number).zfill(len(match[1]))
    yield from _expand(text[: match.start()] + digits + text[match.end() :])


def open_folder(root: pathlib.Path) -> archives.Shards | None:
  """Returns the shards of a folder, None if it is one of images.

  They lie in it or in folders that are called like splits.
  """
  tars = []
  folders = sorted(
    x for x in root.iterdir() if folder_names.get_kind(x.name) and x.is_dir()
  )
  for folder in (root, *folders):
    found = (x for x in folder.glob('*.tar') if not x.name.startswith('.'))
    tars += sorted(x for x in found if not x.is_dir())
  # A tar file beside images is what they were unpacked from.
  if not tars or any(map(annotations.is_image, paths.Directory(root).names)):
    return None
  return archives.Shards(root, tars)


def has_labels(archive: archives.Archive) -> bool:
  """Returns whether an image of a tar file has a label beside it."""
  images = list(filter(_is_image_of_sample, archive.names))
  return any(_load_classes(archive, images))


def read_annotations(
  files: archives.Archive | archives.Shards, labels: str
) -> annotations.Annotations:
  """Returns labels and splits of the images in shards.

  Args:
    files: one tar or several.
    labels: 'folders': classes are the folders in the tar files; else the files
      beside the images say them, which 'none' does not read.

  Raises:
    DataError: there is no image, or a label is not to be read.
  """
  parts = {'': files} if isinstance(files, archives.Archive) else files.parts
  classes: dict[str, str] = {}
  splits: dict[str, str] = {}
  others = 0
  for shard, archive in parts.items():
    images = list(filter(_is_image_of_sample, archive.names))
    others += sum(map(annotations.is_image, archive.names)) - len(images)
    found = [x.partition('/')[0] if '/' in x else '' for x in images]
    if labels == 'auto':
      found = _load_classes(archive, images)
    names = [f'{shard}/{x}' if shard else x for x in images]
    classes.update(zip(names, found))
    splits.update(dict.fromkeys(names, annotations.find_split(shard)))
  if not classes:
    raise errors.DataError(
      f'{errors.quote(files.root)}: no image in'
      f' {base.show_count(len(parts), "tar files")}, expected names with one of'
      f' the extensions {" ".join(annotations.EXTENSIONS)} after their first'
      ' dot'
    )
  why = 'none, there is no .cls, and no label in a .json'
  left_out = {'images with a second dot in their names': others}
  return annotations.Annotations(classes, splits, why, left_out)


def _is_image_of_sample(name: str) -> bool:
  """Whether a member is 'KEY.jpg'; 'KEY.mask.png' is something else."""
  is_plain = posixpath.basename(name).count('.') == 1
  return is_plain and annotations.is_image(name)


def _load_classes(archive: archives.Archive, images: list[str]) -> list[str]:
  """Returns the class of each image; the index cache keeps them."""

  def build() -> index_cache.Arrays:
    members = set(archive.names)
    found = [_read_class(archive, x, members) for x in images]
    return {'classes': index_cache.pack_names(found)}

  stamp = paths.stat_file(archive.root)
  index = index_cache.load_or_build('wds-2', archive.root, stamp, build)
  return index_cache.unpack_names(index['classes'])


def _read_class(
  archive: archives.Archive, image: str, members: Collection[str]
) -> str:
  key = image.rpartition('.')[0]
  for name in (f'{key}.cls', f'{key}.json'):
    if name not in members:
      continue
    where = f'{errors.quote(archive.root)}: {errors.quote(name)}'
    advice = 'give the set without labels by data.labels=none'
    if archive.size(name) > _MAX_LABEL:
      raise errors.DataError(
        f'{where}: expected a label, found {archive.size(name):,} bytes;'
        f' {advice}'
      )
    data = archive.read(name)
    kind = 'text' if name.endswith('.cls') else 'JSON'
    try:
      text = data.decode()
      value = text if kind == 'text' else _find_label(json.loads(text))
    except (ValueError, RecursionError) as error:
      raise errors.DataError(
        f'{where}: expected {kind} in UTF-8, found {errors.quote(data[:80])};'
        f' {advice}'
      ) from error
    if found := annotations.read_class(value, where):
      return found
  return ''


def _find_label(value: object) -> object:
  if not isinstance(value, dict):
    return None
  return next((value[key] for key in _KEYS if key in value), None)
