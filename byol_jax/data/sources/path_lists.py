"""Reads which folders and files a data set consists of, if of several."""

import os
import pathlib
import stat

from byol_jax import errors, files
from byol_jax.data.sources import paths


def split_paths(dataset: str) -> list[str]:
  """Splits 'A,B' at its commas; a path that exists may have some itself.

  A part that does not exist is refused when it is opened.
  """
  parts = dataset.split(',')
  if len(parts) == 1 or paths.is_bucket(dataset):
    return [dataset]
  found = []
  while parts:
    joined = [','.join(parts[:end]).strip() for end in range(len(parts), 0, -1)]
    exists = [x for x in joined if x and files.expand_home(x).exists()]
    found.append(exists[0] if exists else joined[-1])
    del parts[: found[-1].count(',') + 1]
  return found


def read_list(path: pathlib.Path) -> list[paths.Directory]:
  """Returns the folders of a text file, and last its single files as one.

  A line is the path of a folder or of a file, relative to the text file. The
  files count as lying in the innermost folder that is around all of them.

  Raises:
    DataError: the file cannot be read, has no path, or one that is missing.
  """
  where = errors.quote(path)
  text = os.fsdecode(files.read_file(path)).removeprefix('\ufeff')
  folder = os.path.abspath(path.parent)
  is_folder: dict[str, bool] = {}
  for number, line in enumerate(text.split('\n'), 1):
    line = line.rstrip('\r')
    if not line.strip():
      continue
    place = os.path.normpath(os.path.join(folder, os.path.expanduser(line)))
    try:
      is_folder[place] = stat.S_ISDIR(os.stat(place).st_mode)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the line
      raise errors.DataError(
        f'{where}, line {number}: expected the path of a folder or an image,'
        f' absolute or from {errors.quote(pathlib.Path(folder))}, found'
        f' {errors.quote(line)}: {getattr(error, "strerror", error)}'
      ) from error
  if not is_folder:
    raise errors.DataError(f'{where}: expected a path a line, found none')
  folders = [place for place in is_folder if is_folder[place]]
  # A file in a listed folder would count twice.
  singles = [
    place
    for place in is_folder
    if place not in folders
    and {*map(str, pathlib.PurePath(place).parents)}.isdisjoint(folders)
  ]
  found = [paths.Directory(pathlib.Path(place)) for place in folders]
  if singles:
    root = os.path.commonpath([os.path.dirname(place) for place in singles])
    names = [os.path.relpath(place, root) for place in singles]
    found.append(paths.Directory(pathlib.Path(root), names))
  return found


def refuse_overlap(roots: list[pathlib.Path]) -> None:
  """Raises DataError if one of the folders is, or lies in, another one."""
  real = [root.resolve() for root in roots]
  for i, inner in enumerate(real):
    for j, outer in enumerate(real):
      if i != j and inner.is_relative_to(outer):
        raise errors.DataError(
          f'dataset: {errors.quote(roots[i])} lies in {errors.quote(roots[j])},'
          ' so its images would count twice; give one of them'
        )
