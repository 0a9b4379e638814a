"""A tree of arrays to and from a folder: atomic, verified; names, not classes.

FOLDER/STEP holds an Orbax checkpoint of two items: `arrays`, a flat dict from
a leaf's path ('online_params/projector/linear/w': keys, field names and
indices joined by '/', stored as they are) to its array; and `meta`, JSON with
the format's version, each array's shape, dtype and SHA-256, the caller's
values, and the SHA-256 of all that. An array without elements, which Orbax
refuses, lives in `meta` alone.

Orbax writes beside and renames, so a step is there whole or not at all. It
does not notice flipped or zeroed bytes when it reads: hence the digests.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import json
import logging
import pathlib
import shutil
import sys
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from byol_jax import errors, trees

FORMAT = 1

Json = dict[str, Any]


def latest_step(folder: str | pathlib.Path) -> int | None:
  """The newest completed step in `folder`; None where there is none."""
  return max(_steps(pathlib.Path(folder)), default=None)


def read(
  folder: str | pathlib.Path, step: int | None = None
) -> tuple[trees.Arrays, Json]:
  """The arrays by path and the meta of one step, each array verified.

  Writes nothing: safe beside a run that goes on saving into `folder`.

  Args:
    folder: what `Checkpoints` was given.
    step: None for the newest.

  Raises:
    DataError: no such step, unreadable, damaged, or of a newer format. There
      is no silent step back: the user decides what to delete.
  """
  root = pathlib.Path(folder).absolute()
  steps = _steps(root)
  step = max(steps, default=None) if step is None else step
  if step not in steps:
    raise errors.DataError(
      f'{root} holds no checkpoint{"" if step is None else f" of step {step}"};'
      f' it has the steps {sorted(steps)}'
    )
  path = root / str(step)
  try:
    return _load(path)
  except errors.DataError:
    raise
  except Exception as error:  # Orbax has a dozen types for torn files.
    raise errors.DataError(
      f'{path} is damaged ({_first_line(error)}); delete that folder to go on'
      ' from the step before'
    ) from error


class Checkpoints:
  """The checkpoints of one job; each process saves, the first one writes."""

  def __init__(self, folder: str | pathlib.Path, *, keep: int):
    """Opens or creates `folder`; what a killed save left there goes away.

    Raises:
      ConfigError: `keep`, the number of newest steps that stay, is below 1.
      DataError: the folder cannot be created.
    """
    if keep < 1:
      raise errors.ConfigError(f'checkpoint.keep: expected >= 1, found {keep}')
    self._folder = pathlib.Path(folder).absolute()
    policy = ocp.checkpoint_managers.preservation_policy.LatestN(keep)
    options = ocp.CheckpointManagerOptions(
      preservation_policy=policy,
      enable_async_checkpointing=False,
      cleanup_tmp_directories=True,
    )
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      with _quiet():
        self._manager = ocp.CheckpointManager(
          self._folder, options=options, item_names=('arrays', 'meta')
        )
    except OSError as error:
      raise errors.DataError(
        f'{self._folder} cannot hold checkpoints: {error.strerror}'
      ) from error

  def save(self, step: int, tree: Any, meta: Json) -> bool:
    """Writes one step and deletes those beyond `keep`; blocks until done.

    Args:
      step: steps completed, 0 or more.
      tree: any pytree of arrays and numbers, not all of them empty.
      meta: what `json` can write.

    Returns:
      False, with nothing written, where `step` was saved before.

    Raises:
      DataError: not written. Earlier steps are untouched; it may be retried.
    """
    if step in self._manager.all_steps():
      return False
    arrays = trees.flatten(tree)
    stored = {name: array for name, array in arrays.items() if array.size}
    document = _document(arrays, meta)
    items = ocp.args.Composite(
      arrays=ocp.args.StandardSave(stored), meta=ocp.args.JsonSave(document)
    )
    try:
      with _quiet():
        self._manager.save(step, args=items, force=True)
    except (OSError, ValueError) as error:
      raise self._failed(step, stored, error) from error
    return True

  def latest(self) -> int | None:
    """The newest completed step; None before the first."""
    return latest_step(self._folder)

  def restore(self, template: Any, step: int | None = None) -> tuple[Any, Json]:
    """A saved tree, as host arrays in the structure of `template`, and meta.

    Raises:
      DataError: see `read` and `trees.unflatten`.
    """
    step = self.latest() if step is None else step
    arrays, meta = read(self._folder, step)
    where = str(self._folder / str(step))
    return trees.unflatten(template, arrays, where), meta

  def close(self) -> None:
    """Lets go of Orbax's threads."""
    with _quiet():
      self._manager.close()

  def _failed(
    self, step: int, arrays: trees.Arrays, error: Exception
  ) -> errors.DataError:
    """Gives back the disk space of a failed save and says what happened."""
    if jax.process_index() == 0:
      for path in self._folder.glob(f'{step}.*-tmp*'):
        shutil.rmtree(path, ignore_errors=True)
    needed = sum(array.nbytes for array in arrays.values()) / 1e6
    free = shutil.disk_usage(self._folder).free / 1e6
    return errors.DataError(
      f'{self._folder}: the checkpoint of step {step} could not be written'
      f' ({needed:,.1f} MB needed, {free:,.0f} MB free):'
      f' {_first_line(error)}; earlier checkpoints are untouched'
    )


