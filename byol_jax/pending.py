"""Scalars that are still on a device: fetched seldom, checked all.

Fetching after every step would make the host wait for it; fetching only the
last one would miss a loss that was not a number.
"""

from typing import Any

import jax
import numpy as np

from byol_jax import errors, parallel


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

  def take(self) -> dict[str, float]:
    """Means over the steps since the last call (last value of schedules).

    Raises:
      DivergedError: a loss was not finite; names the step, counted from 0.
    """
    found = parallel.first_replica(self.scalars)
    steps = {
      key: np.concatenate(
        [np.ravel(s[key])[:n] for s, n in zip(found, self.counts)]
      )
      for key in found[0]
    }
    for offset in np.flatnonzero(~np.isfinite(steps['loss'])):
      raise errors.DivergedError(
        f'loss is {steps["loss"][offset]} at step {self.first_step + offset}'
      )
    self.first_step += len(self)
    self.scalars, self.counts = [], []
    means = {key: float(np.mean(values)) for key, values in steps.items()}
    last = {key: float(steps[key][-1]) for key in ('tau', 'learning_rate')}
    return means | last
