"""Finds out what a local path holds: images in folders, in tar files, ..."""

from collections.abc import Sequence
import pathlib

from byol_jax import errors
from byol_jax.data.sources import (
  annotations,
  archives,
  image_folder,
  path_lists,
  paths,
  webdataset,
)


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
    if layout := _find_annotated(root, share, labels):
      if len(roots) > 1:
        raise errors.DataError(
          f'dataset: {errors.quote(root)} has labels beside its images, so it'
          ' cannot be one of several sets; give it alone'
        )
      return [layout]
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


def _find_annotated(
  root: pathlib.Path, share: float, labels: str
) -> image_folder.Layout | None:
  """Returns the layout of a set with labels of its own, if it is one."""
  files: archives.Archive | archives.Shards | None = None
  if webdataset.is_pattern(str(root)) and not root.exists():
    files = webdataset.open_pattern(root)
  elif root.is_dir():
    files = webdataset.open_folder(root)
  elif root.suffix.lower() == '.tar' and labels == 'auto':
    files = archives.Archive(root)
    if not webdataset.has_labels(files):
      return None
  if files is None:
    return None
  found = webdataset.read_annotations(files, labels)
  return annotations.make_layout(files, found, share)
