"""Computes a sign of collapse: the spread of the projections."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from byol_jax import losses


def projection_std(
  projection: jax.Array, mean: Callable[[jax.Array], jax.Array]
) -> jax.Array:
  """Returns the spread of the unit projections over the global batch.

  Args:
    projection: float32 [B, D], of one device.
    mean: average over the devices, such as `parallel.mean`.

  Returns:
    float32 [] in [0, 1], the square root of the summed variances: 0 when all
    projections have the same direction (collapse), 1 when their mean is zero.
  """
  unit = losses.l2_normalize(projection)
  first = mean(jnp.mean(unit, axis=0))
  second = mean(jnp.mean(jnp.square(unit), axis=0))
  variance = jnp.maximum(second - jnp.square(first), 0.0)
  return jnp.sqrt(jnp.sum(variance))
