"""The folder of a run: one job at a time, with its config and versions.

`.lock` is held with flock(2), so the kernel lets go of it however the process
ends; the text inside only serves the message. JSON files are replaced whole,
after an fsync: a reader sees the old or the new one, never half of one.
"""

import errno
import fcntl
import json
import os
import pathlib
import socket
from types import TracebackType
from typing import Any

from byol_jax import errors, files
from byol_jax.training import provenance


class Workdir:
  """An open, locked folder; made by `open_workdir`, closed by `with`."""

  def __init__(self, path: pathlib.Path, lock: int):
    self.path = path
    self._lock: int | None = lock

  def config(self) -> dict[str, Any] | None:
    """The config saved here; None in a new folder."""
    if not (self.path / 'config.json').exists():
      return None
    return read_config(self.path)

  def write_config(self, config: dict[str, Any]) -> None:
    """Saves a plain dict (`ConfigDict.to_dict()`) as config.json."""
    files.write_json(self.path / 'config.json', config)

  def write_versions(self) -> None:
    """Saves what the run uses now as versions.json."""
    files.write_json(self.path / 'versions.json', provenance.versions())

  def close(self) -> None:
    """Lets the next process in. More than one call is fine."""
    if self._lock is not None:
      os.close(self._lock)
      self._lock = None

  def __enter__(self) -> 'Workdir':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()


def open_workdir(path: str | pathlib.Path) -> Workdir:
  """Creates `path` where needed and locks it for this process.

  Child processes made by fork share the lock until they end.

  Raises:
    DataError: not a folder, not writable, a URL, or in use.
  """
  folder = pathlib.Path(path).expanduser().absolute()
  if '://' in str(path):
    raise errors.DataError(
      f'workdir {path}: expected a folder of this machine, found a URL; mount'
      ' the bucket and give its path'
    )
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / '.lock', os.O_RDWR | os.O_CREAT, 0o644)
  except OSError as error:
    raise _not_writable(folder, error) from error
  try:
    _take(lock, folder)
  except OSError as error:
    os.close(lock)
    raise _not_writable(folder, error) from error
  except errors.DataError:
    os.close(lock)
    raise
  return Workdir(folder, lock)


def read_config(path: str | pathlib.Path) -> dict[str, Any]:
  """The config of the run in `path`; needs no lock and writes nothing.

  Raises:
    DataError: no run there, or its config.json cannot be read.
  """
  file = pathlib.Path(path).expanduser() / 'config.json'
  try:
    config = json.loads(file.read_text())
  except (FileNotFoundError, NotADirectoryError):
    raise errors.DataError(
      f'{path} holds no byol_jax run: config.json is missing'
    ) from None
  except (OSError, ValueError) as error:
    raise errors.DataError(f'{file} cannot be read: {error}') from error
  if not isinstance(config, dict):
    raise errors.DataError(
      f'{file}: expected a JSON object, found {type(config).__name__}'
    )
  return config


def local(path: str | os.PathLike) -> pathlib.Path:
  """A workdir's folder of this machine: itself or, for a URL, in the cache.

  There lie the lock, the logs and a copy of config.json; what a run goes on
  from is at the URL.
  """
  scheme, _, rest = str(path).rpartition('://')
  if not scheme:
    return pathlib.Path(path).expanduser()
  cache = os.environ.get('BYOL_JAX_CACHE') or '~/.cache/byol_jax'
  return pathlib.Path(cache).expanduser() / 'runs' / scheme / rest


def checkpoints(path: str | os.PathLike, folder: str = '') -> str:
  """Where a run's checkpoints are: `folder`, or below its workdir."""
  if folder or '://' in str(path):
    return folder or f'{path}/checkpoints'
  return str(pathlib.Path(path).expanduser() / 'checkpoints')


def compare_configs(
  saved: dict[str, Any], new: dict[str, Any], free: set[str]
) -> str | None:
  """The first difference between two configs, in words; None if they agree.

  They are compared as JSON: tuples are lists, and 1.0 is 1.

  Args:
    saved: from config.json.
    new: the config of this start.
    free: top-level keys that may differ.

  Returns:
    'optimizer.momentum: saved 0.9, now 0.8', or None.
  """
  before, now = provenance.flat(saved, free), provenance.flat(new, free)
  for key in before | now:
    if key not in now:
      return f'{key}: saved {before[key]!r}, now absent'
    if key not in before:
      return f'{key}: absent when saved, now {now[key]!r}'
    if not _same(before[key], now[key]):
      return f'{key}: saved {before[key]!r}, now {now[key]!r}'
  return None


def _take(lock: int, folder: pathlib.Path) -> None:
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    owner = os.pread(lock, 200, 0).decode(errors='replace').strip()
    raise errors.DataError(
      f'workdir {folder} is in use by {owner or "another process"}'
    ) from None
  text = f'process {os.getpid()} on {socket.gethostname()}\n'.encode()
  os.ftruncate(lock, 0)
  os.pwrite(lock, text, 0)


def _not_writable(folder: pathlib.Path, error: OSError) -> errors.DataError:
  reason = error.strerror
  if error.errno in (errno.EEXIST, errno.ENOTDIR):
    reason = 'a file of that name, or a part of it, is in the way'
  return errors.DataError(
    f'workdir {folder}: expected a writable folder, found: {reason}'
  )


def _same(left: Any, right: Any) -> bool:
  """Equality in which True is not 1 and NaN is itself."""
  if isinstance(left, bool) or isinstance(right, bool):
    return left is right
  return left == right or repr(left) == repr(right)
