"""Weighted nearest-neighbour accuracy of a frozen encoder.

The neighbours are those of the largest cosine; each votes for its class with
exp(cosine / temperature). The bank is the training split, the queries are the
test split, both in centre crops. Nothing is trained and nothing is chosen.
"""

from collections.abc import Callable, Iterator
import functools

import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from byol_jax import errors, losses
from byol_jax.distributed import placement
from byol_jax.evals import features, splits

# Rows on the device at once: [QUERIES, BANK] similarities, 64 MiB.
QUERIES = 256
BANK = 65536


@functools.partial(jax.jit, donate_argnums=(0,))
def closer(
  best: tuple[jax.Array, jax.Array],
  bank: jax.Array,
  labels: jax.Array,
  queries: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """The nearest so far, after some more rows of the bank.

  Args:
    best: cosines float32 [Q, k], falling, and labels int32 [Q, k].
    bank: float32 [B, D], of any length.
    labels: int32 [B].
    queries: float32 [Q, D].

  Returns:
    The new `best`; of equal cosines the earlier row comes first.
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
def vote(
  cosines: jax.Array,
  labels: jax.Array,
  *,
  k: int,
  temperature: float,
  num_classes: int,
) -> jax.Array:
  """The class with the most weight among the k nearest; ties: the lower.

  Args:
    cosines: float32 [Q, K], falling, K >= k.
    labels: int32 [Q, K].
    k: how many vote.
    temperature: of the weights, positive.
    num_classes: C.

  Returns:
    int32 [Q].
  """
  # From the nearest: a small temperature must not overflow.
  distance = cosines[:, :k] - cosines[:, :1]
  weights = jnp.exp(distance / temperature)
  queries = jnp.arange(len(labels))[:, None]
  votes = jnp.zeros((len(labels), num_classes))
  votes = votes.at[queries, labels[:, :k]].add(weights)
  return jnp.argmax(votes, axis=-1).astype(jnp.int32)


def neighbours(
  bank: np.ndarray, bank_labels: np.ndarray, queries: np.ndarray, k: int
) -> Iterator[tuple[jax.Array, jax.Array]]:
  """Cosines and labels of the k nearest, [Q', k] each, by parts of queries.

  Args:
    bank: float32 [N, D]; stays on the host, a part at a time visits the device.
    bank_labels: int32 [N].
    queries: float32 [Q, D].
    k: at most N.
  """
  starts = range(0, len(queries), QUERIES)
  parts = [jnp.asarray(queries[start : start + QUERIES]) for start in starts]
  best = [
    (jnp.full((len(part), k), -jnp.inf), jnp.zeros((len(part), k), jnp.int32))
    for part in parts
  ]
  for start in range(0, len(bank), BANK):
    rows = jnp.asarray(bank[start : start + BANK])
    labels = jnp.asarray(bank_labels[start : start + BANK], jnp.int32)
    best = [closer(b, rows, labels, part) for b, part in zip(best, parts)]
  yield from best


def predict(
  bank: np.ndarray,
  bank_labels: np.ndarray,
  queries: np.ndarray,
  *,
  k: int,
  temperature: float,
  num_classes: int,
) -> np.ndarray:
  """Classes of the queries.

  Args:
    bank: float32 [N, D], not normalised.
    bank_labels: int32 [N], in [0, num_classes).
    queries: float32 [Q, D], not normalised.
    k: neighbours that vote; more than N are N.
    temperature: of the weights exp(cosine / temperature), positive.
    num_classes: C.

  Returns:
    int32 [Q].
  """
  k = min(k, len(bank))
  classes = [
    vote(cosines, labels, k=k, temperature=temperature, num_classes=num_classes)
    for cosines, labels in neighbours(bank, bank_labels, queries, k)
  ]
  return np.concatenate([np.asarray(part) for part in classes])


def run(
  config: config_dict.ConfigDict,
  encoder: features.Encoder,
  load: splits.Load,
  note: Callable[[str], None] = lambda text: None,
) -> dict[str, float]:
  """kNN accuracy of the test split for every k.

  Args:
    config: as in `configs/evals/knn.py`.
    encoder: frozen.
    load: 'train' and 'test' -> image set.
    note: takes lines of progress.

  Returns:
    `knn_k<k>` in [0, 1] for each of `config.ks`; `bank`, `queries` (images),
    `largest_k` (after clipping to the bank) and `num_classes`.

  Raises:
    ConfigError: a value that cannot be used.
    DataError: labels are absent or do not fit.
  """
  check(config)
  named, num_classes = splits.open_splits(load, ('train', 'test'))
  found = []
  for name, split in named.items():
    note(f'knn: {name}, {split.num_examples:,} images')
    part = features.extract(encoder, split.eval_batches(config.batch_size))
    splits.check_labels(part.labels, num_classes, name)
    found.append(part)
  bank, queries = found
  used = {k: min(k, len(bank.ids)) for k in config.ks}
  for k in config.ks:
    if used[k] < k:
      note(f'knn: the bank has {used[k]} images, so k={k} counts all of them')
  correct = dict.fromkeys(config.ks, 0)
  done = 0
  for cosines, labels in neighbours(
    bank.values, bank.labels, queries.values, max(used.values())
  ):
    truth = queries.labels[done : done + len(labels)]
    done += len(labels)
    for k in config.ks:
      classes = vote(
        cosines, labels, k=used[k], temperature=config.temperature,
        num_classes=num_classes,
      )  # fmt: skip
      correct[k] += int(np.sum(np.asarray(classes) == truth))
  return {f'knn_k{k}': correct[k] / len(queries.ids) for k in config.ks} | {
    'bank': len(bank.ids),
    'queries': len(queries.ids),
    'largest_k': max(used.values()),
    'num_classes': num_classes,
  }


def check(config: config_dict.ConfigDict) -> None:
  """Refuses values that would fail late.

  Raises:
    ConfigError: names the key.
  """
  placement.check_batch_size('batch_size', config.batch_size)
  if not config.ks or min(config.ks) < 1:
    raise errors.ConfigError(
      f'ks: expected numbers of neighbours from 1, found {config.ks}'
    )
  if not config.temperature > 0:
    raise errors.ConfigError(
      f'temperature: expected a positive number, found {config.temperature}'
    )
