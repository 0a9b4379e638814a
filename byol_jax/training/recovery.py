"""What a run does about steps that were skipped (`guard`)."""

from collections.abc import Sequence

from byol_jax import errors


class RolledBack(Exception):
  """Too many in a row: go on from the last checkpoint, past these images."""

  def __init__(self, step: int, reason: str):
    super().__init__(reason)
    self.step = step  # completed when it was noticed


class Patience:
  """So many skipped steps in a row, then a rollback; so many, then the end.

  Args:
    max_skips: in a row.
    max_rollbacks: without a new checkpoint between them.
  """

  def __init__(self, max_skips: int, max_rollbacks: int):
    self._max_skips = max_skips
    self._max_rollbacks = max_rollbacks
    self._rollbacks = 0
    self._row: list[int] = []  # the last steps, where they were skipped

  def saved(self) -> None:
    """A checkpoint is written: if the run moves, what was is forgiven."""
    if not self._row:
      self._rollbacks = 0

  def look(self, skipped: Sequence[int], steps: range) -> None:
    """Looks at the steps since the last look, in order.

    Args:
      skipped: those of `steps` that had no effect.
      steps: all of them.

    Raises:
      RolledBack: more than `max_skips` in a row.
      DivergedError: so many times that it is not the images.
    """
    where = set(skipped)
    for step in steps:
      self._row = [*self._row, step] if step in where else []
      if len(self._row) > self._max_skips:
        self._give_up(steps.stop)

  def _give_up(self, step: int) -> None:
    reason = (
      f'steps {self._row[0]} to {self._row[-1]} were not finite'
      ' (faults.max_skips)'
    )
    self._row = []
    if self._rollbacks >= self._max_rollbacks:
      again = (
        f', after {self._rollbacks} rollbacks (faults.max_rollbacks)'
        if self._rollbacks
        else ''
      )
      raise errors.DivergedError(reason + again)
    self._rollbacks += 1
    raise RolledBack(step, reason)
