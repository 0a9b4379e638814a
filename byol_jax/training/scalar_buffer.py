"""Buffers scalars on the devices between two log lines.

Fetching after every step would make the host wait for each one; fetching only
the last step would miss a step that was skipped.
"""

import itertools
from typing import Any, NamedTuple

import jax
import numpy as np

from byol_jax import parallel
from byol_jax.distributed import placement

# Calls whose results the host does not wait for: bounds the batches that are
# queued on a device.
MAX_CALLS_IN_FLIGHT = 2
# Calls of which a line of the console shows the mean, at most.
_MAX_PEEKED = 20
# Scalars of which a log line has the last value, not the mean.
SCHEDULES = ('tau', 'learning_rate')
# Scalars whose mean over steps has the weight `LABELLED`, where it is given: a
# batch without a label says nothing of them.
OF_LABELLED = ('classifier_loss', 'top1_accuracy', 'top5_accuracy')
LABELLED = 'labelled'


class StepScalars(NamedTuple):
  """Scalars of the steps since the last log line."""

  means: dict[str, float]
  skipped: list[int]  # steps that left the state unchanged, counted from 0
  steps: range
  values: dict[str, np.ndarray]  # [number of steps, ...]


class ScalarBuffer:
  """Holds the scalars of steps, on the device, until they are fetched."""

  def __init__(self, first_step: int) -> None:
    self._first_step = first_step
    self._scalars: list[Any] = []
    self._counts: list[int] = []

  def __len__(self) -> int:
    """Returns the number of steps that were added since the last fetch."""
    return sum(self._counts)

  def add(self, scalars: Any, count: int) -> None:
    """Appends the scalars of one call and waits for those of an earlier call.

    Args:
      scalars: replicated dict; each [L] for one step, or [L, N, ...] for
        N >= count steps.
      count: steps of the call.
    """
    self._scalars.append(scalars)
    self._counts.append(count)
    if len(self._scalars) > MAX_CALLS_IN_FLIGHT:
      jax.block_until_ready(self._scalars[-1 - MAX_CALLS_IN_FLIGHT])

  def fetch_means(self) -> StepScalars:
    """Fetches and empties the buffer, which must hold a step.

    Returns:
      Means over the steps that were not skipped; of schedules the last value.
      `means['skipped']` is the number of skipped steps, absent if there are
      none.
    """
    values = _fetch(self._scalars, self._counts)
    means, is_skipped = _average(values)
    values.pop(parallel.SKIPPED, None)
    steps = range(self._first_step, self._first_step + len(self))
    self._first_step = steps.stop
    self._scalars, self._counts = [], []
    skipped = [steps[i] for i in np.flatnonzero(is_skipped)]
    return StepScalars(means, skipped, steps, values)

  def peek_means(self) -> dict[str, float]:
    """Returns means over steps that are done, of the last calls.

    Waits for no device and leaves the buffer as it is; {} if no step is done.
    """
    scalars = self._scalars[-_MAX_PEEKED:]
    done = [*itertools.takewhile(_is_ready, scalars)]
    counts = self._counts[-_MAX_PEEKED:][: len(done)]
    return _average(_fetch(done, counts))[0] if done else {}


def _is_ready(scalars: Any) -> bool:
  return all(x.is_ready() for x in jax.tree.leaves(scalars))


def _fetch(scalars: list[Any], counts: list[int]) -> dict[str, np.ndarray]:
  """Returns the scalars of calls by step, [number of steps, ...]."""
  fetched = placement.fetch_first_replica(scalars)
  return {
    key: np.concatenate(
      [np.atleast_1d(s[key])[:n] for s, n in zip(fetched, counts)]
    )
    for key in fetched[0]
  }


def _average(
  values: dict[str, np.ndarray],
) -> tuple[dict[str, float], np.ndarray]:
  """Returns what `ScalarBuffer.fetch_means` says, and which were skipped."""
  (count,) = {len(each) for each in values.values()}
  is_skipped = values.get(parallel.SKIPPED, np.zeros(count)) > 0
  values = {k: each for k, each in values.items() if k != parallel.SKIPPED}
  kept = {key: each[~is_skipped] for key, each in values.items()}
  means = {} if is_skipped.all() else _average_kept(kept)
  for key in values.keys() & set(SCHEDULES):
    means[key] = float(values[key][-1])
  if is_skipped.any():
    means[parallel.SKIPPED] = float(is_skipped.sum())
  return means, is_skipped


def _average_kept(values: dict[str, np.ndarray]) -> dict[str, float]:
  """Returns means of scalars [N]; without a label none of the classifier."""
  means = {key: float(np.mean(each)) for key, each in values.items()}
  if LABELLED not in values:
    return means
  weights = values[LABELLED]
  for key in means.keys() & set(OF_LABELLED):
    if weights.any():
      means[key] = float(np.average(values[key], weights=weights))
    else:
      del means[key]
  return means
