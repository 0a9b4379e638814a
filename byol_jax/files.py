"""Reads files, writes JSON whole or not at all, flushes files, checks paths."""

from collections.abc import Iterator
import contextlib
import errno
import hashlib
import io
import json
import os
import pathlib
import shutil
import stat
import tempfile
from typing import IO, Any

from byol_jax import errors

MAX_BYTES = 2**31  # of a file that is read at once
NOT_REGULAR = 'expected a regular file, found a pipe or a device'


def read_regular(path: str | os.PathLike[str], limit: int = MAX_BYTES) -> bytes:
  """Returns the content of a regular file; waits for no pipe and no device.

  Args:
    path: of this machine.
    limit: bytes that are read at most; a file may claim any length.

  Raises:
    OSError: it is missing, no regular file, longer, or cannot be read.
    ValueError: there is a NUL in the name.
  """
  # Without O_NONBLOCK, opening a named pipe waits for its writer.
  opener = lambda path, flags: os.open(path, flags | os.O_NONBLOCK)
  with open(path, 'rb', buffering=0, opener=opener) as file:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
      raise OSError(errno.EINVAL, NOT_REGULAR)
    if status.st_size > limit:
      raise OSError(errno.EFBIG, f'has more than {limit:,} bytes')
    return file.read()


def read_file(path: str | pathlib.Path) -> bytes:
  """Returns the content of a regular file; see `read_regular`.

  Raises:
    DataError: it is missing, no regular file, or cannot be read.
  """
  try:
    return read_regular(path)
  except (OSError, ValueError) as error:
    reason = error.strerror if isinstance(error, OSError) else error
    raise errors.DataError(
      f'{errors.quote(path)}: cannot be read: {reason}'
    ) from error


