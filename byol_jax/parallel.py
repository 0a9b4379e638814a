"""Names the device axis and defines what crosses it inside a mapped step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

AXIS = 'i'


def mean(tree: Any) -> Any:
  """Returns the mean over all devices; inside `pmap`."""
  return jax.lax.pmean(tree, AXIS)


def all_gather(x: jax.Array) -> jax.Array:
  """Returns the rows of all devices in order, [b, ...] -> [B, ...]."""
  return jax.lax.all_gather(x, AXIS, tiled=True)


def total(tree: Any) -> Any:
  """Returns the sum over all devices; inside `pmap`."""
  return jax.lax.psum(tree, AXIS)


def all_true(flag: jax.Array) -> jax.Array:
  """Returns whether a bool [] is true on all devices; inside `pmap`."""
  return total(1.0 - flag) == 0


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


def on_one_device(function: Callable) -> Callable:
  """Returns `function`, compiled, under `AXIS` with size one."""

  def call(*args: Any) -> Any:
    lifted = jax.tree.map(lambda x: x[None], args)
    out = jax.vmap(function, axis_name=AXIS)(*lifted)
    return jax.tree.map(lambda x: x[0], out)

  return jax.jit(call)
