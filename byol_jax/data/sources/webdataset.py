"""Reads WebDataset shards: tar files with an image and its label side by side.

  000017.jpg, 000017.cls    text: a number or the name of a class
  000017.jpg, 000017.json   an object with the key label, class or cls

The files of an image have the same name up to the first dot of the last part.
Shards with `train`, `val` or `test` in their names, or in folders of such
names, are the splits.
"""

from collections.abc import Iterator, Mapping
import itertools
import json
import os
import pathlib
import posixpath
import re

import numpy as np

from byol_jax import errors
from byol_jax.data.sources import (
  annotations,
  archives,
  folder_names,
  image_folder,
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
    x for x in root.iterdir() if folder_names.is_split(x.name) and x.is_dir()
  )
  for folder in (root, *folders):
    found = (x for x in folder.glob('*.tar') if not x.name.startswith('.'))
    tars += sorted(x for x in found if not x.is_dir())
  # A tar file beside images is what they were unpacked from.
  if not tars or any(map(image_folder.is_image, paths.Directory(root).names)):
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
    labels: 'auto'; 'folders', classes are the folders in the tar files; 'none'.

  Raises:
    DataError: there is no image, or a label is not to be read.
  """
  parts = {'': files} if isinstance(files, archives.Archive) else files.parts
  classes: dict[str, str] = {}
  splits: dict[str, str] = {}
  others = 0
  for shard, archive in parts.items():
    start = f'{shard}/' if shard else ''
    images = [x for x in archive.names if _is_image_of_sample(x)]
    others += sum(map(image_folder.is_image, archive.names)) - len(images)
    if labels == 'none':
      found = [''] * len(images)
    elif labels == 'folders':
      found = [x.partition('/')[0] if '/' in x else '' for x in images]
    else:
      found = _load_classes(archive, images)
    classes.update((start + x, y) for x, y in zip(images, found))
    if split := annotations.find_split(shard):
      splits.update((start + x, split) for x in images)
  if not classes:
    raise errors.DataError(
      f'{errors.quote(files.root)}: no image in {len(parts)} tar files,'
      f' expected names with one of the extensions'
      f' {" ".join(image_folder.EXTENSIONS)} after their first dot'
    )
  why = 'none, there is no .cls, and no label in a .json'
  why = {'none': 'none, by data.labels=none'}.get(labels, why)
  left_out = {'images with a second dot in their names': others}
  return annotations.Annotations(classes, splits, why, left_out)


def _is_image_of_sample(name: str) -> bool:
  """Whether a member is 'KEY.jpg'; 'KEY.mask.png' is something else."""
  is_plain = posixpath.basename(name).count('.') == 1
  return is_plain and image_folder.is_image(name)


def _load_classes(archive: archives.Archive, images: list[str]) -> list[str]:
  """Returns the class of each image; the index cache keeps them."""

  def build() -> index_cache.Arrays:
    sizes = {name: archive.size(name) for name in archive.names}
    found = '\0'.join(_read_class(archive, x, sizes) for x in images)
    data = found.encode('utf-8', 'surrogateescape')
    return {'classes': np.frombuffer(data, np.uint8)}

  stamp = paths.stat_file(archive.root)
  index = index_cache.load_or_build('wds-1', archive.root, stamp, build)
  joined = index['classes'].tobytes().decode('utf-8', 'surrogateescape')
  return joined.split('\0') if images else []


def _read_class(
  archive: archives.Archive, image: str, sizes: Mapping[str, int]
) -> str:
  key = image.rpartition('.')[0]
  for name in (f'{key}.cls', f'{key}.json'):
    if name not in sizes:
      continue
    where = f'{errors.quote(archive.root)}: {errors.quote(name)}'
    if sizes[name] > _MAX_LABEL:
      raise errors.DataError(
        f'{where}: expected a label, found {sizes[name]:,} bytes; give the set'
        ' without labels by data.labels=none'
      )
    data = archive.read(name)
    try:
      text = data.decode()
      value = text if name.endswith('.cls') else _find_label(json.loads(text))
    except (ValueError, RecursionError) as error:
      raise errors.DataError(
        f'{where}: expected {"JSON" if name.endswith(".json") else "text"} in'
        f' UTF-8, found {errors.quote(data[:80])}; give the set without labels'
        ' by data.labels=none'
      ) from error
    if found := annotations.read_class(value, where):
      return found
  return ''


def _find_label(value: object) -> object:
  if not isinstance(value, dict):
    return None
  return next((value[key] for key in _KEYS if key in value), None)
