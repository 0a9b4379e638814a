"""Weighted nearest-neighbour accuracy of a frozen encoder.

The neighbours are those of the largest cosine similarity; each votes for its
class with weight exp(cosine / temperature). The bank is the training split,
the queries are the test split, both in centre crops. Nothing is trained or
selected.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import losses
from byol_jax.distributed import placement
from byol_jax.evals import features, splits

# Rows on the device at once: [QUERIES, BANK] similarities, 64 MiB.
QUERIES = 256
BANK = 65536


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of the protocol; `configs/evals/knn.py` explains them."""

  batch_size: int
  ks: tuple[int, ...]
  temperature: float


@functools.partial(jax.jit, donate_argnums=(0,))
def merge_nearest(
  best: tuple[jax.Array, jax.Array],
  bank: jax.Array,
  labels: jax.Array,
  queries: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns the nearest so far after some more rows of the bank.

  `best` and the result are cosines float32 [Q, k], falling, and labels int32
  [Q, k]; of equal cosines the earlier row comes first. Rows of `bank`, float32
  [B, D], and `queries`, float32 [Q, D], may have any length.
  """
  cosines = jnp.matmul(
    losses.l2_normalize(queries),
    losses.l2_normalize(bank).T,
    precision=jax.lax.Precision.HIGHEST,
  )
  k = best[0].shape[-1]
  top, rows = jax.lax.top_k(cosines, min(k, len(bank)))
  cosines = jnp.concatenate([best[0], top], axis=-1)
  candidates = jnp.concatenate([best[1], labels[rows]], axis=-1)
  cosines, places = jax.lax.top_k(cosines, k)
  return cosines, jnp.take_along_axis(candidates, places, axis=-1)


@functools.partial(jax.jit, static_argnames=('k', 'num_classes'))
def count_votes(
  cosines: jax.Array,
  labels: jax.Array,
  *,
  k: int,
  temperature: float,
  num_classes: int,
) -> jax.Array:
  """Returns the classes with the most weight among the k nearest, int32 [Q].

  Of classes with equal weight the lower one wins.

  Args:
    cosines: float32 [Q, K], falling.
    labels: int32 [Q, K], in [0, num_classes).
    k: number of neighbours that vote; all K if that is less.
    temperature: of the weights, positive.
    num_classes: C.
  """
  # Relative to the nearest: a small temperature must not overflow.
  distance = cosines[:, :k] - cosines[:, :1]
  weights = jnp.exp(distance / temperature)
  queries = jnp.arange(len(labels))[:, None]
  votes = jnp.zeros((len(labels), num_classes))
  votes = votes.at[queries, labels[:, :k]].add(weights)
  return jnp.argmax(votes, axis=-1).astype(jnp.int32)


def classify(
  bank: features.Features,
  queries: np.ndarray,
  num_classes: int,
  options: Options,
) -> dict[int, np.ndarray]:
  """Returns the predicted classes of the queries for each k, int32 [Q].

  The bank has N rows with labels in [0, num_classes); queries are float32
  [Q, D]. Neither is normalised. A k of more than N is N.
  """
  parts = _find_neighbours(bank, queries, min(max(options.ks), len(bank.ids)))
  how = {'temperature': options.temperature, 'num_classes': num_classes}
  return {
    k: np.concatenate([count_votes(*nearest, k=k, **how) for nearest in parts])
    for k in options.ks
  }


def measure_accuracy(
  options: Options,
  encoder: features.Encoder,
  load: splits.Load,
  log: Callable[[str], None] = lambda text: None,
) -> dict[str, float]:
  """Returns the kNN accuracy on the test split for every k.

  Args:
    options: of the protocol.
    encoder: frozen.
    load: 'train' and 'test' -> image set.
    log: called with lines of progress.

  Returns:
    `knn_k<k>` in [0, 1] for each of `options.ks`; `bank`, `queries` (images),
    `largest_k` (after clipping to the bank) and `num_classes`.

  Raises:
    ConfigError: the devices do not divide the batch size.
    DataError: labels are absent or do not fit.
  """
  placement.check_batch_size('batch_size', options.batch_size)
  named, num_classes = splits.open_splits(load, ('train', 'test'))
  bank, queries = (
    splits.encode_split(encoder, named, options.batch_size, log, name)
    for name in named
  )
  size = len(bank.ids)
  for k in options.ks:
    if k > size:
      log(f'knn: the bank has {size} images, so k={k} counts all of them')
  predictions = classify(bank, queries.values, num_classes, options)
  return {
    f'knn_k{k}': float(np.mean(classes == queries.labels))
    for k, classes in predictions.items()
  } | {
    'bank': size,
    'queries': len(queries.ids),
    'largest_k': min(max(options.ks), size),
    'num_classes': num_classes,
  }


def _find_neighbours(
  bank: features.Features, queries: np.ndarray, k: int
) -> list[tuple[jax.Array, jax.Array]]:
  """Returns cosines and labels of the k nearest, [Q', k], by parts of queries.

  The bank stays on the host and visits the device in parts.
  """
  starts = range(0, len(queries), QUERIES)
  parts = [jnp.asarray(queries[start : start + QUERIES]) for start in starts]
  best = [
    (jnp.full((len(part), k), -jnp.inf), jnp.zeros((len(part), k), jnp.int32))
    for part in parts
  ]
  for start in range(0, len(bank.ids), BANK):
    rows = jnp.asarray(bank.values[start : start + BANK])
    labels = jnp.asarray(bank.labels[start : start + BANK])
    best = [
      merge_nearest(b, rows, labels, part) for b, part in zip(best, parts)
    ]
  return best
