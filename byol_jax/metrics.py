"""Computes metrics from scores and labels."""

import chex
import jax
import jax.numpy as jnp


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
