"""Metrics: pure functions of scores and labels."""

import chex
import jax
import jax.numpy as jnp


def in_top_k(scores: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Whether the label is among the k best, [B, C] and int [B] -> bool [B].

  With fewer than k classes every label is. Of equal scores the lower class
  wins; a score that is not a number beats nothing.
  """
  chex.assert_rank([scores, labels], [2, 1])
  chosen = jnp.take_along_axis(scores, labels[:, None], axis=-1)
  classes = jnp.arange(scores.shape[-1])
  better = (scores > chosen) | (
    (scores == chosen) & (classes < labels[:, None])
  )
  rank = jnp.sum(better, axis=-1)
  return (rank < k) & ~jnp.isnan(chosen[:, 0])


def count_in_top_k(
  scores: jax.Array, labels: jax.Array, mask: jax.Array, k: int
) -> jax.Array:
  """How many labels are among the k best, as an integer.

  Args:
    scores: [B, C].
    labels: int [B].
    mask: bool [B], False for rows that are padding.
    k: at least 1.

  Returns:
    int32 []: counts of batches add up exactly, means of batches do not.
  """
  chex.assert_equal_shape([labels, mask])
  hits = in_top_k(scores, labels, k) & mask
  return jnp.sum(hits, dtype=jnp.int32)
