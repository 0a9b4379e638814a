"""Decides where a run continues: after a restart, and after skipped steps.

Process 0 reads its checkpoint or draws the initial state; the other processes
receive its values.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from byol_jax import errors
from byol_jax.checkpoints import checkpointer
from byol_jax.distributed import placement, processes


class RollbackRequired(Exception):
  """Too many steps in a row were skipped: restore the last checkpoint.

  Attributes:
    step: completed when the skipped steps were noticed.
  """

  def __init__(self, step: int, reason: str):
    super().__init__(reason)
    self.step = step


class SkipPolicy:
  """Limits skipped steps in a row, and rollbacks without progress.

  Args:
    max_skips: skipped steps in a row before a rollback.
    max_rollbacks: rollbacks without a new checkpoint before the run ends.
  """

  def __init__(self, max_skips: int, max_rollbacks: int):
    self._max_skips = max_skips
    self._max_rollbacks = max_rollbacks
    self._rollbacks = 0
    self._row: list[int] = []  # the latest steps, if they were skipped

  def checkpoint_saved(self) -> None:
    """Resets the count of rollbacks, unless the latest step was skipped."""
    if not self._row:
      self._rollbacks = 0

  def observe(self, skipped: Sequence[int], steps: range) -> None:
    """Counts the skipped ones among the steps since the last call.

    Args:
      skipped: those of `steps` that left the state unchanged.
      steps: all of them, in order.

    Raises:
      RollbackRequired: more than `max_skips` in a row.
      DivergedError: the same, after `max_rollbacks` rollbacks.
    """
    for step in steps:
      self._row = [*self._row, step] if step in skipped else []
      if len(self._row) > self._max_skips:
        self._give_up(steps.stop)

  def _give_up(self, step: int) -> None:
    first, last = self._row[0] + 1, self._row[-1] + 1  # as log lines count
    names = f'step {first}' if first == last else f'steps {first} to {last}'
    reason = f'not finite: {names} (faults.max_skips)'
    self._row = []
    if self._rollbacks >= self._max_rollbacks:
      if self._rollbacks:
        reason += f', after {self._rollbacks} rollbacks (faults.max_rollbacks)'
      raise errors.DivergedError(reason)
    self._rollbacks += 1
    raise RollbackRequired(step, reason)


class StartPoint(NamedTuple):
  """Where a loop starts."""

  state: Any  # host arrays
  step: int  # completed
  data_offset: int = 0  # step N takes the images of step N + data_offset
  is_resumed: bool = False  # from a checkpoint
  meta: dict[str, Any] | None = None  # of that checkpoint, in process 0 only


def restore_or_init(
  saver: checkpointer.Checkpointer | None,
  num_steps: int,
  shapes: Any,
  init_on_host: Callable[[], Any],
) -> StartPoint:
  """Restores the newest usable checkpoint, or makes the initial state.

  Args:
    saver: of process 0; None on the others.
    num_steps: of the whole run.
    shapes: like the state.
    init_on_host: returns the state before step 0 as numpy; called on process 0
      and without a checkpoint only: at scale it takes minutes.

  Raises:
    DataError: there are checkpoints, but the newest is not of this run, or none
      can be used.
  """

  def restore() -> tuple[int, Any, dict[str, Any]] | None:
    found = saver.restore_newest(shapes) if saver else None
    if found is not None and found[0] > num_steps:
      raise errors.DataError(
        f'checkpoint {found[0]} is beyond the last step of this run,'
        f' {num_steps}; give another --workdir'
      )
    return found

  found = processes.raise_on_all('checkpoint', restore)
  step, offset = 0, 0
  meta: dict[str, Any] | None = None
  if found is not None:
    step, state, meta = found
    offset = meta.get('data_offset', 0)
  elif jax.process_index() == 0:
    state = init_on_host()
  else:
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  facts = [step, offset, found is not None]
  facts = processes.broadcast_json('start', facts)
  # The initial state too: hosts of two kinds need not draw the same bits.
  start = StartPoint(placement.broadcast_arrays(state), *facts)
  return start._replace(meta=meta)


def advice_after_divergence(
  saver: checkpointer.Checkpointer | None, has_collapsed: bool
) -> str:
  """Returns which checkpoint a diverged run leaves, and what to try.

  The message of a collapse has its likely cause already.
  """
  step = None if saver is None else saver.latest_step()
  kept = 'no checkpoint yet' if step is None else f'checkpoint {step} stays'
  if has_collapsed:
    return kept
  return (
    f'{kept}; lower schedule.base_rate or lengthen schedule.warmup_epochs'
    ' (of a run of steps, schedule.max_warmup_share)'
  )
