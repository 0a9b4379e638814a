"""Scalars that are still on a device: fetched seldom, looked at all.

Fetching after every step would make the host wait for it; fetching only the
last one would miss a step that was skipped.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from byol_jax import finite
from byol_jax.distributed import placement


class Taken(NamedTuple):
  """What the steps since the last log line said."""

  scalars: dict[str, float]
  skipped: list[int]  # steps without effect, counted from 0
  steps: range


class Pending:
  """Scalars of the steps since the last log line, still on the device."""

  # Calls that may be under way: bounds the batches that wait on a device.
  IN_FLIGHT = 2

  def __init__(self, first_step: int) -> None:
    self.first_step = first_step
    self.scalars: list[Any] = []
    self.counts: list[int] = []

  def __len__(self) -> int:
    """Steps since the last log line."""
    return sum(self.counts)

  def add(self, scalars: Any, count: int) -> None:
    """Appends one call's scalars, waiting for those of an earlier call.

    Args:
      scalars: replicated, of one step each or of at least `count` steps.
      count: steps of the call.
    """
    self.scalars.append(scalars)
    self.counts.append(count)
    if len(self.scalars) > self.IN_FLIGHT:
      jax.block_until_ready(self.scalars[-1 - self.IN_FLIGHT])

  def take(self) -> Taken:
    """Means over the steps that had an effect (last value of schedules).

    `skipped` is there, as their number, where steps had none.
    """
    found = placement.first_replica(self.scalars)
    values = {
      key: np.concatenate(
        [np.ravel(s[key])[:n] for s, n in zip(found, self.counts)]
      )
      for key in found[0]
    }
    is_skipped = values.pop(finite.SKIPPED) > 0
    scalars = {
      key: float(np.mean(each[~is_skipped]))
      for key, each in values.items()
      if not is_skipped.all()
    }
    for key in ('tau', 'learning_rate'):
      scalars[key] = float(values[key][-1])
    if is_skipped.any():
      scalars[finite.SKIPPED] = float(is_skipped.sum())
    steps = range(self.first_step, self.first_step + len(self))
    self.first_step = steps.stop
    self.scalars, self.counts = [], []
    return Taken(scalars, [steps[i] for i in np.flatnonzero(is_skipped)], steps)
