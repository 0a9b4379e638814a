"""Reads the labels of images from a table, `labels.csv` in their folder.

  filename,label,split      the header; split may be missing
  photos/1.jpg,cat,train    paths from the table

The first column may also be called file, file_name, image or path, the second
class. Quotes are those of a spreadsheet, between the columns are commas,
semicolons or tabs. A name that is no path of an image is that of the only image
which is called so.
"""

from collections.abc import Iterator, Sequence
import csv
import io
import posixpath
from typing import NamedTuple

from byol_jax import errors, files
from byol_jax.data.sources import annotations, archives, paths

NAME = 'labels.csv'
_COLUMNS = {
  'file': ('filename', 'file', 'file_name', 'image', 'path'),
  'label': ('label', 'class'),
  'split': ('split',),
}


class _Row(NamedTuple):
  line: int
  file: str
  label: str
  split: str | None


def find_table(found: archives.Archive) -> str | None:
  """Returns the table of a tar file, at its root or in the folder there."""
  places = [x for x in found.names if x.rpartition('/')[2] == NAME]
  places = [x for x in places if x.count('/') < 2]
  return places[0] if len(places) == 1 else None


def read_table(
  found: annotations.Files, table: str, only_listed: bool = False
) -> tuple[annotations.Files, annotations.Annotations]:
  """Returns files, and the labels and splits of images that a table lists.

  Without a column `split` folders called `train`, `val` or `test` are the
  splits. Other images have no label, and are in train.

  Args:
    found: the table and the images.
    table: its name.
    only_listed: leaves out images that the table does not have.

  Raises:
    DataError: no such table, a broken row, two labels of an image, or no image.
  """
  where = errors.quote(found.root / table)
  below = posixpath.dirname(table)
  is_folder = isinstance(found, paths.Directory)
  data = files.read_file(found.root / table) if is_folder else found.read(table)
  images = list(filter(annotations.is_image, found.names))
  header, *lines = _read_lines(data, where)
  columns = _find_columns(header[1], where)
  rows = list(_parse_rows(lines, columns, len(header[1]), where))
  chosen, missing = _match_rows(rows, images, below, where)
  images = list(chosen) if only_listed else images
  splits = {x: row.split for x, row in chosen.items() if row.split}
  if 'split' not in columns:
    start = f'{below}/' if below else ''
    tops = {x: x.removeprefix(start).partition('/')[0] for x in images}
    splits = {x: annotations.read_split(y) or 'train' for x, y in tops.items()}
  first_one = f' ({errors.quote(missing[0])})' if missing else ''
  left_out = {
    f'missing files of {table}{first_one}': len(missing),
    f'repeated rows of {table}': len(rows) - len(chosen) - len(missing),
    f'other columns of {table}': len(header[1]) - len(columns),
  }
  return found, annotations.Annotations(
    {x: chosen[x].label if x in chosen else '' for x in images},
    *(splits, f'none, {table} has no labels', left_out),
  )


def _match_rows(
  rows: Sequence[_Row], images: Sequence[str], below: str, where: str
) -> tuple[dict[str, _Row], list[str]]:
  """Returns the first row of each image, and files that are no images here."""
  by_base: dict[str, str | None] = {}  # None: of several images
  for name in images:
    own = posixpath.basename(name)
    by_base[own] = None if own in by_base else name
  known = set(images)
  chosen: dict[str, _Row] = {}
  missing: list[str] = []
  for row in rows:
    path = posixpath.normpath(posixpath.join(below, row.file))
    image = path if path in known else by_base.get(row.file)
    if image is None:
      missing.append(row.file)
      continue
    first = chosen.setdefault(image, row)
    if (first.label, first.split) != (row.label, row.split):
      raise errors.DataError(
        f'{where}: lines {first.line} and {row.line}: {errors.quote(image)}'
        f' has the labels {errors.quote(first.label)} and'
        f' {errors.quote(row.label)}, or two splits; keep one line'
      )
  if not chosen:
    example = f', as {errors.quote(missing[0])}' if missing else ''
    raise errors.DataError(
      f'{where}: none of {len(missing):,} files is an image here{example};'
      ' expected paths from the folder of the table'
    )
  return chosen, missing


def _read_lines(data: bytes, where: str) -> list[tuple[int, list[str]]]:
  """Returns numbers and fields of the lines, of which the first is there."""
  try:
    text = data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    line = error.object[: error.start].count(b'\n') + 1
    raise errors.DataError(
      f'{where}: line {line}: expected text in UTF-8, found the byte'
      f' {error.object[error.start]:#x}; save it as UTF-8'
    ) from error
  delimiter = max(',;\t', key=text.partition('\n')[0].count)
  stream = io.StringIO(text, newline='')
  reader = csv.reader(stream, delimiter=delimiter, strict=True)
  try:
    return [(reader.line_num, fields) for fields in reader] or [(1, [])]
  except csv.Error as error:
    raise errors.DataError(
      f'{where}: line {reader.line_num}: expected columns of a table, found:'
      f' {error}'
    ) from error


def _find_columns(header: Sequence[str], where: str) -> dict[str, int]:
  """Returns the positions of the columns in `_COLUMNS`."""
  names = [x.strip().casefold() for x in header]
  found: dict[str, int] = {}
  for key, choices in _COLUMNS.items():
    at = [i for i, name in enumerate(names) if name in choices]
    if len(at) > 1 or (not at and key != 'split'):
      raise errors.DataError(
        f'{where}: line 1: expected one column {" or ".join(choices)}, found'
        f' {len(at)} in {errors.quote(header)}; name the columns'
        ' filename,label in its first line, or take folders for classes by'
        ' data.labels=folders'
      )
    if at:
      found[key] = at[0]
  return found


def _parse_rows(
  lines: Sequence[tuple[int, Sequence[str]]],
  columns: dict[str, int],
  num_columns: int,
  where: str,
) -> Iterator[_Row]:
  for number, fields in lines:
    place = f'{where}: line {number}'
    if not any(fields) and len(fields) in (0, num_columns):
      continue
    if len(fields) != num_columns:
      raise errors.DataError(
        f'{place}: expected {num_columns} columns, found {len(fields):,} in'
        f' {errors.quote(fields[:3])}; put a text with a comma into quotes'
      )
    file = fields[columns['file']].strip()
    if not file or '\0' in file:
      raise errors.DataError(
        f'{place}: expected a file name, found {errors.quote(file)}'
      )
    split = None
    if 'split' in columns:
      text = fields[columns['split']]
      split = annotations.read_split(text)
      if split is None:
        raise errors.DataError(
          f'{place}: expected train, val or test as split, found'
          f' {errors.quote(text)}'
        )
    label = annotations.read_class(fields[columns['label']], place)
    yield _Row(number, file, label, split)
