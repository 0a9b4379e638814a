"""Names the device axis and defines what crosses it inside a mapped step."""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from byol_jax import errors

AXIS = 'i'
SKIPPED = 'skipped'  # name of the scalar that is 1 for a skipped step
# Elements of the largest array that is not divided: those are 2 % of ResNet-50,
# and each of its other 39 kernels costs an operation between devices.
_SMALL = 2**16


def mean(tree: Any) -> Any:
  """Returns the mean over all devices; inside `pmap`."""
  return jax.lax.pmean(tree, AXIS)


def all_gather(x: jax.Array) -> jax.Array:
  """Returns the rows of all devices in order, [b, ...] -> [B, ...]."""
  return jax.lax.all_gather(x, AXIS, tiled=True)


def total(tree: Any) -> Any:
  """Returns the sum over all devices; inside `pmap`."""
  return jax.lax.psum(tree, AXIS)


def mean_averages(tree: Any) -> Any:
  """Returns the mean over all devices of moving averages; inside `pmap`.

  Integers, their counters, stay: they are the same on all devices.
  """
  is_average = lambda x: jnp.issubdtype(x.dtype, jnp.inexact)
  return jax.tree.map(lambda x: mean(x) if is_average(x) else x, tree)


def all_true(flag: jax.Array) -> jax.Array:
  """Returns whether a bool [] is true on all devices; inside `pmap`."""
  return total(1.0 - flag) == 0


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('rows',),
  meta_fields=('shape',),
)
@dataclasses.dataclass(frozen=True)
class Part:
  """A device's part of an array that is divided over all devices.

  Attributes:
    rows: of the array as a matrix, [rows, last axis of the array]; zeros follow
      where the devices do not divide its rows.
    shape: of the whole array.
  """

  rows: Any
  shape: tuple[int, ...]


def is_finite(large: Any, small: Any) -> jax.Array:
  """Returns whether all values are finite on all devices; inside `pmap`.

  One other value, in any image on any device, would spread: gradients are
  averaged over all devices and kept in momentum, batch-norm averages and target
  parameters. So each step decides on the devices, the same on all of them,
  whether its result replaces the state.

  Costs one all-reduce of one number and no transfer to the host.

  Args:
    large: gradients and the parameters they belong to. The sum of squares of
      each array must be finite, which bounds its elements by 1.8e19. Momentum,
      parameters and target after the step are then finite too, without another
      pass over them: the step adds at most a few times these values.
    small: scalars and batch-norm averages; each element is checked.

  Returns:
    bool [].
  """
  sums = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(large)]
  flags = [
    jnp.all(jnp.isfinite(x))
    for x in jax.tree.leaves((sums, small))
    if jnp.issubdtype(x.dtype, jnp.inexact)
  ]
  # Counted by a dot product, which XLA computes once. A chain of hundreds of
  # logical ands is repeated, on one device, in the loop of every leaf that
  # `keep_finite` writes, and takes seven times as long to compile.
  found = jnp.stack(flags).astype(jnp.float32)
  count = jnp.dot(found, jnp.ones_like(found))
  return all_true(count == len(flags))


def keep_finite(is_finite: jax.Array, new: Any, old: Any) -> Any:
  """Returns the state `new`, or `old` bit for bit with the counts of `new`.

  `step`, which data and schedules follow, always advances. So do the integer
  leaves of `opt_state`, so that the learning rate stays that of the step.
  """

  def choose(new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(is_finite, new, old)

  def count(new: jax.Array, old: jax.Array) -> jax.Array:
    return new if jnp.issubdtype(new.dtype, jnp.integer) else choose(new, old)

  kept = jax.tree.map(choose, new, old)
  opt_state = jax.tree.map(count, new.opt_state, old.opt_state)
  return kept._replace(step=new.step, opt_state=opt_state)


def take_parts(tree: Any, count: int, index: Any) -> Any:
  """Returns a tree whose large arrays are the `Part`s of one device.

  Args:
    tree: whole arrays.
    count: number of devices.
    index: of the device, int32 [].
  """

  def take(x: jax.Array) -> Any:
    if x.size <= _SMALL:
      return x
    matrix = x.reshape(-1, x.shape[-1])
    matrix = jnp.pad(matrix, ((0, -len(matrix) % count), (0, 0)))
    size = len(matrix) // count
    rows = jax.lax.dynamic_slice_in_dim(matrix, index * size, size)
    return Part(rows, x.shape)

  return jax.tree.map(take, tree)


def take_own_parts(tree: Any) -> Any:
  """Returns `take_parts` of this device; inside `pmap`."""
  return take_parts(tree, jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS))


