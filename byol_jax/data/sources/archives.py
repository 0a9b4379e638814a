"""A tar file as a folder of files with random access.

The members are listed once, by Python's tarfile, and kept in the cache of
indexes; a file is then one positioned read. A tar inside the tar, as each
class of ImageNet's ILSVRC2012_img_train.tar is one, is a folder of its name;
it is entered once, not further. What is no plain file below the tar's root is
left out: links, devices, paths with '..' or from '/'.
"""

from collections.abc import Iterator
import io
import os
import pathlib
import posixpath
import tarfile
from typing import NamedTuple

import numpy as np

from byol_jax import errors
from byol_jax.data.sources import index_cache, paths

_PACKED = {
  b'\x1f\x8b': 'gzip',
  b'BZh': 'bzip2',
  b'\xfd7zXZ': 'xz',
  b'\x28\xb5\x2f\xfd': 'zstd',
}
_INNER = '.tar'


class _Member(NamedTuple):
  name: str
  offset: int  # of its bytes in the whole file
  size: int


class Archive:
  """The plain files of a tar, by posix path relative to its root.

  Raises:
    DataError: no such file, no tar, a compressed one, or one that is cut.
  """

  def __init__(self, path: str | os.PathLike[str]) -> None:
    self.root = pathlib.Path(path)
    try:
      stamp = paths.stat_file(self.root)
      index = index_cache.load_or_build(
        'tar-1',
        self.root,
        stamp,
        build=lambda: _listed(self.root, stamp.size),
      )
    except OSError as error:
      raise errors.DataError(
        f'{self.root}: cannot be read: {error.strerror}'
      ) from error
    joined = index['names'].tobytes().decode('utf-8', 'surrogateescape')
    self.names = joined.split('\0') if joined else []
    self._offsets, self._sizes = index['offsets'], index['sizes']
    self._places = {name: i for i, name in enumerate(self.names)}

  def size(self, name: str) -> int:
    """Bytes of a file; KeyError if there is none of that name."""
    return int(self._sizes[self._places[name]])

  def read(self, name: str) -> bytes:
    """The bytes of a file; safe from any thread."""
    place = self._places[name]
    return paths.read_range(
      self.root, int(self._sizes[place]), int(self._offsets[place])
    )


def _listed(path: pathlib.Path, size: int) -> index_cache.Arrays:
  """Names, joined by zero bytes, uint8; offsets and sizes, int64 [N]."""
  found: dict[str, _Member] = {}
  with open(path, 'rb') as file:
    start = file.read(8)
    for magic, kind in _PACKED.items():
      if start.startswith(magic):
        raise errors.DataError(
          f'{path}: is compressed ({kind}), which allows no random access;'
          ' unpack it and give the folder, or the tar without compression'
        )
    for member in _members(file, str(path), 0, size):
      if member.name.endswith(_INNER):
        where = f'{path}: {member.name}'
        base = member.name.removesuffix(_INNER)
        for inner in _members(file, where, member.offset, member.size):
          # As in unpacking, the last one of a name counts.
          found[f'{base}/{inner.name}'] = inner
      else:
        found[member.name] = member
  names = '\0'.join(found).encode('utf-8', 'surrogateescape')
  return {
    'names': np.frombuffer(names, np.uint8),
    'offsets': np.array([m.offset for m in found.values()], np.int64),
    'sizes': np.array([m.size for m in found.values()], np.int64),
  }


class _Window(io.RawIOBase):
  """A part of a file as a file, for a tar inside a tar."""

  def __init__(self, file: io.BufferedReader, start: int, size: int) -> None:
    self._file, self._start, self._size, self._place = file, start, size, 0

  def seekable(self) -> bool:
    return True

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}
    self._place = base[whence] + offset
    return self._place

  def tell(self) -> int:
    return self._place

  def read(self, size: int = -1) -> bytes:
    left = max(0, self._size - self._place)
    length = left if size < 0 else min(size, left)
    data = os.pread(self._file.fileno(), length, self._start + self._place)
    self._place += len(data)
    return data


def _members(
  file: io.BufferedReader, where: str, start: int, size: int
) -> Iterator[_Member]:
  """The plain files of the tar in bytes [start, start + size) of a file."""
  window = _Window(file, start, size)
  needed = tarfile.BLOCKSIZE
  try:
    with tarfile.open(fileobj=window, mode='r:') as tar:
      while (member := tar.next()) is not None:
        # It would keep them all, a GB for ImageNet.
        tar.members.clear()  # type: ignore[attr-defined]
        if member.size < 0:  # or the next one would be an earlier one
          raise tarfile.ReadError(f'a member of {member.size} bytes')
        blocks = -(-max(0, member.size) // tarfile.BLOCKSIZE)
        needed = member.offset_data + blocks * tarfile.BLOCKSIZE
        name = _safe(member)
        if name is not None and needed <= size:
          yield _Member(name, start + member.offset_data, member.size)
      end = tar.offset
  except tarfile.TarError as error:
    named = where.endswith(_INNER)  # then it may be one that is cut
    if needed == tarfile.BLOCKSIZE and (size >= needed or not named):
      raise errors.DataError(
        f'{where}: is a file, but no tar file; expected a folder of images or'
        ' a tar file of one'
      ) from error
    if needed > size:
      raise _truncated(where, needed, size) from error
    raise errors.DataError(
      f'{where}: damaged after byte {needed:,}: {error}; copy'
      ' or download it again'
    ) from error
  # A tar that is cut between two members looks like one that ends there.
  mark = os.pread(
    file.fileno(), min(tarfile.BLOCKSIZE, size - end), start + end
  )
  if len(mark) < tarfile.BLOCKSIZE:
    raise _truncated(where, end + 2 * tarfile.BLOCKSIZE, size)
  if any(mark):
    raise errors.DataError(
      f'{where}: damaged at byte {end:,}: expected a member or the end mark;'
      ' copy or download it again'
    )


def _safe(member: tarfile.TarInfo) -> str | None:
  """The path of a plain file below the root; None for anything else."""
  if not member.isreg() or member.issparse():
    return None
  name = member.name
  if name.startswith('/') or '\0' in name or '..' in name.split('/'):
    return None
  return posixpath.normpath(name)


def _truncated(where: str, expected: int, found: int) -> errors.DataError:
  return errors.DataError(
    f'{where}: truncated: expected at least {expected:,} bytes, found'
    f' {found:,}; copy or download it again'
  )
