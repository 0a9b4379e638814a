"""Saves and restores a run's state: Orbax, with a digest of every array.

FOLDER/STEP is a step of `orbax.checkpoint.CheckpointManager` with two items:
`arrays`, a flat dict from a leaf's path ('online_params/projector/linear/w')
to its array, and `manifest`, JSON with the digests, the step's `meta` and the
run's `record`. FOLDER is a path or a URL such as gs://BUCKET/RUN.

Orbax publishes a step whole or not at all, lists steps and removes what a
killed save left. Added here: every array is verified when it is read, a new
step is read back before older ones are deleted, and a run resumes from the
newest step that verifies.
"""

from collections.abc import Callable
from concurrent import futures
import contextlib
import json
import logging
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from byol_jax import errors, files
from byol_jax.checkpoints import digests, steps, trees

_LOG = logging.getLogger(__name__)
Json = digests.Json


class Checkpointer:
  """Saves the checkpoints of one run; used by one process of a job.

  The other processes take no part: Orbax waits for none of them. A step is
  certain to be saved only after `wait` or `close`.
  """

  def __init__(
    self,
    folder: steps.Folder,
    *,
    keep: int,
    record: Json | None = None,
    check_record: Callable[[Json, str], None] = lambda record, where: None,
  ):
    """Opens or creates `folder` and removes what a killed save left there.

    Args:
      folder: a path or a URL; no other process saves there.
      keep: the number of newest steps that stay, at least 1.
      record: what each step records about its run, JSON values.
      check_record: called with the record of a step to restore, and the step's
        path; raises DataError if it is of another run.

    Raises:
      DataError: the folder cannot be created or listed.
    """
    self._keep = keep
    self._record = record or {}
    self._check_record = check_record
    self._stack = contextlib.ExitStack()
    self._manager = self._stack.enter_context(
      steps.open_manager(folder, writes=True)
    )
    self._folder = self._manager.directory
    self._name = errors.quote(self._folder)
    # Fetching, hashing and reading back take place in this thread too, so
    # Orbax's own asynchronous saving would gain nothing.
    self._pool = self._stack.enter_context(
      futures.ThreadPoolExecutor(1, 'checkpointer')
    )
    self._saving: futures.Future[None] | None = None

  def save(self, step: int, tree: Any, meta: Json) -> bool:
    """Starts to save one step in a thread; older ones are deleted after it.

    Waits for an earlier save, then returns at once. The caller may write to its
    numpy arrays; it must not donate jax.Arrays: see
    `placement.copy_first_replica`.

    Args:
      step: steps completed, 0 or more.
      tree: any pytree of numbers, numpy arrays and jax.Arrays.
      meta: JSON values.

    Returns:
      False, with nothing written, where `step` exists already.

    Raises:
      DataError: an *earlier* save failed; this one is not started.
      ValueError: two leaves of the tree have the same path.
    """
    self.wait()
    if step in self._manager.all_steps():
      return False
    leaves = {
      name: leaf.copy() if isinstance(leaf, np.ndarray) else leaf
      for name, leaf in trees.flatten(tree).items()
    }
    facts = {'step': step, 'meta': meta, 'record': self._record}
    facts = json.loads(json.dumps(facts))
    self._saving = self._pool.submit(self._save, step, leaves, facts)
    return True

  def check_for_errors(self) -> None:
    """Raises the DataError of a save that has failed; never waits."""
    if self._saving is not None and self._saving.done():
      self.wait()

  def wait(self) -> None:
    """Waits for the save in progress; raises the DataError if it failed."""
    if self._saving is not None:
      # A signal may interrupt this line: then the save is still in progress.
      futures.wait([self._saving])
      done, self._saving = self._saving, None
      done.result()

  def latest_step(self) -> int | None:
    """Returns the newest saved step; None before the first."""
    return self._manager.latest_step()

  def restore_newest(self, template: Any) -> tuple[int, Any, Json] | None:
    """Returns the newest step that verifies, its tree and its meta.

    Newer steps, which are damaged, are moved to FOLDER.damaged with a warning
    each: out of the way of later saves, and not lost.

    Args:
      template: as for `trees.unflatten`.

    Returns:
      None where there is no step at all.

    Raises:
      DataError: every step is damaged, and a run must not start from step 0;
        a step cannot be read; or see `check_record` and `trees.unflatten`.
    """
    self.wait()
    damaged: dict[int, steps.DamagedError] = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        arrays, content = steps.read_step(self._manager, step)
      except steps.DamagedError as error:
        damaged[step] = error
        continue
      where = str(self._folder / str(step))
      self._check_record(content['record'], where)
      tree = trees.unflatten(template, arrays, where)
      for bad, found in damaged.items():
        self._set_aside(bad, found.reason, f'resuming from step {step}')
      return step, tree, content['meta']
    if damaged:
      raise errors.DataError(
        f'{self._name}: every checkpoint is damaged (steps'
        f' {sorted(damaged)}): {damaged[max(damaged)]}; the run does not start'
        ' from step 0: restore one from a copy, or give another --workdir'
      )
    return None

  def close(self) -> None:
    """Waits for the save in progress; raises the DataError if it failed."""
    with self._stack:
      self.wait()

  def _save(self, step: int, leaves: dict[str, Any], facts: Json) -> None:
    # An explicit fetch, which the transfer guard lets pass.
    fetched = jax.device_get(leaves)
    leaves.clear()  # to free device memory while the disk works
    arrays = {name: np.asarray(leaf) for name, leaf in fetched.items()}
    # Orbax refuses arrays without elements: the manifest describes them.
    stored = {name: array for name, array in arrays.items() if array.size}
    is_local = '://' not in str(self._folder)
    if is_local and not self._folder.is_dir():
      # Orbax would make it again, without the rest of the workdir.
      raise errors.DataError(
        f'{self._name} was removed during the run: step {step} is not saved;'
        ' start the same command again'
      )
    try:
      self._manager.save(
        step,
        force=True,
        args=ocp.args.Composite(
          arrays=ocp.args.StandardSave(stored),
          manifest=ocp.args.JsonSave(digests.make_manifest(arrays, facts)),
        ),
      )
      if is_local:
        files.flush_tree(self._folder / str(step))
      steps.read_step(self._manager, step)
    except Exception as error:  # Orbax raises many types.
      temporary = self._folder / f'{step}.orbax-checkpoint-tmp'
      shutil.rmtree(temporary, ignore_errors=True)
      if isinstance(error, steps.DamagedError):
        self._set_aside(step, error.reason, 'it has just been written')
      megabytes = sum(array.nbytes for array in arrays.values()) / 1e6
      raise errors.DataError(
        f'{self._name}: the checkpoint of step {step} ({megabytes:,.1f} MB)'
        f' could not be written: {errors.first_line(error)}; earlier'
        ' checkpoints are untouched'
      ) from error
    # Orbax's own `max_to_keep` would delete before the step is read back.
    try:
      for old in sorted(self._manager.all_steps())[: -self._keep]:
        if old != step:
          self._manager.delete(old)
    except Exception as error:
      _LOG.warning(
        '%s: checkpoints older than step %d could not be deleted: %s',
        *(self._name, step, errors.first_line(error)),
      )

  def _set_aside(self, step: int, reason: str, then: str) -> None:
    """Moves a damaged step to FOLDER.damaged, with a warning."""
    source = self._folder / str(step)
    goal = self._folder.parent / f'{self._folder.name}.damaged' / str(step)
    while goal.exists():
      goal = goal.parent / f'{goal.name}+'
    try:
      goal.parent.mkdir(exist_ok=True)
      source.rename(goal)
      self._manager.reload()
    except Exception as error:
      raise errors.DataError(
        f'{errors.quote(source)} is damaged ({reason}) and cannot be moved to'
        f' {errors.quote(goal)}:'
        f' {errors.first_line(error)}'
      ) from error
    _LOG.warning(
      '%s: checkpoint %d is damaged (%s), moved to %s; %s',
      *(self._name, step, reason, errors.quote(goal), then),
    )


