"""Reads the binary version of CIFAR-10 and CIFAR-100, as it is downloaded.

A record is one byte, the class, or two of CIFAR-100 (coarse and fine class, of
which the fine one is the label), and 3,072 bytes: 32 x 32 pixels, row by row,
the red ones first. The Python version consists of pickles, which can execute
code; it is not read.
"""

from collections.abc import Mapping
import gzip
import pathlib
import tarfile
from typing import IO, NamedTuple
import zlib

import numpy as np

from byol_jax import errors, files
from byol_jax.data.sources import arrays

_SHAPE = 3, 32, 32
_PIXELS = 3 * 32 * 32
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
  for kind in _KINDS:
    folders = path, path / kind.folder
    folder = next((x for x in folders if (x / kind.train[0]).exists()), None)
    if folder:
      names = [*kind.train, kind.test, kind.class_names]
      found = {
        name: files.read_file(folder / name)
        for name in names
        if (folder / name).exists()
      }
      return _parse(folder, kind, found)
  if path.is_dir():
    if path.name in _PICKLES or any((path / x).is_dir() for x in _PICKLES):
      raise _refuse_pickles(path)
    return None
  if not path.name.lower().endswith(_SUFFIXES) or not path.is_file():
    return None
  members = _read_members(path)
  for kind in _KINDS:
    if f'{kind.folder}/{kind.train[0]}' in members:
      start = f'{kind.folder}/'
      found = {x.removeprefix(start): data for x, data in members.items()}
      return _parse(path, kind, found)
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
      return {}  # whoever opens it next says why
    raise errors.DataError(
      f'{errors.quote(path)}: truncated or damaged, read to'
      f' {errors.quote(name)}: {errors.first_line(error)}; download'
      ' it again'
    ) from error
  return found


def _refuse_pickles(path: pathlib.Path) -> errors.DataError:
  return errors.DataError(
    f'{errors.quote(path)}: is the Python version of CIFAR, pickles, which are'
    ' not read since they can execute code; download the binary version,'
    ' cifar-10-binary.tar.gz or cifar-100-binary.tar.gz'
  )


def _parse(
  path: pathlib.Path, kind: _Kind, found: Mapping[str, bytes]
) -> dict[str, arrays.ArraySource]:
  class_names: list[str] | None = None
  if kind.class_names in found:
    text = found[kind.class_names].decode(errors='replace')
    class_names = text.split()
    if len(class_names) != kind.num_classes:
      raise errors.DataError(
        f'{errors.quote(path / kind.class_names)}: expected the names of'
        f' {kind.num_classes} classes, found {len(class_names)}'
      )
  sources = {}
  for split, names in {'train': kind.train, 'test': (kind.test,)}.items():
    records = np.concatenate(
      [_read_records(path, kind, found, x) for x in names]
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


def _read_records(
  path: pathlib.Path, kind: _Kind, found: Mapping[str, bytes], name: str
) -> np.ndarray:
  """Returns the records of a file, uint8 [N, label_bytes + 3072]."""
  where = errors.quote(path / name)
  size = kind.label_bytes + _PIXELS
  data = found.get(name, b'')
  if not data or len(data) % size:
    bytes_found = f'{len(data):,} bytes' if name in found else 'no such file'
    raise errors.DataError(
      f'{where}: expected records of {size:,} bytes, found'
      f' {bytes_found}; download the binary version of {kind.name} again'
    )
  records = np.frombuffer(data, np.uint8).reshape(-1, size)
  highest = records[:, kind.label_bytes - 1].max()
  if highest >= kind.num_classes:
    raise errors.DataError(
      f'{where}: expected classes below {kind.num_classes}, found {highest}; it'
      f' is no file of the binary version of {kind.name}'
    )
  return records
