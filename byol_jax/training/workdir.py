"""The folder of a run: its lock, configuration and package versions.

The lock is held with flock(2), so the kernel releases it however the process
ends; the text in `.lock` only serves the error message.
"""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
from typing import Any

from byol_jax import errors, files
from byol_jax.training import provenance


@contextlib.contextmanager
def open_workdir(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Creates `path` if it is missing, and locks it for this process.

  Child processes made by fork share the lock until they end.

  Raises:
    DataError: not a folder, not writable, or in use.
  """
  folder = pathlib.Path(path).absolute()
  with contextlib.ExitStack() as stack:
    try:
      folder.mkdir(parents=True, exist_ok=True)
      lock = stack.enter_context(open(folder / '.lock', 'a+', errors='replace'))
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      lock.truncate(0)
      lock.write(f'process {os.getpid()} on {socket.gethostname()}\n')
      lock.flush()
    except BlockingIOError:
      lock.seek(0)
      owner = lock.read(200).strip() or 'another process'
      raise errors.DataError(f'workdir {folder} is in use by {owner}') from None
    except OSError as error:
      reason = error.strerror
      if error.errno in (errno.EEXIST, errno.ENOTDIR):
        reason = 'a file of that name, or of a part of it, is in the way'
      raise errors.DataError(
        f'workdir {folder}: expected a writable folder, found: {reason}'
      ) from error
    yield folder


def write_record(folder: pathlib.Path, config: dict[str, Any]) -> None:
  """Saves a plain dict as config.json, and the versions as versions.json."""
  files.write_json(folder / 'config.json', config)
  files.write_json(folder / 'versions.json', provenance.list_versions())


def read_config_file(path: str | pathlib.Path) -> dict[str, Any]:
  """Returns the configuration of the run in `path`; needs no lock.

  Raises:
    DataError: no run there, or its config.json cannot be read.
  """
  file = pathlib.Path(path) / 'config.json'
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


def local_folder(path: str | os.PathLike) -> pathlib.Path:
  """Returns a workdir's folder on this machine, in the cache if it is a URL.

  It holds the lock, the logs and a copy of config.json; the checkpoints from
  which a run resumes are at the URL.
  """
  scheme, _, rest = str(path).rpartition('://')
  if not scheme:
    return pathlib.Path(path).expanduser()
  cache = os.environ.get('BYOL_JAX_CACHE') or '~/.cache/byol_jax'
  return pathlib.Path(cache).expanduser() / 'runs' / scheme / rest


def checkpoint_folder(path: str | os.PathLike, folder: str = '') -> str:
  """Returns `checkpoint.folder`; by default it is below the workdir `path`."""
  return folder or f'{path}/checkpoints'


def compare_configs(
  saved: dict[str, Any], new: dict[str, Any], free: set[str]
) -> str | None:
  """Returns 'optimizer.momentum: saved 0.9, now 0.8', or None if equal.

  The first difference is named. Configurations are compared as JSON: tuples are
  lists, and 1.0 is 1. The top-level keys in `free` may differ.
  """
  before = provenance.flatten_config(saved, free)
  now = provenance.flatten_config(new, free)
  for key in before | now:
    if key not in before:
      return f'{key}: absent when saved, now {now[key]!r}'
    if key not in now or not _is_equal(before[key], now[key]):
      found = repr(now[key]) if key in now else 'absent'
      return f'{key}: saved {before[key]!r}, now {found}'
  return None


def _is_equal(left: Any, right: Any) -> bool:
  """Compares two values; True is not 1, and NaN is equal to itself."""
  if isinstance(left, bool) or isinstance(right, bool):
    return left is right
  return left == right or repr(left) == repr(right)
