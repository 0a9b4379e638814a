"""Saves the trainings of an evaluation until it is done, so that it resumes.

FOLDER/NAME has the checkpoints of a training; their meta holds the scalars that
were observed before, since whoever observes them starts again too.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import logging
import os
import pathlib
import re
import shutil
from typing import Any

import jax
import numpy as np

from byol_jax import errors
from byol_jax.checkpoints import checkpointer
from byol_jax.distributed import placement, processes
from byol_jax.training import loop, recovery, workdir

Log = Callable[[str], None]
Values = dict[str, np.ndarray]


class Saves:
  """The saved trainings of one evaluation; made by `open_saves`.

  Args:
    folder: where process 0 saves.
    log: called when a training resumes.
  """

  def __init__(self, folder: pathlib.Path, log: Log) -> None:
    self.folder = folder
    self._log = log
    self._seen: set[str] = set()

  @property
  def options(self) -> loop.CheckpointOptions:
    """When to save; the clocks of several processes differ."""
    if jax.process_count() == 1:
      return loop.CheckpointOptions(every_minutes=5.0)
    return loop.CheckpointOptions(every_steps=1000)

  def open_training(
    self, stack: contextlib.ExitStack, name: str, state: Any, num_steps: int
  ) -> tuple[checkpointer.Checkpointer | None, recovery.StartPoint, Values]:
    """Opens the checkpoints of a training, and restores the newest one.

    A training whose checkpoints are damaged starts afresh.

    Args:
      stack: closes the checkpointer.
      name: of the training, used once.
      state: the initial one.
      num_steps: of the training.

    Returns:
      The checkpointer, of process 0 only; where to start; and what was
      observed before, {} of a training that starts.
    """
    if name in self._seen:
      raise ValueError(f'two trainings have the name {name!r}')
    self._seen.add(name)
    folder = self.folder / re.sub(r'[^\w.=-]+', '_', name)
    initial = num_steps, jax.eval_shape(lambda: state), lambda: state
    saver = _open_checkpointer(stack, folder)
    try:
      start = recovery.restore_or_init(saver, *initial)
    except errors.DataError as error:
      logging.warning('%s; the training starts afresh', error)
      if saver is not None:
        saver.close()
        shutil.rmtree(folder, ignore_errors=True)
      saver = _open_checkpointer(stack, folder)
      start = recovery.restore_or_init(saver, *initial)
    if start.is_resumed:
      self._log(f'{name}: resumed after step {start.step} of {num_steps}')
    return saver, start, _decode(_broadcast_json(start.meta or {}))


class Observed:
  """Records what is observed of a training, and passes it on."""

  def __init__(self, observe: Callable[[Values], None]) -> None:
    self._observe = observe
    self._parts: list[Values] = []

  def add(self, values: Values) -> None:
    """Records scalars [steps, ...]; {} is none."""
    if values:
      self._parts.append(values)
      self._observe(values)

  def to_meta(self) -> dict[str, Any]:
    """Returns all of them as JSON values, without a loss of bits."""
    whole = {
      key: np.concatenate([part[key] for part in self._parts])
      for key in (self._parts[0] if self._parts else {})
    }
    return {
      'observed': {k: [x.dtype.name, x.tolist()] for k, x in whole.items()}
    }


@contextlib.contextmanager
def open_saves(folder: pathlib.Path | None, log: Log) -> Iterator[Saves | None]:
  """Locks a folder for the trainings of an evaluation, and removes it after.

  An exception leaves the folder if a checkpoint is there, but for a divergence,
  which would repeat.

  Args:
    folder: None saves nothing, as a folder that cannot be written.
    log: called with lines for the user.

  Raises:
    DataError: another process does the same evaluation.
  """
  if folder is None:
    yield None
    return
  with contextlib.ExitStack() as stack:

    def lock() -> bool:
      if jax.process_index() != 0 or not _is_writable(folder, log):
        return False
      stack.enter_context(workdir.open_workdir(folder))
      return True

    is_locked = processes.raise_on_all('evaluation/lock', lock)
    is_saving = processes.broadcast_json('evaluation/is saving', is_locked)
    try:
      yield Saves(folder, log) if is_saving else None
    except BaseException as error:
      is_useless = isinstance(error, errors.DivergedError)
      _remove(folder, is_locked and (is_useless or not _has_steps(folder)))
      raise
    _remove(folder, is_locked)


def _open_checkpointer(
  stack: contextlib.ExitStack, folder: pathlib.Path
) -> checkpointer.Checkpointer | None:
  def open_folder() -> checkpointer.Checkpointer | None:
    if jax.process_index() != 0:
      return None
    return checkpointer.Checkpointer(folder, keep=1)

  saver = processes.raise_on_all('evaluation/open', open_folder)
  if saver is not None:
    stack.enter_context(contextlib.closing(saver))
  return saver


def _broadcast_json(meta: dict[str, Any]) -> dict[str, Any]:
  """Returns process 0's value; it may be too large for the job's store."""
  text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
  length = processes.broadcast_json('evaluation/length', len(text))
  if jax.process_index() != 0:
    text = np.zeros(length, np.uint8)
  return json.loads(placement.broadcast_arrays(text).tobytes())


def _decode(meta: dict[str, Any]) -> Values:
  """Returns what `Observed.to_meta` made."""
  observed = meta.get('observed', {})
  return {key: np.array(x, dtype) for key, (dtype, x) in observed.items()}


def _is_writable(folder: pathlib.Path, log: Log) -> bool:
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
      return True
    reason = 'it is read-only'
  except OSError as error:
    reason = error.strerror or str(error)
  log(f'not saved meanwhile: {errors.quote(folder)}: {reason}')
  return False


def _has_steps(folder: pathlib.Path) -> bool:
  return any(folder.glob('*/*'))  # TRAINING/STEP


def _remove(folder: pathlib.Path, is_due: bool) -> None:
  if is_due:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # other evaluations are not done
      folder.parent.rmdir()
