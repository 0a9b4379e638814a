"""Makes one call of the devices do one training step, or several.

A streamed set sends the views of one step with each call. A resident set has
its pixels on the devices: a call takes the plans of several steps, and the
host does nothing between them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import functools
import itertools
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.distributed import packing, placement

Plan = Mapping[str, Any]
# (batch size, first step, number of steps) -> a batch a step, as host arrays
# [local devices, per device, ...].
MakeBatches = Callable[[int, int, int], Iterator[Any]]

# Steps of a call by default: few calls, and a signal is seen within seconds.
_MAX_DEFAULT = 25


class ResidentSet(Protocol):
  """A set in the memory of the devices (`data.loading.resident`)."""

  extent: Any  # reading it raises ConfigError for a set that does not fit

  def store(self) -> Any:
    """Returns what each device holds, as host arrays."""

  def plans(
    self, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Plan]:
    """Yields one plan a step: arrays [local devices, ...]."""

  def views(self, store: Any, plan: Plan) -> Any:
    """Returns the batch of a plan; runs on a device."""


class StreamedCalls:
  """Divides the steps of a run into calls of the devices: one step a call."""

  def __init__(self, make_batches: MakeBatches) -> None:
    self._make_batches = make_batches

  def split(self, steps: range) -> Iterator[range]:
    """Yields the steps of each call."""
    return (range(step, step + 1) for step in steps)

  def batches(
    self, batch_size: int, steps: range, data_offset: int = 0
  ) -> Iterator[Any]:
    """Yields the batch of each call as host arrays, [local devices, ...].

    Args:
      batch_size: of all devices.
      steps: of the run.
      data_offset: step N takes the images of step N + data_offset, so that a
        run that was rolled back sees other images.
    """
    first = steps.start + data_offset
    return self._make_batches(batch_size, first, len(steps))

  def compile(self, update: Callable) -> Callable:
    """Maps `update` over the devices.

    Returns:
      (state, batch) -> (state, scalars), as of `placement.map_step`, with
      replicated `packing.Packed` states. Scalars are [L] for a step.
    """
    return _compile_update(update)

  def compile_monitor(self, monitor: Callable) -> Callable:
    """Maps `monitor`, (state, batch) -> scalars, over the devices.

    Returns:
      The same with `packing.Packed` states, which are not donated, and the
      batch of a call: scalars [L] after its last step.
    """
    return _compile_monitor(monitor)


# One program for the trainings of an evaluation that share their update.
@functools.lru_cache(maxsize=4)
def _compile_update(update: Callable) -> Callable:
  return placement.map_step(packing.on_packed_state(update))


@functools.lru_cache(maxsize=4)
def _compile_monitor(monitor: Callable) -> Callable:
  return placement.pmap(
    lambda packed, batch: monitor(packing.unpack(packed), batch)
  )


@dataclasses.dataclass(frozen=True)
class _WithStore:
  """A mapped function with a store as its second argument."""

  mapped: Any
  get_store: Callable[[], Any]

  def __call__(self, state: Any, batch: Any) -> Any:
    """Calls the function."""
    return self.mapped(state, self.get_store(), batch)

  def lower(self, state: Any, batch: Any) -> Any:
    """As of `jax.jit`."""
    return self.mapped.lower(state, self.get_store(), batch)


class ResidentCalls:
  """Up to `max_steps_per_call` steps a call, none across a boundary.

  Args:
    dataset: the images.
    max_steps_per_call: steps of a call.
    boundaries: a call ends after each multiple of these; 0 is none.

  Raises:
    ConfigError: the set does not fit the memory of the devices.
  """

  def __init__(
    self,
    dataset: ResidentSet,
    max_steps_per_call: int,
    boundaries: tuple[int, ...],
  ) -> None:
    self._dataset = dataset
    self._max_steps_per_call = max_steps_per_call
    self._boundaries = [every for every in boundaries if every]
    _ = dataset.extent

  def split(self, steps: range) -> Iterator[range]:
    """See `StreamedCalls`."""
    start = steps.start
    while start < steps.stop:
      ends = [(start // every + 1) * every for every in self._boundaries]
      stop = min(start + self._max_steps_per_call, steps.stop, *ends)
      yield range(start, stop)
      start = stop

  def batches(
    self, batch_size: int, steps: range, data_offset: int = 0
  ) -> Iterator[Any]:
    """See `StreamedCalls`."""
    first = steps.start + data_offset
    plans = self._dataset.plans(batch_size, first, len(steps))
    for call in self.split(steps):
      planned = itertools.islice(plans, len(call))
      yield stack_plans(planned, self._max_steps_per_call)

  def compile(self, update: Callable) -> Callable:
    """See `StreamedCalls`; scalars are [L, max_steps_per_call]."""
    repeated = repeat_update(update, self._dataset.views)
    repeated = placement.map_step(packing.on_packed_state(repeated))
    return _WithStore(repeated, lambda: self._store)

  def compile_monitor(self, monitor: Callable) -> Callable:
    """See `StreamedCalls`."""
    mapped = placement.pmap(monitor_last(monitor, self._dataset.views))
    return lambda state, batch: mapped(state, self._store, batch)

  @functools.cached_property
  def _store(self) -> Any:
    return placement.replicate(self._dataset.store())


StepCalls = StreamedCalls | ResidentCalls


def make_step_calls(
  dataset: Any,
  steps_per_call: int,
  boundaries: tuple[int, ...],
  more_boundaries: tuple[int, ...] = (),
) -> StepCalls:
  """Returns the calls of a run: of several steps for a resident set.

  Args:
    dataset: with `view_batches`, a `MakeBatches`, or a `ResidentSet`.
    steps_per_call: for a resident set, at most; 0 chooses.
    boundaries: see `ResidentCalls`; the default number of steps divides them.
    more_boundaries: others, which do not change that number: it changes the
      last bits of the result.

  Raises:
    ConfigError: see `ResidentCalls`.
  """
  if not hasattr(dataset, 'plans'):
    return StreamedCalls(dataset.view_batches)
  is_cpu = jax.default_backend() == 'cpu'
  default = 1 if is_cpu else choose_steps_per_call(boundaries)
  most = steps_per_call or default
  return ResidentCalls(dataset, most, (*boundaries, *more_boundaries))


def choose_steps_per_call(boundaries: tuple[int, ...]) -> int:
  """Returns the most steps of a call that no boundary cuts short, up to 25."""
  every = math.gcd(*boundaries)
  return max(n for n in range(1, _MAX_DEFAULT + 1) if every % n == 0)


def stack_plans(plans: Iterable[Plan], length: int) -> Plan:
  """Stacks the plans of up to `length` steps.

  Args:
    plans: arrays [L, ...] each.
    length: of the new axis; missing plans are zeros.

  Returns:
    'steps': arrays [L, length, ...]; 'count': int32 [L], the number of plans.
  """
  steps = list(plans)

  def stack(*arrays: np.ndarray) -> np.ndarray:
    stacked = np.stack(arrays, axis=1)
    missing = [(0, 0), (0, length - len(arrays))]
    return np.pad(stacked, missing + [(0, 0)] * (stacked.ndim - 2))

  stacked = jax.tree.map(stack, *steps)
  devices = len(next(iter(stacked.values())))
  return {'steps': stacked, 'count': np.full(devices, len(steps), np.int32)}


def repeat_update(update: Callable, views: Callable) -> Callable:
  """Makes one function of several steps: a `lax.scan` over their plans.

  A call that a boundary cuts short scans on and keeps the state as it is: a
  shorter scan would be another program, compiled again and with other last
  bits. A single step is not scanned, since XLA on a CPU does not prepare the
  convolutions of a loop: 10 times slower (github.com/jax-ml/jax/issues/12868).

  Args:
    update: (state, batch) -> (state, scalars).
    views: (store, plan of a step) -> batch.

  Returns:
    (state, store, plan as of `stack_plans`, without the axis L) -> the state
    after `count` steps, and scalars [length], the first `count` valid.
  """

  def update_many(state: Any, store: Any, plan: Plan) -> tuple[Any, Any]:
    length = len(jax.tree.leaves(plan['steps'])[0])

    def update_one(state: Any, now: tuple[Any, Any]) -> tuple[Any, Any]:
      is_valid, step = now
      new, scalars = update(state, views(store, step))
      kept = jax.tree.map(lambda n, s: jnp.where(is_valid, n, s), new, state)
      return kept, scalars

    if length == 1:  # always valid
      step = jax.tree.map(lambda x: x[0], plan['steps'])
      state, scalars = update(state, views(store, step))
      return state, jax.tree.map(lambda x: x[None], scalars)
    is_valid = jnp.arange(length) < plan['count']
    return jax.lax.scan(update_one, state, (is_valid, plan['steps']))

  return update_many


def monitor_last(monitor: Callable, views: Callable) -> Callable:
  """Makes a function of several steps that monitors the last of them.

  Args:
    monitor: (state, batch) -> scalars.
    views: (store, plan of a step) -> batch.

  Returns:
    (packed state, store, plan as of `repeat_update`) -> scalars.
  """

  def monitor_call(packed: packing.Packed, store: Any, plan: Plan) -> Any:
    last = plan['count'] - 1
    step = jax.tree.map(lambda x: x[last], plan['steps'])
    return monitor(packing.unpack(packed), views(store, step))

  return monitor_call
