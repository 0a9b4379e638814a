"""Inside the mapped step: the axis of the devices and what crosses it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

AXIS = 'i'


def mean(tree: Any) -> Any:
  """Mean over all devices; inside `pmap`."""
  return jax.lax.pmean(tree, AXIS)


def total(tree: Any) -> Any:
  """Sum over all devices; inside `pmap`."""
  return jax.lax.psum(tree, AXIS)


def all_true(flag: jax.Array) -> jax.Array:
  """Whether a bool [] holds on all devices; inside `pmap`."""
  return jax.lax.psum(1.0 - flag, AXIS) == 0


def image_keys(rng: jax.Array, step: jax.Array, per_device: int) -> jax.Array:
  """One key an image, from (seed, step, place in the global batch).

  Inside `pmap`. The device enters only through the place, so any number of
  devices gives an image the same key.

  Args:
    rng: the run's key, uint32 [2].
    step: int32 [].
    per_device: images on this device.

  Returns:
    uint32 [per_device, 2].
  """
  places = jax.lax.axis_index(AXIS) * per_device + jnp.arange(per_device)
  step_key = jax.random.fold_in(rng, step)
  return jax.vmap(lambda place: jax.random.fold_in(step_key, place))(places)


def on_one_device(function: Callable) -> Callable:
  """`function` under the axis `AXIS` of size one, for initialisation."""

  def call(*args: Any) -> Any:
    lifted = jax.tree.map(lambda x: x[None], args)
    out = jax.vmap(function, axis_name=AXIS)(*lifted)
    return jax.tree.map(lambda x: x[0], out)

  return jax.jit(call)
