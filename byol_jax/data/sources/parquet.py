"""Reads tables of images: parquet files, or what `datasets` saved to a disk.

The image column is that of Hugging Face's `Image`, {bytes, path}, or of bytes;
without bytes the file at `path` is read, absolute or from the folder of the
set. A label column has numbers or names. Files with `train`, `validation` or
`test` in their names, or in folders of such names, are the splits.

Parquet allows no random access, so a file is copied once to the index cache as
Arrow, without compression. Files that are saved as Arrow are read where they
are. PyArrow does both; TFDS needs it too.
"""

from collections.abc import Iterator
import errno
import hashlib
import json
import logging
import os
import pathlib
from typing import Any, NamedTuple

from byol_jax import errors, files
from byol_jax.data.sources import annotations, paths

_IMAGES = ('image', 'img')
_LABELS = ('label', 'labels', 'class', 'fine_label', 'cls')
_STAMP = b'byol_jax'  # the key of a copy's origin, in its schema
_BATCH = 100  # rows that are in memory while a file is copied
_LOG = logging.getLogger(__name__)


class _Table(NamedTuple):
  images: Any  # a chunked array of bytes
  paths: Any  # of their files, where the bytes are none; None without paths
  sizes: list[int | None]
  labels: list[Any] | None
  class_names: tuple[str, ...] | None


class Rows:
  """The images of tables, as 'PATH/OF/TABLE/00000012'."""

  def __init__(self, root: pathlib.Path, tables: dict[str, _Table]) -> None:
    self.root, self._tables = root, tables

  @property
  def names(self) -> Iterator[str]:
    """The tables in their order, each from its first row on."""
    for name, table in self._tables.items():
      yield from (f'{name}/{row:08d}' for row in range(len(table.sizes)))

  def size(self, name: str) -> int:
    """Returns the bytes of an image, -1 if there is none."""
    table, row = self._locate(name)
    size = table.sizes[row]
    if size is not None:
      return size
    try:
      return os.stat(self._find_file(table, row)).st_size
    except (OSError, ValueError):
      return -1

  def read(self, name: str) -> bytes:
    """Returns the encoded image; safe from any thread."""
    table, row = self._locate(name)
    data = table.images[row].as_py()
    if data is None:
      return files.read_regular(self._find_file(table, row))
    return data

  def _find_file(self, table: _Table, row: int) -> pathlib.Path:
    """The file that a row names instead of the bytes of an image."""
    path = table.paths[row].as_py() if table.paths else None
    if not path:
      raise OSError(errno.ENOENT, 'the row has no bytes of an image')
    folder = self.root if self.root.is_dir() else self.root.parent
    return folder / path

  def _locate(self, name: str) -> tuple[_Table, int]:
    table, _, row = name.rpartition('/')
    return self._tables[table], int(row)


