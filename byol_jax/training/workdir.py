"""The folder of a run: its lock, configuration and package versions.

The lock is held with flock(2), so the kernel releases it however the process
ends; the text in `.lock` only serves the error message.
"""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
from typing import Any

from byol_jax import errors, files
from byol_jax.training import old_values, provenance

# Keys of a configuration that do not change what is learned.
KEYS_THAT_MAY_CHANGE = {
  *('data_dir', 'input', 'checkpoint', 'faults', 'log', 'eval'),
  *('preset', 'preset_epochs', 'preset_batch_size'),
  *('shard_optimizer', 'recompute_blocks'),
}
ORIGIN = 'origin.json'
_MAX_CONFIG_BYTES = 1 << 20


@contextlib.contextmanager
def open_workdir(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Creates `path` if it is missing, and locks it for this process.

  Child processes made by fork share the lock until they end.

  Raises:
    DataError: not a folder, not writable, or in use.
  """
  folder = pathlib.Path(path).absolute()
  name = f'workdir {errors.quote(folder)}'
  with contextlib.ExitStack() as stack:
    try:
      folder.mkdir(parents=True, exist_ok=True)
      handle = files.open_own(folder / '.lock')
      lock = stack.enter_context(open(handle, 'r+', errors='replace'))
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      lock.truncate(0)
      owner = f'process {os.getpid()} on {socket.gethostname()}\n'
      os.write(handle, owner.encode())  # a buffer would fail again in `close`
    except BlockingIOError:
      owner = errors.quote(lock.read(200).strip())
      raise errors.DataError(f'{name} is in use by {owner}') from None
    except OSError as error:
      reason = error.strerror
      if error.errno in (errno.EEXIST, errno.ENOTDIR):
        reason = 'a file of that name, or of a part of it, is in the way'
      raise errors.DataError(
        f'{name}: expected a writable folder, found: {reason}'
      ) from error
    yield folder


def write_record(
  folder: pathlib.Path,
  config: Mapping[str, Any],
  origin: Mapping[str, Any] | None,
) -> None:
  """Writes what `make_record` returns as config.json, versions.json, ORIGIN.

  And the command of this start as command.txt, the commit in versions.json.
  """
  files.write_json(folder / 'config.json', config)
  versions = provenance.list_versions() | provenance.find_commit()
  files.write_json(folder / 'versions.json', versions)
  files.write_text(folder / 'command.txt', provenance.describe_command())
  if origin:
    files.write_json(folder / ORIGIN, origin)


def read_config_file(path: str | pathlib.Path) -> dict[str, Any]:
  """Returns the configuration of the run in `path`; needs no lock.

  Raises:
    DataError: no run there, or its config.json cannot be read.
  """
  file = pathlib.Path(path) / 'config.json'
  name = errors.quote(file)
  try:
    if not file.is_file():
      found = 'config.json is missing'
      if not file.parent.exists():
        found = 'there is no such folder'
      raise errors.DataError(
        f'{errors.quote(str(path))} holds no byol_jax run: {found}'
      )
    if (size := file.stat().st_size) > _MAX_CONFIG_BYTES:
      raise ValueError(f'expected at most 1 MiB, found {size:,} bytes')
    config = json.loads(file.read_text())
  # Brackets within brackets, thousands of them, are a RecursionError.
  except (OSError, ValueError, RecursionError) as error:
    reason = errors.first_line(error)
    raise errors.DataError(f'{name} cannot be read: {reason}') from error
  if not isinstance(config, dict):
    found = type(config).__name__
    raise errors.DataError(f'{name}: expected a JSON object, found {found}')
  return config


def make_record(
  config: Mapping[str, Any], origin: Mapping[str, Any] | None
) -> dict[str, Any]:
  """Returns what each checkpoint records of its run.

  Args:
    config: configuration and training set, a plain dict.
    origin: from `describe_origin`; None for a run of random weights.
  """
  record = {'config': config, 'versions': provenance.list_versions()}
  return record | ({'origin': origin} if origin else {})


def describe_origin(card: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what a run records of the weights with which it starts."""
  names = ('source', 'sha256', 'weights', 'licence')
  return {name: card[name] for name in names}


def read_origin(
  folder: pathlib.Path, record: Mapping[str, Any]
) -> dict[str, Any] | None:
  """Returns what `describe_origin` gave; None for a run of random weights.

  A bucket, or a copy of one, has it in its checkpoints only, a run of an
  earlier version in origin.json only.

  Args:
    folder: the workdir on this machine.
    record: of a checkpoint, from `make_record`.

  Raises:
    DataError: origin.json is damaged.
  """
  path = folder / ORIGIN
  if record.get('origin') or not path.exists():
    return record.get('origin')
  try:
    origin = json.loads(files.read_file(path))
    if isinstance(origin, dict) and 'licence' in origin:
      return origin
    reason = "expected a dict with the key 'licence'"
  except (ValueError, RecursionError) as error:
    reason = errors.first_line(error)
  raise errors.DataError(f'{errors.quote(path)} cannot be read: {reason}')


def local_folder(path: str | os.PathLike) -> pathlib.Path:
  """Returns a workdir's folder on this machine, in the cache if it is a URL.

  It holds the lock, the logs and a copy of config.json; the checkpoints from
  which a run resumes are at the URL.
  """
  scheme, _, rest = str(path).rpartition('://')
  if not scheme:
    return files.expand_home(path)
  cache = os.environ.get('BYOL_JAX_CACHE') or '~/.cache/byol_jax'
  return files.expand_home(cache) / 'runs' / scheme / rest


def checkpoint_folder(path: str | os.PathLike, folder: str = '') -> str:
  """Returns `checkpoint.folder`; by default it is below the workdir `path`."""
  return folder or f'{path}/checkpoints'


def require_same_run(
  config: dict[str, Any], record: dict[str, Any], where: str
) -> None:
  """Raises DataError if a checkpoint is of another run.

  Args:
    config: configuration and training set of this run, a plain dict.
    record: what the checkpoint records: `config`, of its run.
    where: its path.
  """
  where = errors.quote(where)
  try:
    before = old_values.add_old_values(record['config'])
  except (AttributeError, KeyError, TypeError, ValueError):
    raise errors.DataError(
      f'{where} does not record of which run it is; give another --workdir'
    ) from None
  now = old_values.add_old_values(config)
  free = KEYS_THAT_MAY_CHANGE
  training_set = before.get('training_set', {})
  if training_set.get('fingerprint', '') is None:
    # Imported: the file says nothing of images, lengths and rates.
    free = {*before, *now} - {'network'}
  found = compare_configs(before, now, free=free)
  if found is not None:
    raise errors.DataError(
      f'{where} is of another run: {found}; give that value, or another'
      ' --workdir, with --config.init.checkpoint=WORKDIR to start from the'
      ' weights of this one'
    )


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
      return f'{_name(key)}: absent when saved, now {errors.quote(now[key])}'
    if key not in now or not _is_equal(before[key], now[key]):
      found = errors.quote(now[key]) if key in now else 'absent'
      return f'{_name(key)}: saved {errors.quote(before[key])}, now {found}'
  return None


def _name(key: str) -> str:
  return key if key.isprintable() and len(key) < 200 else errors.quote(key)


def _is_equal(left: Any, right: Any) -> bool:
  """Compares two values; True is not 1, and NaN is equal to itself."""
  if isinstance(left, bool) or isinstance(right, bool):
    return left is right
  return left == right or repr(left) == repr(right)