def gather_parts(tree: Any) -> Any:
  """Returns the whole arrays of all devices' `Part`s; inside `pmap`."""

  def gather(x: Any) -> jax.Array:
    if not isinstance(x, Part):
      return x
    rows = all_gather(x.rows)
    return rows[: math.prod(x.shape[:-1])].reshape(x.shape)

  return jax.tree.map(gather, tree, is_leaf=lambda x: isinstance(x, Part))


def shard_optimizer(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Divides the large arrays of an optimizer's state over the devices.

  Stage 1 of ZeRO (arxiv.org/abs/1910.02054): between two updates a device holds
  its `Part`s. An update gathers the state and is that of `optimizer` on every
  device, so trust ratios see whole arrays.

  Returns:
    An optimizer whose `init` returns the whole state, and whose `update` takes
    and returns what `take_own_parts` makes of it, inside `pmap`.
  """

  def update(
    updates: Any, state: Any, params: Any = None
  ) -> tuple[Any, optax.OptState]:
    updates, state = optimizer.update(updates, gather_parts(state), params)
    return updates, take_own_parts(state)

  return optax.GradientTransformation(optimizer.init, update)


def find_positions(per_device: int) -> jax.Array:
  """Returns this device's positions in the global batch, int32 [per_device]."""
  return jax.lax.axis_index(AXIS) * per_device + jnp.arange(per_device)


def make_image_keys(
  rng: jax.Array, step: jax.Array, per_device: int
) -> jax.Array:
  """Returns a key for each image of this device, uint32 [per_device, 2].

  Inside `pmap`. A key depends on the run's key `rng`, uint32 [2], the step and
  the position in the global batch, so not on the number of devices.
  """
  places = find_positions(per_device)
  step_key = jax.random.fold_in(rng, step)
  return jax.vmap(lambda place: jax.random.fold_in(step_key, place))(places)


def fold_in_view(keys: jax.Array, view: int) -> jax.Array:
  """Returns the keys of the images in a view (0 or 1), uint32 [N, 2]."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, view)


def list_groups(num_devices: int, size: int) -> list[list[int]] | None:
  """Returns the groups of `size` neighbouring devices, as their indexes.

  None is one group of all: of `size` 0, and of one device, where initial values
  are made.

  Raises:
    ConfigError: `size` does not divide the devices.
  """
  if not size or num_devices == 1:
    return None
  if num_devices % size:
    raise errors.ConfigError(
      f'network.bn_group: expected 0 or a divisor of the {num_devices} devices,'
      f' found {size}'
    )
  return np.arange(num_devices).reshape(-1, size).tolist()


def check_division(
  key: str,
  batch_size: int,
  num_devices: int,
  *,
  accumulate: int = 1,
  bn_group: int = 0,
) -> None:
  """Checks that a batch can be divided into devices, sub-batches and groups.

  Args:
    key: of the batch size, for the message.
    batch_size: of all devices.
    num_devices: of the run.
    accumulate: sub-batches of a step.
    bn_group: of `networks.make_forward`.

  Raises:
    ConfigError: it cannot, or batch norm would see a single image.
  """
  parts = num_devices * accumulate
  divisor = f'the {num_devices} device{"s" * (num_devices > 1)}'
  if accumulate > 1:
    divisor = f'{parts}, {divisor} times batch.accumulate={accumulate}'
  if batch_size <= 0 or batch_size % parts:
    near = max(1, round(batch_size / parts)) * parts
    raise errors.ConfigError(
      f'{key}: expected a positive multiple of {divisor}, found {batch_size};'
      f' nearest: {near}'
    )
  if bn_group > 1 == num_devices:
    raise errors.ConfigError(
      f'network.bn_group: expected 0 or 1 on one device, found {bn_group}'
    )
  list_groups(num_devices, bn_group)  # raises
  images = batch_size // parts * (bn_group or num_devices)
  if images == 1 and (accumulate > 1 or bn_group):
    raise errors.ConfigError(
      f'{key}: expected at least 2 images in a batch norm, found 1 of'
      f' {batch_size}; lower batch.accumulate, or raise network.bn_group'
    )


def on_one_device(function: Callable) -> Callable:
  """Returns `function`, compiled, under `AXIS` with size one."""

  @functools.wraps(function)
  def call(*args: Any) -> Any:
    lifted = jax.tree.map(lambda x: x[None], args)
    out = jax.vmap(function, axis_name=AXIS)(*lifted)
    return jax.tree.map(lambda x: x[0], out)

  return jax.jit(call)
