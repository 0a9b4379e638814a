"""Reads the members of a tar file like the files of a folder.

Python's tarfile lists the members once, and the index cache keeps the list;
reading a member is then one positioned read. Only plain files below the root
of the tar are listed: no links, no devices, no paths with '..' or from '/'. A
tar inside the tar is not opened.
"""

from collections.abc import Iterator, Sequence
import errno
import io
import os
import pathlib
import posixpath
import tarfile

import numpy as np

from byol_jax import errors, files
from byol_jax.data.sources import base, index_cache, paths

_BLOCK = tarfile.BLOCKSIZE
_LONGEST = 2**20  # bytes of a header


class _ShortReads(io.FileIO):
  """A file whose headers are read in parts of at most `_LONGEST` bytes.

  A header may claim any length, and tarfile would read that much.
  """

  def read(self, size: int | None = -1) -> bytes:
    """Returns bytes, or raises ReadError."""
    if size is None or not 0 <= size <= _LONGEST:
      raise tarfile.ReadError(f'a header of {size} bytes')
    return super().read(size) or b''


class Archive:
  """The plain files of a tar, by posix path relative to its root.

  Raises:
    DataError: the file is missing, no tar, compressed, damaged or truncated.
  """

  def __init__(self, path: str | os.PathLike[str]) -> None:
    self.root = pathlib.Path(path)
    try:
      stamp = paths.stat_file(self.root)
      if not self.root.is_file():
        raise OSError(errno.EINVAL, files.NOT_REGULAR)
      index = index_cache.load_or_build(
        'tar-3', self.root, stamp, lambda: _list_members(self.root, stamp.size)
      )
    except OSError as error:
      raise errors.DataError(
        f'{self.root}: cannot be read: {error.strerror}'
      ) from error
    self.names = index_cache.unpack_names(index['names'])
    self._offsets, self._sizes = index['offsets'], index['sizes']
    self._rows = {name: i for i, name in enumerate(self.names)}

  def size(self, name: str) -> int:
    """Returns the bytes of a file; KeyError if there is none of that name."""
    return int(self._sizes[self._rows[name]])

  def read(self, name: str) -> bytes:
    """Returns the content of a file; safe from any thread."""
    if self.size(name) > files.MAX_BYTES:
      reason = f'has more than {files.MAX_BYTES:,} bytes'
      raise OSError(errno.EFBIG, reason)
    offset = int(self._offsets[self._rows[name]])
    return paths.read_range(self.root, self.size(name), offset)


def _list_members(path: pathlib.Path, size: int) -> index_cache.Arrays:
  """Packed names; offsets and sizes, int64 [N]."""
  members: dict[str, tuple[int, int]] = {}  # of equal names the last counts
  end = 0  # of the members found so far, in bytes
  try:
    with (
      _ShortReads(path) as file,
      tarfile.open(fileobj=file, mode='r:') as tar,
    ):
      while (member := tar.next()) is not None:
        # tarfile would keep all members, 1 GB for ImageNet.
        tar.members.clear()  # type: ignore[attr-defined]
        if member.size < 0:  # the next member would be an earlier one
          raise tarfile.ReadError(f'a member of {member.size} bytes')
        end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
        name = _plain_name(member)
        if name is not None:
          members[name] = member.offset_data, member.size
      end = tar.offset
    # A tar that is cut between two members looks like one that ends there.
    mark = paths.read_range(path, _BLOCK, end)
    if len(mark) < _BLOCK or any(mark):
      raise tarfile.ReadError('expected a member or the end mark')
  # tarfile raises many kinds on broken headers, but for the disk's OSError.
  except OSError:
    raise
  except Exception as error:
    if not end:
      raise errors.DataError(
        f'{path}: is a file, but no tar file without compression (which would'
        ' allow no random access), .csv, .npz, .parquet or .txt; unpack an'
        ' archive and give the folder of images'
      ) from error
    reason = errors.to_line(str(error))[:200]
    raise errors.DataError(
      f'{path}: truncated or damaged: read to byte {end:,}, the file has'
      f' {size:,}: {reason}; copy or download it again'
    ) from error
  spans = np.array(list(members.values()), np.int64).reshape(-1, 2)
  return {
    'names': index_cache.pack_names(members),
    'offsets': spans[:, 0],
    'sizes': spans[:, 1],
  }


def _plain_name(member: tarfile.TarInfo) -> str | None:
  """The path of a plain file below the root; None for anything else."""
  if not member.isreg() or member.issparse():
    return None
  name = member.name
  if name.startswith('/') or '\0' in name or '..' in name.split('/'):
    return None
  return posixpath.normpath(name)


class Shards:
  """The plain files of several tars, as 'PATH/OF/SHARD.tar/MEMBER'.

  Args:
    root: a folder around them.
    tars: their paths.

  Raises:
    DataError: see `Archive`.
  """

  def __init__(self, root: pathlib.Path, tars: Sequence[pathlib.Path]) -> None:
    self.root = root
    self.parts = {
      os.path.relpath(path, root): archive
      for path, archive in zip(tars, base.call_in_threads(Archive, tars))
    }

  @property
  def names(self) -> Iterator[str]:
    """The shards in their order, the members in that of each shard."""
    for shard, archive in self.parts.items():
      yield from (f'{shard}/{name}' for name in archive.names)

  def size(self, name: str) -> int:
    """Returns the bytes of a member."""
    archive, member = self._locate(name)
    return archive.size(member)

  def read(self, name: str) -> bytes:
    """Returns the content of a member; safe from any thread."""
    archive, member = self._locate(name)
    return archive.read(member)

  def _locate(self, name: str) -> tuple[Archive, str]:
    shard, _, member = name.partition('.tar/')
    return self.parts[f'{shard}.tar'], member
