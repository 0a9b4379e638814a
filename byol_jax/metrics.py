"""Computes metrics: accuracy, and the spread of the projections."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from byol_jax import losses


def in_top_k(scores: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Returns whether the label is among the k best, [B, C], int [B] -> bool [B].

  Of equal scores the lower class ranks higher. With at most k classes every
  label is among the best; a label whose score is NaN never is.
  """
  chex.assert_rank([scores, labels], [2, 1])
  chosen = jnp.take_along_axis(scores, labels[:, None], axis=-1)
  is_lower = jnp.arange(scores.shape[-1]) < labels[:, None]
  better = jnp.where(is_lower, scores >= chosen, scores > chosen)
  # The label's own score may be computed twice, with another rounding.
  is_other = jnp.arange(scores.shape[-1]) != labels[:, None]
  rank = jnp.sum(better & is_other, axis=-1)
  return (rank < k) & ~jnp.isnan(chosen[:, 0])


def projection_std(
  projection: jax.Array, mean: Callable[[jax.Array], jax.Array]
) -> jax.Array:
  """Returns the spread of the unit projections over the global batch.

  It falls to 0 where the representation collapses.

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
