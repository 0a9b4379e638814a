"""Computes metrics from scores and labels."""

import chex
import jax
import jax.numpy as jnp


def in_top_k(scores: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Returns whether the label is among the k best scores.

  Of equal scores the lower class ranks higher. With at most k classes every
  label is among the best; a label whose score is NaN never is.

  Args:
    scores: [B, C].
    labels: int [B].
    k: at least 1.

  Returns:
    bool [B].
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
  """Counts the labels that are among the k best scores.

  Args:
    scores: [B, C].
    labels: int [B].
    mask: bool [B], False for rows that are padding.
    k: at least 1.

  Returns:
    int32 []. Counts of batches add up exactly; means of batches do not.
  """
  chex.assert_equal_shape([labels, mask])
  hits = in_top_k(scores, labels, k) & mask
  return jnp.sum(hits, dtype=jnp.int32)