def list_steps(folder: steps.Folder) -> list[int]:
  """Returns the steps in `folder`, rising; writes nothing.

  Raises:
    DataError: the folder cannot be listed.
  """
  with steps.open_manager(folder) as manager:
    return sorted(manager.all_steps())


def read_record(folder: steps.Folder) -> Json | None:
  """Returns what the newest undamaged step records; writes nothing.

  Returns:
    None where there is no step; {} where every step is damaged.

  Raises:
    DataError: the folder cannot be read, or holds an older format.
  """
  with steps.open_manager(folder) as manager:
    found = sorted(manager.all_steps(), reverse=True)
    for step in found:
      with contextlib.suppress(steps.DamagedError):
        return steps.read_manifest(manager, step)['record']
  return {} if found else None


def read_arrays(
  folder: steps.Folder, step: int | None = None
) -> tuple[trees.Arrays, Json]:
  """Returns a step's verified arrays by path, and its facts; writes nothing.

  The facts are `step`, `meta` and `record`, as they were saved.

  Args:
    folder: the `folder` of a `Checkpointer`, which may go on saving.
    step: None for the newest one.

  Raises:
    DamagedError: it is not what was saved. A run that resumes falls back to an
      older step then (`Checkpointer.restore_newest`), an evaluation does not.
    DataError: there is no step yet or none of that number, or it cannot be
      read.
  """
  while True:
    with steps.open_manager(folder) as manager:
      name, found = errors.quote(manager.directory), sorted(manager.all_steps())
      if not found:
        raise errors.DataError(
          f'{name} has no checkpoint yet; wait for its pretraining'
        )
      chosen = found[-1] if step is None else step
      if chosen not in found:
        raise errors.DataError(
          f'{name} holds no checkpoint of step {step}; it has the steps {found}'
        )
      try:
        return steps.read_step(manager, chosen)
      except errors.DataError:
        # The run may have deleted the step meanwhile: then a newer one exists.
        if step is not None or list_steps(folder)[-1:] == [chosen]:
          raise