def find_tables(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files of a set of tables, none of another set."""
  if path.suffix == '.parquet' and not path.is_dir():
    return [path]
  if not path.is_dir():
    return []
  if (path / 'state.json').exists() or (path / 'dataset_dict.json').exists():
    return sorted([*path.glob('*.arrow'), *path.glob('*/*.arrow')])
  found = [*path.glob('*.parquet'), *path.glob('*/*.parquet')]
  if found and any(map(annotations.is_image, paths.Directory(path).names)):
    return []
  return sorted(found)


def open_tables(
  root: pathlib.Path, tables: list[pathlib.Path]
) -> tuple[Rows, annotations.Annotations]:
  """Returns the images of tables, with their labels and splits.

  Raises:
    DataError: a file cannot be read, or its columns are others.
  """
  folder = root if root.is_dir() else root.parent
  found = {os.path.relpath(x, folder): _open_table(x) for x in tables}
  classes: dict[str, str] = {}
  splits: dict[str, str] = {}
  names = next(iter(found.values())).class_names
  for name, table in found.items():
    where = errors.quote(folder / name)
    if table.class_names != names:
      raise errors.DataError(
        f'{where}: expected the names of classes of {errors.quote(tables[0])},'
        ' found others; give one of the files'
      )
    split = annotations.find_split(name)
    labels = table.labels or [None] * len(table.sizes)
    for row, label in enumerate(labels):
      image = f'{name}/{row:08d}'
      found_class = annotations.read_class(label, f'{where}: row {row}')
      if names and found_class:
        if not (isinstance(label, int) and 0 <= label < len(names)):
          raise errors.DataError(
            f'{where}: row {row}: expected a label below {len(names)},'
            f' found {errors.quote(label)}'
          )
        found_class = names[label]
      classes[image] = found_class
      splits[image] = split
  why = f'none, there is no column {" or ".join(_LABELS)}'
  known = annotations.Annotations(classes, splits, why, class_names=names)
  return Rows(root, found), known


def _open_table(path: pathlib.Path) -> _Table:
  import pyarrow as pa
  import pyarrow.compute

  where = errors.quote(path)
  with errors.as_data_error(f'{where}: no readable table of images'):
    if not path.is_file():
      raise OSError(files.NOT_REGULAR)
    if path.suffix == '.parquet':
      path = _copy_as_arrow(path)
    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    images = table.column(_find_column(table.schema, where))
    places = None
    if pa.types.is_struct(kind := images.type):
      if kind.get_field_index('path') >= 0:
        places = pyarrow.compute.struct_field(images, 'path')
      images = pyarrow.compute.struct_field(images, 'bytes')
    sizes = pyarrow.compute.binary_length(images).to_pylist()
    label = next((x for x in _LABELS if x in table.column_names), None)
    labels = table.column(label).to_pylist() if label else None
  names = _find_class_names(table.schema, label)
  return _Table(images, places, sizes, labels, names)


def _find_column(schema: Any, where: str) -> str:
  """Returns the column of images: `image`, or the only one that can be."""
  import pyarrow as pa

  def holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
      at = kind.get_field_index('bytes')
      return at >= 0 and holds_bytes(kind.field(at).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

  found = [field.name for field in schema if holds_bytes(field.type)]
  named = [name for name in found if name in _IMAGES]
  if len(named or found) != 1:
    raise errors.DataError(
      f'{where}: expected a column image of bytes or {{bytes, path}}, found'
      f' {errors.quote(found or schema.names)}; name it `image`'
    )
  return (named or found)[0]


def _find_class_names(schema: Any, label: str | None) -> tuple[str, ...] | None:
  """Returns the names of `ClassLabel`, which `datasets` adds to a schema."""
  try:
    text = (schema.metadata or {})[b'huggingface']
    names = json.loads(text)['info']['features'][label]['names']
  except (KeyError, TypeError, ValueError, RecursionError):
    return None
  is_list = isinstance(names, list) and all(isinstance(x, str) for x in names)
  is_list = is_list and 1 < len(names) == len({*names})
  return tuple(names) if is_list else None


def _copy_as_arrow(path: pathlib.Path) -> pathlib.Path:
  """Returns the copy of a parquet file, which is made if it is outdated."""
  import pyarrow as pa
  from pyarrow import parquet

  stamp = repr(paths.stat_file(path)).encode()
  name = hashlib.sha256(os.path.abspath(path).encode(errors='replace'))
  target = files.find_cache_folder() / f'{name.hexdigest()[:40]}.arrow'
  if target.exists():
    schema = pa.ipc.open_stream(pa.memory_map(str(target))).schema
    if (schema.metadata or {}).get(_STAMP) == stamp:
      return target
  with parquet.ParquetFile(path) as file:
    schema = file.schema_arrow
    label = [x for x in _LABELS if x in schema.names][:1]
    columns = [_find_column(schema, errors.quote(path)), *label]
    kept = pa.schema([schema.field(x) for x in columns])
    kept = kept.with_metadata({**(schema.metadata or {}), _STAMP: stamp})
    _LOG.warning('%s: copied once to %s, for random access', path, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
      files.replace_file(target, is_durable=False) as new,
      pa.ipc.new_stream(new, kept) as out,
    ):
      for batch in file.iter_batches(_BATCH, columns=columns):
        out.write_batch(batch.select(columns).cast(kept))
  return target
