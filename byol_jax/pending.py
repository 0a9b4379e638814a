"""Scalars that are still on a device: fetched seldom, checked all.

Fetching after every step would make the host wait for it; fetching only the
last one would miss a loss that was not a number.
"""

import math
from typing import Any

import jax
import numpy as np

from byol_jax import errors, parallel


class Pending:
  """Scalars of the steps since the last log line, still on the device."""

  # Steps that may be under way: bounds the batches that wait on a device.
  IN_FLIGHT = 2

  def __init__(self, first_step: int) -> None:
    self.first_step = first_step
    self.scalars: list[Any] = []

  def add(self, scalars: Any) -> None:
    """Appends one step's scalars, waiting for those of an earlier step."""
    self.scalars.append(scalars)
    if len(self.scalars) > self.IN_FLIGHT:
      jax.block_until_ready(self.scalars[-1 - self.IN_FLIGHT])

  def take(self) -> dict[str, float]:
    """Means over the steps since the last call (last value of schedules).

    Raises:
      DivergedError: a loss was not finite; names the step, counted from 0.
    """
    steps = parallel.first_replica(self.scalars)
    for offset, scalars in enumerate(steps):
      if not math.isfinite(scalars['loss']):
        raise errors.DivergedError(
          f'loss is {scalars["loss"]} at step {self.first_step + offset}'
        )
    self.first_step += len(steps)
    self.scalars = []
    means = {key: float(np.mean([s[key] for s in steps])) for key in steps[0]}
    last = {key: float(steps[-1][key]) for key in ('tau', 'learning_rate')}
    return means | last
