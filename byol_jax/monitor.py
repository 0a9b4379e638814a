"""Signs of collapse."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from byol_jax import losses


def projection_std(
  projection: jax.Array, mean: Callable[[jax.Array], jax.Array]
) -> jax.Array:
  """Spread of the unit projections over the global batch, in [0, 1].

  Args:
    projection: [B, D], one device's share.
    mean: average over the devices.

  Returns:
    Root mean square over dimensions of the deviation, times sqrt(D): 0 when
    all projections point the same way, 1 when their mean is zero.
  """
  unit = losses.l2_normalize(projection)
  first = mean(jnp.mean(unit, axis=0))
  second = mean(jnp.mean(jnp.square(unit), axis=0))
  variance = jnp.maximum(second - jnp.square(first), 0.0)
  return jnp.sqrt(jnp.sum(variance))
