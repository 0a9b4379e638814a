"""What one call of the devices does: one step, or several.

A streamed set sends the views of one step with each call. Of a resident set
the devices have the pixels; a call takes the plan of several steps, and the
host is not asked between them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import itertools
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from byol_jax.distributed import packing, placement

Plan = Mapping[str, Any]

_MANY = 25  # steps: the host is needed seldom, and a signal is heard soon


class StreamedSet(Protocol):
  """A set whose views come from the host (`data.image_set.ImageSet`)."""

  def view_batches(
    self, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Any]:
    """Two views and labels, [local devices, per device, ...], by step."""


class ResidentSet(Protocol):
  """A set on the devices (`data.resident.ImageSet`)."""

  extent: Any  # whose reading refuses a set that does not fit

  def store(self) -> Any:
    """What each device holds: arrays on the host."""

  def plans(
    self, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Plan]:
    """Arrays [local devices, ...], by step."""

  def views(self, store: Any, plan: Plan) -> Any:
    """On a device: the batch that a plan means."""


class Streamed:
  """A call is a step."""

  def __init__(self, dataset: StreamedSet) -> None:
    self._dataset = dataset

  def spans(self, steps: range) -> Iterator[range]:
    """The steps of each call."""
    return (range(step, step + 1) for step in steps)

  def batches(
    self, batch_size: int, steps: range, offset: int = 0
  ) -> Iterator[Any]:
    """What each call takes, on the host, [local devices, ...].

    Args:
      batch_size: of all devices.
      steps: of the run.
      offset: step N takes the images of N + offset: a run that was rolled
        back does not meet the same ones again.
    """
    first = steps.start + offset
    return self._dataset.view_batches(batch_size, first, len(steps))

  def compile(self, update: Callable) -> Callable:
    """(state, batch) -> (state, scalars [L]).

    The state is `packing.Packed`, replicated and donated.
    """
    return placement.pmap(packing.on_packed_state(update), donate_argnums=(0,))


class Resident:
  """A call is at most so many steps, and none runs across a mark.

  Args:
    dataset: the images.
    most: steps of a call.
    marks: after every so many steps a call ends; 0 is never.

  Raises:
    ConfigError: the set does not fit.
  """

  def __init__(
    self, dataset: ResidentSet, most: int, marks: tuple[int, ...]
  ) -> None:
    self._dataset = dataset
    self._most = most
    self._marks = [every for every in marks if every]
    _ = dataset.extent

  def spans(self, steps: range) -> Iterator[range]:
    """The steps of each call."""
    start = steps.start
    while start < steps.stop:
      ends = [(start // every + 1) * every for every in self._marks]
      stop = min(start + self._most, steps.stop, *ends)
      yield range(start, stop)
      start = stop

  def batches(
    self, batch_size: int, steps: range, offset: int = 0
  ) -> Iterator[Any]:
    """As `Streamed.batches`."""
    first = steps.start + offset
    plans = self._dataset.plans(batch_size, first, len(steps))
    for span in self.spans(steps):
      yield stacked(itertools.islice(plans, len(span)), self._most)

  def compile(self, update: Callable) -> Callable:
    """As `Streamed.compile`, with scalars [L, most]."""
    many = placement.pmap(
      packing.on_packed_state(repeated(update, self._dataset.views)),
      donate_argnums=(0,),
    )
    store = placement.replicate(self._dataset.store())
    return lambda state, batch: many(state, store, batch)


def of(config: config_dict.ConfigDict, dataset: Any) -> Streamed | Resident:
  """The calls of a run; see `Resident` for the errors."""
  if not config.data.resident:
    return Streamed(dataset)
  marks = (config.log.every_steps, config.checkpoint.every_steps)
  default = 1 if jax.default_backend() == 'cpu' else divisor(marks)
  return Resident(dataset, config.input.steps_per_call or default, marks)


def divisor(marks: tuple[int, ...]) -> int:
  """The most steps of a call, up to a few, that no mark cuts short."""
  every = math.gcd(*marks)
  return max(n for n in range(1, _MANY + 1) if every % n == 0)


def stacked(plans: Iterable[Plan], most: int) -> Plan:
  """Plans of up to `most` steps, [L, ...] each, as one of [L, most, ...].

  'count', int32 [L], says how many they are; the rest is zeros.
  """
  steps = list(plans)

  def join(*arrays: np.ndarray) -> np.ndarray:
    whole = np.stack(arrays, axis=1)
    missing = [(0, 0), (0, most - len(arrays))] + [(0, 0)] * (whole.ndim - 2)
    return np.pad(whole, missing)

  joined = jax.tree.map(join, *steps)
  devices = len(next(iter(joined.values())))
  return {'steps': joined, 'count': np.full(devices, len(steps), np.int32)}


def repeated(update: Callable, views: Callable) -> Callable:
  """Several steps as one function of a device: a `lax.scan` over their plans.

  A call that is cut short, by a log line or a checkpoint, scans on to the full
  length and keeps the state as it is: a shorter scan would be another program,
  compiled anew and with other last bits. A single step is not scanned at all,
  since XLA on a CPU does not prepare the convolutions of a loop: 10 times
  slower (github.com/jax-ml/jax/issues/12868).

  Args:
    update: (state, batch) -> (state, scalars).
    views: (store, plan of a step) -> batch.

  Returns:
    (state, store, plan as of `stacked`, without the axis L) -> the state after
    `count` steps, and scalars [most], of which the first `count` count.
  """

  def many(state: Any, store: Any, plan: Plan) -> tuple[Any, Any]:
    most = len(jax.tree.leaves(plan['steps'])[0])

    def one(state: Any, now: tuple[Any, Any]) -> tuple[Any, Any]:
      is_wanted, step = now
      new, scalars = update(state, views(store, step))
      kept = jax.tree.map(lambda n, s: jnp.where(is_wanted, n, s), new, state)
      return kept, scalars

    if most == 1:
      step = jax.tree.map(lambda x: x[0], plan['steps'])
      state, scalars = update(state, views(store, step))
      return state, jax.tree.map(lambda x: x[None], scalars)
    is_wanted = jnp.arange(most) < plan['count']
    return jax.lax.scan(one, state, (is_wanted, plan['steps']))

  return many
