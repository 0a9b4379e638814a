"""Judges from the logged scalars whether a run has collapsed, and why."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from byol_jax import errors


class Sign(NamedTuple):
  """A scalar that leaves its limits in a run that has collapsed.

  Attributes:
    scalar: its name.
    limit: values beyond it are wrong.
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
    """Returns whether a log line with the scalar shows it."""
    value = line[self.scalar]
    if line.get('step', self.from_step) < self.from_step:
      return False
    return value < self.limit if self.is_least else value > self.limit

  def select_last(
    self, lines: Sequence[Mapping[str, float]]
  ) -> list[Mapping[str, float]]:
    """Returns the last `NUM_LINES` log lines with the scalar."""
    found = [line for line in lines if line.get(self.scalar) is not None]
    return found[-NUM_LINES:]


# In this order: the first one that is shown is named. How the limits were
# chosen: docs/logs.md, benchmarks/results/monitor.json.
SIGNS = (
  Sign(
    *('projection_std', 0.5, True, 'the projections have collapsed to a point'),
    'from 0.65',
  ),
  Sign(
    *('dead_units', 0.5, False),
    'most units of the representation are dead',
    'near 0',
  ),
  Sign(
    *('target_margin', 0.03, True),
    'the predictions do not tell the images apart',
    'from 0.15 at the end',
    from_step=1000,
  ),
)
NUM_LINES = 3  # in a row, with its scalar, that must show a sign


def find_collapse(lines: Sequence[Mapping[str, float]]) -> str | None:
  """Returns what the last lines show of a collapse, or None.

  Args:
    lines: scalars of log lines, in order, with their `step`.
  """
  for sign in SIGNS:
    last = sign.select_last(lines)
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
    self._lines: list[Mapping[str, float]] = []
    self.has_collapsed = False

  def observe(self, scalars: Mapping[str, float]) -> str | None:
    """Returns a warning where a collapse begins, from each log line.

    Raises:
      DivergedError: it begins, and the action is 'stop'.
    """
    if self._action == 'ignore':
      return None
    self._lines.append(scalars)
    needed = [line for sign in SIGNS for line in sign.select_last(self._lines)]
    self._lines = [x for x in self._lines if any(x is y for y in needed)]
    before = self.has_collapsed
    found = find_collapse(self._lines)
    self.has_collapsed = found is not None
    if found is None or before:
      return None
    text = f'{found}; likely cause: {self._cause()} (faults.collapse)'
    if self._action == 'stop':
      raise errors.DivergedError(text)
    return f'warning: {text}'
