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

from concurrent import futures
import contextlib
import json
import logging
import os
import shutil
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from byol_jax import errors, files
from byol_jax.checkpoints import digests, steps, trees

_LOG = logging.getLogger(__name__)
Json = digests.Json
Folder = str | os.PathLike[str]


class Checkpointer:
  """Saves the checkpoints of one run; used by one process of a job.

  The other processes take no part: Orbax waits for none of them. A step is
  certain to be saved only after `wait` or `close`.
  """

  def __init__(self, folder: Folder, *, keep: int, record: Json | None = None):
    """Opens or creates `folder` and removes what a killed save left there.

    Args:
      folder: a path or a URL; no other process saves there.
      keep: the number of newest steps that stay, at least 1.
      record: what each step says about its run, JSON values.

    Raises:
      DataError: the folder cannot be created or listed.
    """
    self._folder = _to_path(folder)
    self._keep = keep
    self._record = record or {}
    self._stack = contextlib.ExitStack()
    self._manager = self._stack.enter_context(
      steps.open_manager(self._folder, writes=True)
    )
    # Fetching, hashing and reading back take place in this thread too, so
    # Orbax's own asynchronous saving would gain nothing.
    self._pool = futures.ThreadPoolExecutor(1, 'checkpointer')
    self._saving: futures.Future[None] | None = None

  def save(self, step: int, tree: Any, meta: Json) -> bool:
    """Starts to save one step in a thread; older ones are deleted after it.

    Waits for an earlier save, then returns at once. The caller may write to its
    numpy arrays; it must not donate jax.Arrays (see `placement.snapshot`).

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
    leaves = {k: _copy_if_writeable(x) for k, x in trees.flatten(tree).items()}
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
    return max(self._manager.all_steps(), default=None)

  def restore(self, template: Any, step: int | None = None) -> tuple[Any, Json]:
    """Returns a saved tree, in the structure of `template`, and its meta.

    Args:
      template: as for `trees.unflatten`.
      step: None for the newest one.

    Raises:
      DamagedError: the step is not what was saved.
      DataError: there is no such step, it cannot be read, or it holds another
        tree: names the first leaf whose path, shape or dtype differs.
    """
    self.wait()
    arrays, content = steps.read_step(self._manager, step)
    where = str(self._folder / str(content['step']))
    return trees.unflatten(template, arrays, where), content['meta']

  def restore_newest(self, template: Any) -> tuple[int, Any, Json] | None:
    """Returns the newest step that verifies, its tree and its meta.

    Newer steps, which are damaged, are moved to FOLDER.damaged with a warning
    each: out of the way of later saves, and not lost.

    Returns:
      None where there is no step at all.

    Raises:
      DataError: every step is damaged, and a run must not start afresh then; or
        as for `restore`.
    """
    self.wait()
    damaged: dict[int, steps.DamagedError] = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        tree, meta = self.restore(template, step)
      except steps.DamagedError as error:
        damaged[step] = error
        continue
      for bad, found in damaged.items():
        self._set_aside(bad, found.reason, f'resuming from step {step}')
      return step, tree, meta
    if damaged:
      raise errors.DataError(
        f'{self._folder}: every checkpoint is damaged (steps'
        f' {sorted(damaged)}): {damaged[max(damaged)]}; the run does not start'
        ' afresh: restore one from a copy, or give another --workdir'
      )
    return None

  def close(self) -> None:
    """Waits for the save in progress; raises the DataError if it failed."""
    with self._stack, self._pool:
      self.wait()

  def _save(self, step: int, leaves: dict[str, Any], facts: Json) -> None:
    # An explicit fetch, which the transfer guard lets pass.
    fetched = jax.device_get(leaves)
    leaves.clear()  # to free device memory while the disk works
    arrays = {name: np.asarray(leaf) for name, leaf in fetched.items()}
    # Orbax refuses arrays without elements: the manifest describes them.
    stored = {name: array for name, array in arrays.items() if array.size}
    try:
      self._manager.save(
        step,
        force=True,
        args=ocp.args.Composite(
          arrays=ocp.args.StandardSave(stored),
          manifest=ocp.args.JsonSave(digests.make_manifest(arrays, facts)),
        ),
      )
      if '://' not in str(self._folder):
        files.flush_tree(self._folder / str(step))
      steps.read_step(self._manager, step)
    except Exception as error:  # Orbax has a dozen types.
      temporary = self._folder / f'{step}.orbax-checkpoint-tmp'
      shutil.rmtree(temporary, ignore_errors=True)
      if isinstance(error, steps.DamagedError):
        self._set_aside(step, error.reason, 'it has just been written')
      megabytes = sum(array.nbytes for array in arrays.values()) / 1e6
      raise errors.DataError(
        f'{self._folder}: the checkpoint of step {step} ({megabytes:,.1f} MB)'
        f' could not be written: {errors.first_line(error)}; earlier'
        ' checkpoints are untouched'
      ) from error
    self._delete_old_steps(step)

  def _delete_old_steps(self, verified: int) -> None:
    """Deletes all but the newest `keep` steps, and never the one just verified.

    Orbax's own `max_to_keep` would delete before the new step is read back.
    """
    try:
      for step in sorted(self._manager.all_steps())[: -self._keep]:
        if step != verified:
          self._manager.delete(step)
    except Exception as error:
      _LOG.warning(
        '%s: checkpoints older than step %d could not be deleted: %s',
        *(self._folder, verified, errors.first_line(error)),
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
        f'{source} is damaged ({reason}) and cannot be moved to {goal}:'
        f' {errors.first_line(error)}'
      ) from error
    _LOG.warning(
      '%s: checkpoint %d is damaged (%s), moved to %s; %s',
      *(self._folder, step, reason, goal, then),
    )


def latest_step(folder: Folder) -> int | None:
  """Returns the newest step in `folder`, None if there is none; writes nothing.

  Raises:
    DataError: the folder cannot be listed.
  """
  with steps.open_manager(_to_path(folder)) as manager:
    return manager.latest_step()


def read_record(folder: Folder) -> Json | None:
  """Returns what the newest undamaged step says about its run; writes nothing.

  Returns:
    None where there is no step; {} where every step is damaged.

  Raises:
    DataError: the folder cannot be read, or holds an older format.
  """
  with steps.open_manager(_to_path(folder)) as manager:
    found = sorted(manager.all_steps(), reverse=True)
    for step in found:
      with contextlib.suppress(steps.DamagedError):
        return steps.read_manifest(manager, step)['record']
  return {} if found else None


def read_arrays(
  folder: Folder, step: int | None = None
) -> tuple[trees.Arrays, Json]:
  """Returns a step's verified arrays by path, and its meta; writes nothing.

  Args:
    folder: the `folder` of a `Checkpointer`, which may go on saving.
    step: None for the newest one.

  Raises:
    DamagedError: it is not what was saved. A run that resumes falls back to an
      older step then (`Checkpointer.restore_newest`), an evaluation does not.
    DataError: there is no such step, or it cannot be read.
  """
  while True:
    with steps.open_manager(_to_path(folder)) as manager:
      try:
        arrays, content = steps.read_step(manager, step)
        return arrays, content['meta']
      except errors.DataError:
        # The run may have deleted the step meanwhile: then there is a newer.
        if step is not None or latest_step(folder) == manager.latest_step():
          raise


def _to_path(folder: Folder) -> epath.Path:
  path = epath.Path(folder)
  return path if '://' in str(path) else path.expanduser().absolute()


def _copy_if_writeable(leaf: Any) -> Any:
  """Returns the leaf, or a copy where the caller could write to it."""
  is_open = isinstance(leaf, np.ndarray) and leaf.flags.writeable
  return leaf.copy() if is_open else leaf