def digest_file(path: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 of a file in hexadecimal; raises OSError."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


EXPECTED_PATH = 'a local path (names of at most 255 bytes) or gs://BUCKET/...'


def write_json(path: str | pathlib.Path, value: Any) -> None:
  """Replaces `path` by `value` as JSON; see `write_text`."""
  write_text(path, json.dumps(value, indent=2) + '\n')


def write_text(path: str | pathlib.Path, text: str) -> None:
  """Replaces `path` by a text: all of it or, on errors, nothing.

  Raises:
    DataError: it cannot be written; an older file is as it was.
  """
  try:
    with replace_file(path) as file:
      file.write(text.encode('utf-8', 'backslashreplace'))
  except OSError as error:
    raise errors.DataError(
      f'{errors.quote(path)} cannot be written: {error.strerror}'
    ) from error


@contextlib.contextmanager
def replace_file(
  path: str | pathlib.Path, is_durable: bool = True
) -> Iterator[IO[bytes]]:
  """Yields a file that replaces `path` at the end; not after an exception.

  Several processes may do so at once. Raises OSError.

  Args:
    path: in a folder that exists.
    is_durable: whether the new file outlasts a power cut, which takes longer.
  """
  parent, name = os.path.split(path)
  parent = os.path.realpath(parent)  # `link/..` is not the folder of the link
  with tempfile.TemporaryDirectory(dir=parent, prefix=f'.{name[:40]}.') as new:
    with open(os.path.join(new, 'new'), 'wb') as file:
      yield file
    if is_durable:
      flush(file.name)
    os.replace(file.name, path)
  if is_durable:
    flush(parent)


@contextlib.contextmanager
def refuse_unwritable(name: str) -> Iterator[None]:
  """Raises DataError, with what could not be written, for an OSError."""
  try:
    yield
  except OSError as error:
    raise errors.DataError(
      f'{name}: cannot be written: {error.strerror or error}; name a place'
      ' where you may write'
    ) from error


def find_free_folder(name: str, path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the real path of a folder that is missing or empty.

  Arguments and errors as of `find_writable_folder`; DataError also if something
  is there.
  """
  return find_writable_folder(name, path, is_free=True)


def find_writable_folder(
  name: str, path: str | os.PathLike[str], is_free: bool = False
) -> pathlib.Path:
  """Returns the real path of a folder, or of one that can be made.

  A folder that is made and removed shows that it can be written: permissions
  do not tell of root, or of a file system that is read-only.

  Args:
    name: of the argument, for messages.
    path: of this machine.
    is_free: whether to refuse a folder that holds something.

  Raises:
    ConfigError: it can be no local path.
    DataError: it cannot be written.
  """
  check_path(name, path)
  where = f'{name} {errors.quote(path)}'
  if '://' in str(path):
    raise errors.ConfigError(f'{where}: expected a folder on this machine')
  folder = pathlib.Path(os.path.realpath(expand_home(path)))
  with refuse_unwritable(where):
    is_folder = folder.is_dir()
    if is_free and (
      any(folder.iterdir()) if is_folder else os.path.lexists(folder)
    ):
      raise errors.DataError(
        f'{where}: expected a folder that is missing or empty; name another'
      )
    existing = next(x for x in (folder, *folder.parents) if os.path.lexists(x))
    tempfile.TemporaryDirectory(dir=existing, prefix='.byol_jax.').cleanup()
  return folder


@contextlib.contextmanager
def fill_folder(folder: pathlib.Path, last: str = '') -> Iterator[pathlib.Path]:
  """Yields an empty folder, whose content `folder` has at the end.

  A new folder appears whole. One that exists stays the same folder, since it
  may be the current one, or one on which a disk is mounted; what it gets is
  moved there at the end. After an exception nothing is left.

  Args:
    folder: missing or empty, with a real path.
    last: the name that is moved last into a folder that exists.

  Raises:
    OSError: it cannot be written, or another process has filled it meanwhile.
  """
  exists = folder.is_dir()
  temporary = folder if exists else folder.parent
  temporary /= f'.{folder.name}.{os.getpid()}.tmp'
  try:
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    if exists:
      if [path for path in folder.iterdir() if path != temporary]:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
      for path in sorted(temporary.iterdir(), key=lambda x: x.name == last):
        path.rename(folder / path.name)
    else:
      temporary.rename(folder)
    flush(folder.parent)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def open_own(path: str | os.PathLike[str], flags: int = 0) -> int:
  """Opens a file of a run to read and write it, made if it is missing.

  Waits for no pipe, and empties no file to which a link leads.

  Args:
    path: in a workdir, where others may have put anything.
    flags: besides, as of `os.open`.

  Returns:
    The file descriptor.

  Raises:
    OSError: it cannot be opened, or is a link, a pipe or a device.
  """
  flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
  name = os.path.basename(path)
  reason = f'{name} is a symbolic link, a pipe or a device; remove it'
  try:
    handle = os.open(path, flags, 0o644)
  except OSError as error:
    if error.errno in (errno.ELOOP, errno.ENXIO):
      raise OSError(error.errno, reason) from error
    raise
  if not stat.S_ISREG(os.fstat(handle).st_mode):
    os.close(handle)
    raise OSError(errno.EINVAL, reason)
  return handle


def append_json(path: str | pathlib.Path, value: Any) -> None:
  """Appends `value` as one line of JSON: all of it or, on errors, nothing.

  It begins a line even after a part of one, which a killed process left.

  Raises:
    DataError: it cannot be written.
  """
  line = json.dumps(value).encode() + b'\n'
  try:
    with open(open_own(path, os.O_APPEND), 'r+b', buffering=0) as file:
      size = file.seek(0, os.SEEK_END)
      if size and os.pread(file.fileno(), 1, size - 1) != b'\n':
        line = b'\n' + line
      append_bytes(file, line)
  except OSError as error:
    raise errors.DataError(
      f'{errors.quote(path)} cannot be written: {error.strerror}'
    ) from error


def append_bytes(file: io.FileIO, data: bytes) -> None:
  """Appends bytes, or raises OSError and leaves the file as it was."""
  size = os.fstat(file.fileno()).st_size
  if file.write(data) != len(data):
    file.truncate(size)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def flush_tree(folder: str | os.PathLike[str]) -> None:
  """Makes a folder, all below it and its name outlast a power cut.

  Raises:
    OSError: something did not reach the disk.
  """
  for path, _, names in os.walk(folder):
    for name in names:
      flush(os.path.join(path, name))
    flush(path)
  flush(pathlib.Path(folder).parent)


def flush(path: str | os.PathLike[str]) -> None:
  """Makes a file, or the names in a folder, outlast a power cut.

  Raises:
    OSError: it did not reach the disk.
  """
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


def is_path(text: str) -> bool:
  """Returns whether a text can name a local path or one in a bucket.

  Nothing is looked at but the home folder of the user in `~user`.
  """
  scheme, separator, rest = text.partition('://')
  if separator:
    return scheme == 'gs' and not rest.startswith('/') and rest != ''
  octets = text.encode(errors='surrogatepass')
  return (
    0 < len(octets) < 4096
    and b'\0' not in octets
    and all(len(name) <= 255 for name in octets.split(b'/'))
    and not os.path.expanduser(text).startswith('~')
  )


def expand_home(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns a local path with the home folder for its `~` or `~user`.

  Raises:
    ConfigError: there is none, as for a user of a container without HOME.
  """
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:
    raise errors.ConfigError(
      f'{errors.quote(path)}: expected a home folder, found none; set HOME, or'
      ' give another path'
    ) from error


def find_cache_folder() -> pathlib.Path:
  """$BYOL_JAX_CACHE, else $XDG_CACHE_HOME/byol_jax, else ~/.cache/byol_jax.

  Raises:
    ConfigError: it is a URL, or there is no home folder.
  """
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  folder = os.environ.get('BYOL_JAX_CACHE') or os.path.join(home, 'byol_jax')
  if '://' in folder:  # a local path would be a folder 'gs:'
    raise errors.ConfigError(
      'BYOL_JAX_CACHE: expected a folder on this machine, found'
      f' {errors.quote(folder)}'
    )
  return expand_home(folder)


def check_path(name: str, path: str | os.PathLike[str]) -> None:
  """Raises ConfigError if a text, such as the argument `name`, is no path."""
  if not is_path(os.fspath(path)):
    raise errors.ConfigError(
      f'{name}: expected {EXPECTED_PATH}, found {errors.quote(path)}'
    )
