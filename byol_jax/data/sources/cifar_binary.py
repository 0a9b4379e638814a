"""Reads the binary version of CIFAR-10 and CIFAR-100, as it is downloaded.

A record is one byte, the class, or two of CIFAR-100 (coarse and fine class, of
which the fine one is the label), and 3,072 bytes: 32 x 32 pixels, row by row,
the red ones first. The Python version consists of pickles, which can execute
code; it is not read.
"""

from collections.abc import Mapping, Sequence
import gzip
import pathlib
import tarfile
from typing import IO, NamedTuple
import zlib

import numpy as np

from byol_jax import errors, files
from byol_jax.data.sources import arrays

_SHAPE = 3, 32, 32
_MAX_BYTES = 2**29  # of an archive without compression, 185 MB are usual
_SUFFIXES = ('.tar.gz', '.tgz', '.tar')
_PICKLES = ('cifar-10-batches-py', 'cifar-100-python')  # their folders


class _Kind(NamedTuple):
  name: str
  folder: str  # around the files in the archive
  train: tuple[str, ...]
  test: str
  class_names: str
  num_classes: int
  label_bytes: int


_KINDS = (
  _Kind(
    name='CIFAR-10',
    folder='cifar-10-batches-bin',
    train=tuple(f'data_batch_{i}.bin' for i in range(1, 6)),
    test='test_batch.bin',
    class_names='batches.meta.txt',
    num_classes=10,
    label_bytes=1,
  ),
  _Kind(
    name='CIFAR-100',
    folder='cifar-100-binary',
    train=('train.bin',),
    test='test.bin',
    class_names='fine_label_names.txt',
    num_classes=100,
    label_bytes=2,
  ),
)


def read_cifar(path: pathlib.Path) -> dict[str, arrays.ArraySource] | None:
  """Returns 'train' and 'test' of CIFAR; None if a path is something else.

  Args:
    path: the archive, compressed or not, a folder of its files, or the folder
      around that.

  Raises:
    DataError: it is the Python version, or a file is missing or broken.
  """
  is_archive = path.name.lower().endswith(_SUFFIXES) and path.is_file()
  members = _read_members(path) if is_archive else {}
  for kind in _KINDS:
    if f'{kind.folder}/{kind.train[0]}' in members:
      return _parse(path, f'{kind.folder}/', kind, members)
    for folder in (path, path / kind.folder):
      if (folder / kind.train[0]).exists():
        names = (*kind.train, kind.test, kind.class_names)
        places = {name: folder / name for name in names}
        found = {x: files.read_file(y) for x, y in places.items() if y.exists()}
        return _parse(folder, '', kind, found)
  if any((path / x).is_dir() or path.name == x for x in _PICKLES):
    raise _refuse_pickles(path)
  return None


class _Bounded:
  """A stream of which at most `_MAX_BYTES` are read."""

  def __init__(self, stream: IO[bytes]) -> None:
    self._stream, self._left = stream, _MAX_BYTES

  def read(self, size: int) -> bytes:
    """Returns bytes, or raises ReadError."""
    self._left -= size
    if self._left < 0:
      raise tarfile.ReadError(f'more than {_MAX_BYTES:,} bytes')
    return self._stream.read(size)


def _read_members(path: pathlib.Path) -> dict[str, bytes]:
  """Returns the files of an archive of CIFAR, nothing of another tar file."""
  found: dict[str, bytes] = {}
  name = ''
  is_plain = path.suffix.lower() == '.tar'
  try:
    with (
      open(path, 'rb') if is_plain else gzip.open(path) as stream,
      tarfile.open(fileobj=_Bounded(stream), mode='r|') as tar,  # type: ignore
    ):
      for member in tar:
        plain = member.name.removeprefix('./')
        folder = plain.partition('/')[0]
        if folder in _PICKLES:
          raise _refuse_pickles(path)
        if folder not in [kind.folder for kind in _KINDS]:
          return {}
        name = plain
        if data := tar.extractfile(member) if member.isreg() else None:
          found[name] = data.read()
  except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
    if not name:
      return {}  # archives.Archive says why
    raise errors.DataError(
      f'{errors.quote(path)}: truncated or damaged, read to'
      f' {errors.quote(name)}: {errors.first_line(error)}; download it again'
    ) from error
  return found


def _refuse_pickles(path: pathlib.Path) -> errors.DataError:
  return errors.DataError(
    f'{errors.quote(path)}: is the Python version of CIFAR, pickles, which are'
    ' not read since they can execute code; download the binary version,'
    ' cifar-10-binary.tar.gz or cifar-100-binary.tar.gz'
  )


def _parse(
  path: pathlib.Path, start: str, kind: _Kind, found: Mapping[str, bytes]
) -> dict[str, arrays.ArraySource]:
  """Returns the parts of a set from its files, whose names begin with start."""
  class_names: Sequence[str] | None = None
  if (text := found.get(start + kind.class_names)) is not None:
    class_names = text.decode(errors='replace').split()
    if len(class_names) != kind.num_classes:
      raise errors.DataError(
        f'{errors.quote(path / kind.class_names)}: expected the names of'
        f' {kind.num_classes} classes, found {len(class_names)}'
      )
  sources = {}
  for split, names in {'train': kind.train, 'test': (kind.test,)}.items():
    records = np.concatenate(
      [_parse_records(path / x, kind, found.get(start + x)) for x in names]
    )
    pixels = records[:, kind.label_bytes :].reshape(-1, *_SHAPE)
    sources[split] = arrays.ArraySource(
      np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)),
      records[:, kind.label_bytes - 1],
      name=f'{kind.name} ({split})',
      class_names=class_names,
      num_classes=kind.num_classes,
    )
  return sources


def _parse_records(
  path: pathlib.Path, kind: _Kind, data: bytes | None
) -> np.ndarray:
  """Returns the records of a file, uint8 [N, label_bytes + 3072]."""
  size = kind.label_bytes + np.prod(_SHAPE)
  if not data or len(data) % size:
    found = 'no such file' if data is None else f'{len(data):,} bytes'
    raise errors.DataError(
      f'{errors.quote(path)}: expected records of {size:,} bytes, found'
      f' {found}; download the binary version of {kind.name} again'
    )
  records = np.frombuffer(data, np.uint8).reshape(-1, size)
  highest = records[:, kind.label_bytes - 1].max()
  if highest >= kind.num_classes:
    raise errors.DataError(
      f'{errors.quote(path)}: expected classes below {kind.num_classes}, found'
      f' {highest}; it is no file of the binary version of {kind.name}'
    )
  return records
