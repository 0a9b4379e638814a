"""Reads files on a disk or in a bucket, and lists the files of a folder.

A local path is a `pathlib.Path`; a path that starts with gs:// is an
`epath.Path` of etils, the library through which TFDS reads buckets.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import contextlib
import functools
import os
import pathlib
import threading
from typing import NamedTuple, TypeAlias, TypeVar

from etils import epath

from byol_jax import errors, files

Path: TypeAlias = pathlib.Path | epath.Path
ReadRange = Callable[[int, int], bytes]  # length and offset in bytes -> bytes
T = TypeVar('T')

# Seconds for the first answer of a bucket. The client of TensorFlow retries
# for minutes; that of array_record was seen to block without an end.
BUCKET_TIMEOUT = 30.0
_BLOCK = 2**23  # bytes a request while an index is built; latency dominates


class FileStamp(NamedTuple):
  """Size in bytes and time of the last change in ns, 0 where unknown."""

  size: int
  mtime_ns: int


def is_bucket(text: str) -> bool:
  """Returns whether a path names a bucket and not a place on the disk."""
  return '://' in text


def parse_path(text: str) -> Path:
  """Returns a local path, with ~ expanded, or the path of a bucket.

  Raises:
    DataError: the path is a URL of another scheme than gs://.
    ConfigError: it begins with ~ and there is no home folder.
  """
  if not is_bucket(text):
    return files.expand_home(text)
  if not text.startswith('gs://'):
    raise errors.DataError(
      f'{text}: expected gs:// or a local path; mount or copy the set'
    )
  return epath.Path(text)


def stat_file(path: Path) -> FileStamp:
  """Returns size and time of a file; raises OSError if it is missing."""
  if isinstance(path, pathlib.Path):
    status = path.stat()
    return FileStamp(status.st_size, status.st_mtime_ns)
  found = path.stat()
  return FileStamp(found.length, found.mtime * 10**9)


@contextlib.contextmanager
def open_ranges(path: Path, *, sequential: bool = False) -> Iterator[ReadRange]:
  """Opens a file and yields a function that reads ranges of it.

  The function takes length and offset, and returns fewer bytes at the end of
  the file.

  Args:
    path: a local file or a file in a bucket.
    sequential: requests large blocks from a bucket, for reads that mostly go
      forward.
  """
  if isinstance(path, pathlib.Path):
    file = os.open(path, os.O_RDONLY)
    try:
      yield functools.partial(os.pread, file)
    finally:
      os.close(file)
    return
  with path.open('rb') as stream:

    def read(length: int, offset: int) -> bytes:
      stream.seek(offset)
      return stream.read(length)

    yield _buffer_blocks(read) if sequential else read


def read_range(path: Path, length: int, offset: int) -> bytes:
  """Returns bytes [offset, offset + length) of a file; safe from any thread.

  The file is opened for each read: ImageNet has 1,024 shards, as many as the
  files that a process may by default hold open.
  """
  with open_ranges(path) as read:
    return read(length, offset)


def _buffer_blocks(read: ReadRange) -> ReadRange:
  """Serves reads from one block, which moves forward with them."""
  start, block = 0, b''

  def read_buffered(length: int, offset: int) -> bytes:
    nonlocal start, block
    if not start <= offset <= offset + length <= start + len(block):
      start, block = offset, read(max(length, _BLOCK), offset)
    return block[offset - start : offset - start + length]

  return read_buffered


def call_with_timeout(path: Path, action: str, call: Callable[[], T]) -> T:
  """Returns call(); for a bucket, raises if it takes over BUCKET_TIMEOUT.

  Args:
    path: what `call` reads; if it is local, nothing is added to the call.
    action: names the call in an error, as in 'reading dataset_info.json'.
    call: the first access to `path`.

  Raises:
    DataError: the bucket did not answer in time, or answered with an error.
      UserError, FileNotFoundError and every error of a local path pass.
  """
  if isinstance(path, pathlib.Path):
    return call()
  future: futures.Future[T] = futures.Future()

  def attempt() -> None:
    try:
      future.set_result(call())
    except BaseException as error:
      future.set_exception(error)

  # A daemon: a call that never returns must not keep the process alive.
  threading.Thread(target=attempt, daemon=True).start()
  try:
    return future.result(BUCKET_TIMEOUT)
  except (errors.UserError, FileNotFoundError):
    raise
  except TimeoutError:
    reason = f'no answer within {BUCKET_TIMEOUT:g} s'
  except Exception as error:
    reason = f'failed: {errors.first_line(error)}'
  raise errors.DataError(
    f'{path}: {action}: {reason}; check the network, the name of the bucket'
    ' and the credentials (gcloud auth application-default login), or mount'
    ' the bucket or copy the set to a local path'
  )


class Directory:
  """The files below a local folder, by posix path relative to it.

  Args:
    root: the folder.
    names: the files, if not all of it.
  """

  def __init__(
    self, root: pathlib.Path, names: Sequence[str] | None = None
  ) -> None:
    self.root = root
    self.is_whole = names is None
    self._names = names

  @property
  def names(self) -> Iterator[str]:
    """Follows links, enters each real folder once, skips hidden folders.

    Of a hidden folder, and of one that cannot be read, it has the name, with a
    slash at the end.
    """
    if self._names is not None:
      yield from self._names
      return
    seen = set()
    failed: list[OSError] = []
    for folder, folders, names in os.walk(
      self.root, onerror=failed.append, followlinks=True
    ):
      status = os.stat(folder)
      if (status.st_dev, status.st_ino) in seen:
        folders.clear()
        continue
      seen.add((status.st_dev, status.st_ino))
      names += (f'{f}/' for f in folders if f.startswith('.'))
      folders[:] = sorted(f for f in folders if not f.startswith('.'))
      base = pathlib.Path(folder).relative_to(self.root).as_posix()
      yield from (f'{base}/{name}'.removeprefix('./') for name in names)
    for error in failed:
      below = os.path.relpath(error.filename, self.root)
      yield f'{self.root.name if below == "." else below}/'

  def size(self, name: str) -> int:
    """Returns the bytes of a file, -1 if it has none: a broken link."""
    try:
      return (self.root / name).stat().st_size
    except OSError:
      return -1

  def read(self, name: str) -> bytes:
    """Returns the content of a file."""
    return files.read_regular(self.root / name)
