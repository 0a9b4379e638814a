"""Files on a disk or in a bucket: what they are, and their bytes at any place.

A path of the disk is a pathlib.Path; one that starts with gs:// is an
epath.Path of etils, the library by which TFDS too reaches buckets. Reads of
the disk are positioned reads of the system.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import os
import pathlib
import threading
from typing import Any, NamedTuple, TypeAlias, TypeVar

from etils import epath

from byol_jax import errors

Path: TypeAlias = pathlib.Path | epath.Path
Read = Callable[[int, int], bytes]  # length and offset in bytes -> bytes
T = TypeVar('T')

# Seconds for the first answer of a bucket. TensorFlow's own client has some
# minutes of patience, that of array_record was seen to wait for ever.
DEADLINE = 30.0
_BLOCK = 2**23  # bytes a request while an index is built; latency dominates


class Stamp(NamedTuple):
  """Size in bytes and time of the last change in ns, 0 where unknown."""

  size: int
  mtime_ns: int


def in_bucket(text: str) -> bool:
  """Whether a path names a bucket and not a place on the disk."""
  return '://' in text


def make_path(text: str) -> Path:
  """A path of the disk, ~ expanded, or of a bucket.

  Raises:
    DataError: a bucket that is not of gs://.
  """
  if not in_bucket(text):
    return pathlib.Path(text).expanduser()
  if not text.startswith('gs://'):
    raise errors.DataError(
      f'{text}: expected gs:// or a local path; mount or copy the set'
    )
  return epath.Path(text)


def stamp(path: Path) -> Stamp:
  """Size and time of a file; an OSError of the system, if there is none."""
  if isinstance(path, pathlib.Path):
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns)
  found = path.stat()
  return Stamp(found.length, found.mtime * 10**9)


@contextlib.contextmanager
def reading(path: Path, *, in_order: bool = False) -> Iterator[Read]:
  """A function that reads a file at any place; fewer bytes at its end.

  Args:
    path: of the disk or of a bucket.
    in_order: asks a bucket for large blocks, for reads that mostly go forward.
  """
  if isinstance(path, pathlib.Path):
    file = os.open(path, os.O_RDONLY)
    try:
      yield functools.partial(os.pread, file)
    finally:
      os.close(file)
    return
  with path.open('rb') as stream:
    read = functools.partial(_seek_and_read, stream)
    yield _in_blocks(read) if in_order else read


def read_at(path: Path, length: int, offset: int) -> bytes:
  """Some bytes of a file; safe from any thread.

  The file is opened for each read: ImageNet has 1,024 shards, as many as a
  process may by default hold open.
  """
  with reading(path) as read:
    return read(length, offset)


def _seek_and_read(stream: Any, length: int, offset: int) -> bytes:
  stream.seek(offset)
  return stream.read(length)


def _in_blocks(read: Read) -> Read:
  """Reads through one block that is held and moved along."""
  start, block = 0, b''

  def call(length: int, offset: int) -> bytes:
    nonlocal start, block
    if not start <= offset <= offset + length <= start + len(block):
      start, block = offset, read(max(length, _BLOCK), offset)
    return block[offset - start : offset - start + length]

  return call


@contextlib.contextmanager
def tidied(path: pathlib.Path) -> Iterator[None]:
  """If its block fails, the empty folders above `path` that it made go."""
  missing = [folder for folder in path.parents if not folder.exists()]
  try:
    yield
  except BaseException:
    for folder in missing:
      with contextlib.suppress(OSError):  # not empty: somebody else's
        folder.rmdir()
    raise


def contact(path: Path, doing: str, call: Callable[[], T]) -> T:
  """call(), for a bucket in a thread of its own and under the deadline.

  Args:
    path: what is asked for; on the disk, `call` is called and nothing else.
    doing: names the attempt, as in 'looking for dataset_info.json'.
    call: the first contact.

  Raises:
    DataError: a bucket gave no answer in time, or an error. A UserError, and
      anything on the disk, passes as it is.
  """
  if isinstance(path, pathlib.Path):
    return call()
  answer: list[T] = []
  failure: list[BaseException] = []

  def attempt() -> None:
    try:
      answer.append(call())
    except BaseException as error:
      failure.append(error)

  # A daemon: one that waits for ever must not keep the process.
  thread = threading.Thread(target=attempt, daemon=True)
  thread.start()
  thread.join(DEADLINE)
  if answer:
    return answer[0]
  if failure and isinstance(failure[0], errors.UserError | FileNotFoundError):
    raise failure[0]
  reason = f'no answer within {DEADLINE:g} s'
  if failure:
    first = (str(failure[0]) or type(failure[0]).__name__).splitlines()[0]
    reason = f'no success: {first}'
  raise errors.DataError(
    f'{path}: {doing}: {reason}; check the network, the name of the bucket'
    ' and the credentials (gcloud auth application-default login), or mount'
    ' the bucket or copy the set to a local path'
  )