def _steps(folder: pathlib.Path) -> set[int]:
  # A save in progress has a suffix, so it is no number yet.
  names = (path.name for path in folder.glob('*') if path.is_dir())
  return {int(name) for name in names if name.isdecimal()}


def _document(arrays: trees.Arrays, meta: Json) -> Json:
  entries = {name: _entry(array) for name, array in arrays.items()}
  # As JSON gives it back: its order, lists for tuples, strings for keys.
  text = json.dumps({'arrays': entries, 'meta': meta})
  return {
    'format': FORMAT,
    'content': json.loads(text),
    'sha256': hashlib.sha256(text.encode()).hexdigest(),
  }


def _entry(array: np.ndarray) -> Json:
  octets = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
  return {
    'shape': list(array.shape),
    'dtype': array.dtype.name,
    'sha256': hashlib.sha256(octets.data).hexdigest(),
  }


def _load(path: pathlib.Path) -> tuple[trees.Arrays, Json]:
  """Arrays in the order of the tree, and the caller's meta, or any error."""
  items = ocp.args.Composite(
    arrays=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore()
  )
  with _quiet(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as loader:
    restored = loader.restore(path, args=items)
  if restored.meta['format'] != FORMAT:
    raise errors.DataError(
      f'{path} has format {restored.meta["format"]}, this version of byol_jax'
      f' reads {FORMAT}'
    )
  content = restored.meta['content']
  text = json.dumps(content)
  if hashlib.sha256(text.encode()).hexdigest() != restored.meta['sha256']:
    raise ValueError('meta is not what was saved')
  arrays: trees.Arrays = {}
  for name, entry in content['arrays'].items():
    if 0 in entry['shape']:
      arrays[name] = np.zeros(entry['shape'], entry['dtype'])
    else:
      arrays[name] = restored.arrays[name]
    if _entry(arrays[name]) != entry:
      raise ValueError(f'array {name!r} is not what was saved')
  return arrays, content['meta']


def _first_line(error: Exception) -> str:
  lines = str(error).splitlines() or ['']
  return f'{type(error).__name__}: {lines[0][:300]}'


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Orbax logs each phase, and the traceback of all it raises: not here."""
  logger, hook = logging.getLogger('absl'), sys.unraisablehook
  is_warning = lambda record: record.levelno == logging.WARNING

  def report(unraisable: Any) -> None:
    if 'Event loop is closed' not in str(unraisable.exc_value):
      hook(unraisable)

  logger.addFilter(is_warning)
  sys.unraisablehook = report
  try:
    yield
  except Exception:
    time.sleep(0.1)  # The threads of a failed read have their last words.
    raise
  finally:
    sys.unraisablehook = hook
    logger.removeFilter(is_warning)
