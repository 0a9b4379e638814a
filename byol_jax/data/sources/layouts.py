"""Finds out what a local path holds: images in folders, in tar files, ..."""

from collections.abc import Mapping, Sequence
import pathlib

from byol_jax import errors
from byol_jax.data.sources import (
  annotations,
  archives,
  arrays,
  base,
  cifar_binary,
  image_folder,
  label_tables,
  parquet,
  path_lists,
  paths,
  webdataset,
)


def read_arrays(path: pathlib.Path) -> Mapping[str, base.Source] | None:
  """Returns the parts of a set that is held in memory, None of another.

  Raises:
    DataError: the file is broken.
  """
  if path.suffix == '.npz':
    return arrays.read_npz(path)
  return cifar_binary.read_cifar(path)


def find_layouts(
  roots: Sequence[pathlib.Path], share: float, labels: str, least: int
) -> list[image_folder.Layout]:
  """Returns the layouts of local paths that are one set together.

  Args:
    roots: folders, files, or a pattern of shards.
    share, labels: see `lookup.open_source`.
    least: images that are expected.

  Raises:
    DataError: a path holds no images, or cannot be read.
  """
  found: list[image_folder.Files] = []
  for root in roots:
    if annotated := _read_annotated(root, labels):
      if len(roots) > 1:
        raise errors.DataError(
          f'dataset: {errors.quote(root)} has labels beside its images, so it'
          ' cannot be one of several sets; give it alone'
        )
      files, known = annotated
      if labels == 'none':
        known = known._replace(
          classes=dict.fromkeys(known.classes, ''),
          no_classes='none, by data.labels=none',
        )
      return [annotations.make_layout(files, known, share)]
    if root.is_dir():
      found.append(paths.Directory(root))
    elif root.suffix.lower() == '.txt':
      found += path_lists.read_list(root)
    elif image_folder.is_image(root.name):
      found.append(paths.Directory(root.parent, [root.name]))
    else:
      found.append(archives.Archive(root))
  path_lists.refuse_overlap(
    [x.root for x in found if isinstance(x, paths.Directory) and x.is_whole]
  )
  return image_folder.find_layouts(found, share, labels, least)


def _read_annotated(
  root: pathlib.Path, labels: str
) -> tuple[image_folder.Files, annotations.Annotations] | None:
  """Returns images and labels of a table, shards or parquet; None of others."""
  files: archives.Archive | archives.Shards | None = None
  if root.suffix.lower() == '.csv':
    return _read_table(paths.Directory(root.parent), root.name, True)
  if tables := parquet.find_tables(root):
    return parquet.open_tables(root, tables)
  if webdataset.is_pattern(str(root)) and not root.exists():
    files = webdataset.open_pattern(root)
  elif root.is_dir():
    files = webdataset.open_folder(root)
    has_table = (root / label_tables.NAME).exists() and labels == 'auto'
    if not files and has_table:
      return _read_table(paths.Directory(root), label_tables.NAME)
  elif root.suffix.lower() == '.tar' and labels == 'auto':
    tar = archives.Archive(root)
    if table := label_tables.find_table(tar):
      return _read_table(tar, table)
    files = tar if webdataset.has_labels(tar) else None
  return (files, webdataset.read_annotations(files, labels)) if files else None


def _read_table(
  files: image_folder.Files, table: str, only_listed: bool = False
) -> tuple[image_folder.Files, annotations.Annotations]:
  return files, label_tables.read_annotations(files, table, only_listed)
