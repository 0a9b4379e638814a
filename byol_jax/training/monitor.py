"""Judges from the logged scalars whether a run has collapsed, and why."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from byol_jax import errors


class Sign(NamedTuple):
  """A scalar that leaves its limits in a run that has collapsed.

  Attributes:
    scalar: its name.
    limit: the first value, from `healthy` on, that is wrong.
    is_least: whether lower values are wrong, or higher ones.
    meaning: what has happened then.
    healthy: what it is else.
    from_step: before this step it says nothing.
  """

  scalar: str
  limit: float
  is_least: bool
  meaning: str
  healthy: str
  from_step: int = 0

  def is_shown(self, line: Mapping[str, float]) -> bool:
    """Returns whether a log line shows it; not where the scalar is missing."""
    value = line.get(self.scalar)
    if value is None or line.get('step', self.from_step) < self.from_step:
      return False
    return value < self.limit if self.is_least else value > self.limit


# In this order: the first one that is shown is named. How the limits were
# chosen: docs/logs.md, benchmarks/results/monitor.json.
SIGNS = (
  Sign(
    *('projection_std', 0.2, True, 'the projections have collapsed to a point'),
    'from 0.7',
  ),
  Sign(
    *('effective_rank', 1.2, True),
    'the projections have collapsed to few directions',
    'from 1.7',
    from_step=500,
  ),
  Sign(
    *('dead_units', 0.5, False),
    'most units of the representation are dead',
    'near 0',
  ),
  Sign(
    *('target_margin', 0.1, True),
    'the predictions do not tell the images apart',
    'from 0.15',
    from_step=1000,
  ),
)
NUM_LINES = 3  # in a row that must show a sign


def find_collapse(lines: Sequence[Mapping[str, float]]) -> str | None:
  """Returns what the last lines show of a collapse, or None.

  Args:
    lines: scalars of log lines, in order, with their `step`.
  """
  last = lines[-NUM_LINES:]
  for sign in SIGNS:
    if len(last) == NUM_LINES and all(map(sign.is_shown, last)):
      return (
        f'{sign.meaning}: {sign.scalar} {last[-1][sign.scalar]:.3f},'
        f' {"below" if sign.is_least else "above"} {sign.limit:g} in'
        f' {NUM_LINES} log lines (healthy: {sign.healthy})'
      )
  return None


def find_cause(config: Mapping[str, Any]) -> str:
  """Returns the likely cause of a collapse, of a run's configuration."""
  objective, target = config['objective'], config['target']
  base_tau = target['base_tau']
  parameters = target['parameters']
  if not objective.get('negatives_weight', 0.0):
    if not config['network']['predictor'] and objective['name'] == 'regression':
      return 'network.predictor is empty, and nothing else keeps images apart'
    if parameters != 'average':
      return (
        f'target.parameters {parameters!r} makes no difference between the'
        ' target network and the online one'
      )
    if base_tau < 0.9:
      return (
        f'target.base_tau {base_tau:g} lets the target network follow the'
        ' online one too fast'
      )
  if parameters == 'average' and base_tau == 1:
    return 'target.base_tau 1 leaves the target network at its random start'
  return (
    'a learning rate too high or too low (schedule.base_rate), images that are'
    ' almost the same, or augmentations that leave little of them'
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
