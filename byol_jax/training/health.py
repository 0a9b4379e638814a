"""Judges from the logged scalars whether a run has gone wrong."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from byol_jax import errors

# A run has collapsed if `projection_std` is below MIN_SPREAD in NUM_LINES
# consecutive log lines. 8 healthy runs had at least 0.76, one without a
# predictor 0.23 after 50 steps, 0.09 after 90, 0.03 after 250 (docs/logs.md).
MIN_SPREAD = 0.2
NUM_LINES = 3


def find_collapse(lines: Sequence[Mapping[str, float]]) -> str | None:
  """Returns how the last lines show a collapse, or None.

  Args:
    lines: scalars of log lines, in order.
  """
  spreads = [line.get('projection_std', 1.0) for line in lines[-NUM_LINES:]]
  if len(spreads) < NUM_LINES or not all(x < MIN_SPREAD for x in spreads):
    return None
  return (
    f'the projections have collapsed: projection_std {spreads[-1]:.3f}, below'
    f' {MIN_SPREAD:g} in {NUM_LINES} log lines (healthy: from 0.7)'
  )


def find_cause(config: Mapping[str, Any]) -> str:
  """Returns the likely cause of a collapse, of a run's configuration."""
  if not config['network']['predictor']:
    return 'network.predictor is empty, and nothing else keeps images apart'
  base_tau = config['target']['base_tau']
  if base_tau < 0.9:
    return (
      f'target.base_tau {base_tau:g} lets the target network follow the online'
      ' one too fast'
    )
  return (
    'a learning rate too high (schedule.base_rate), images that are almost the'
    ' same, or augmentations that leave little of them'
  )


class CollapsePolicy:
  """Warns of a collapse, or ends the run.

  Args:
    action: a value of `faults.collapse`.
    cause: returns the likely cause.
  """

  def __init__(self, action: str, cause: Callable[[], str]) -> None:
    self._action, self._cause = action, cause
    self._lines: collections.deque[Mapping[str, float]] = collections.deque(
      maxlen=NUM_LINES
    )
    self.has_collapsed = False

  def observe(self, scalars: Mapping[str, float]) -> str | None:
    """Returns a warning where a collapse begins, from each log line.

    Raises:
      DivergedError: it begins, and the action is 'stop'.
    """
    if self._action == 'ignore':
      return None
    self._lines.append(scalars)
    before = self.has_collapsed
    found = find_collapse(list(self._lines))
    self.has_collapsed = found is not None
    if found is None or before:
      return None
    text = f'{found}; likely cause: {self._cause()} (faults.collapse)'
    if self._action == 'stop':
      raise errors.DivergedError(text)
    return f'warning: {text}'
