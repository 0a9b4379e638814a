"""Weighted nearest-neighbour accuracy of a frozen encoder.

The neighbours are those of the largest cosine similarity; each votes for its
class with weight exp(cosine / temperature). The bank is the training split,
the queries are the test split, both in centre crops. Nothing is trained or
selected.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import errors, losses
from byol_jax.distributed import placement
from byol_jax.evals import features, headlines, splits

# Rows on a device at once: [QUERIES, BANK] similarities, 64 MiB. Every device
# computes QUERIES rows a call, so its program does not depend on their number.
QUERIES = 256
BANK = 65536
VOTES = 4096  # queries whose votes are counted at once, on the host

Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Options:
  batch_size: int
  ks: tuple[int, ...]
  temperatures: tuple[float, ...]


def merge_nearest(
  best: tuple[jax.Array, jax.Array],
  bank: jax.Array,
  labels: jax.Array,
  queries: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns the nearest so far after some more rows of the bank.

  `best` and the result are cosines float32 [Q, k], falling, and labels int32
  [Q, k]; of equal cosines the earlier row comes first. Rows of `bank`, float32
  [B, D], and `queries`, float32 [Q, D], have unit length.
  """
  cosines = jnp.matmul(queries, bank.T, precision=jax.lax.Precision.HIGHEST)
  k = best[0].shape[-1]
  top, rows = jax.lax.top_k(cosines, min(k, len(bank)))
  cosines = jnp.concatenate([best[0], top], axis=-1)
  candidates = jnp.concatenate([best[1], labels[rows]], axis=-1)
  cosines, places = jax.lax.top_k(cosines, k)
  return cosines, jnp.take_along_axis(candidates, places, axis=-1)


def count_votes(
  cosines: np.ndarray,
  labels: np.ndarray,
  *,
  k: int,
  temperature: float,
  num_classes: int,
) -> np.ndarray:
  """Returns the classes with the most weight among the k nearest, int32 [Q].

  Weights are summed in float64; of classes with equal weight the lower wins.
  Cosines, float32 [Q, K] with K of at least k, are falling; labels, int32
  [Q, K], are in [0, num_classes).
  """
  found = []
  for start in range(0, len(labels), VOTES):
    part = slice(start, start + VOTES)
    # Relative to the nearest: a small temperature must not overflow.
    distance = np.float64(cosines[part, :k]) - cosines[part, :1]
    cells = labels[part, :k] + num_classes * np.arange(len(distance))[:, None]
    votes = np.bincount(
      cells.ravel(),
      np.exp(distance / temperature).ravel(),
      minlength=len(distance) * num_classes,
    )
    found.append(votes.reshape(-1, num_classes).argmax(axis=-1))
  return np.concatenate(found).astype(np.int32)


def classify(
  bank: features.Features,
  queries: np.ndarray,
  num_classes: int,
  options: Options,
  log: Log = lambda text: None,
) -> dict[tuple[int, float], np.ndarray]:
  """Returns the predicted classes for each k and temperature, int32 [Q].

  The result does not depend on the number of devices, which share the queries;
  all processes get all of it.

  Args:
    bank: on the host, from where it visits the devices in parts of `BANK` rows;
      no fewer rows than any k.
    queries: float32 [Q, D]; neither these nor the bank need unit length.
    num_classes: labels of the bank are below it.
    options: of the protocol.
    log: called after each part of the bank, if there are several.
  """
  cosines, labels = find_neighbours(bank, queries, max(options.ks), log)
  return {
    (k, temperature): count_votes(
      cosines, labels, k=k, temperature=temperature, num_classes=num_classes
    )
    for k in options.ks
    for temperature in options.temperatures
  }


def measure_accuracy(
  options: Options,
  encoder: features.Encoder,
  load: splits.Load,
  log: Log = lambda text: None,
) -> dict[str, Any]:
  """Returns the kNN accuracy on 'test' for every k and temperature.

  A k of more images than the bank has is left out.

  Returns:
    `knn_k<k>_t<temperature>` in [0, 1] for each of `ks` and `temperatures`,
    which are lists; `left_out`, a list of the other k; `bank`, `queries`
    (images) and `num_classes`; `test_in_train`, queries that are in the bank.

  Raises:
    ConfigError: every k is more than the bank; see `byol_jax.evals` for others.
  """
  placement.check_batch_size('batch_size', options.batch_size)
  named, num_classes = splits.open_splits(load, ('train', 'test'))
  _select_ks(options, named['train'].num_examples)  # before the work
  bank, queries = (
    splits.encode_split(encoder, named, options.batch_size, log, name)
    for name in named
  )
  overlap = splits.check_test(queries, {'train': bank}, num_classes, log)
  results = score_features(options, bank, queries, num_classes, log)
  return results | {'test_in_train': overlap}


def score_features(
  options: Options,
  bank: features.Features,
  queries: features.Features,
  num_classes: int,
  log: Log = lambda text: None,
) -> dict[str, Any]:
  """Returns the results of `measure_accuracy`, but `test_in_train`."""
  size = len(bank.ids)  # without images that cannot be read
  ks = _select_ks(options, size)
  left_out = [k for k in options.ks if k not in ks]
  if left_out:
    shown = ', '.join(map(str, left_out))
    log(f'knn: k = {shown} left out: the bank has {size} images')
  kept = dataclasses.replace(options, ks=ks)
  predictions = classify(bank, queries.values, num_classes, kept, log)
  return {
    f'knn_k{k}_t{temperature:g}': float(np.mean(classes == queries.labels))
    for (k, temperature), classes in predictions.items()
  } | {
    'ks': list(ks),
    'temperatures': list(options.temperatures),
    'left_out': left_out,
    'bank': size,
    'queries': len(queries.ids),
    'num_classes': num_classes,
  }


def list_headlines(results: dict[str, Any]) -> list[headlines.Headline]:
  """Returns all accuracies."""
  return [
    headlines.Headline(
      f'knn k={k}, T={temperature:g}',
      results[f'knn_k{k}_t{temperature:g}'],
      results['queries'],
    )
    for k in results['ks']
    for temperature in results['temperatures']
  ]


def _select_ks(options: Options, size: int) -> tuple[int, ...]:
  """Returns the k that a bank of `size` images allows, in their order."""
  ks = tuple(k for k in options.ks if k <= size)
  if not ks:
    raise errors.ConfigError(
      f'ks: {list(options.ks)} are all more than the {size} images of the'
      ' training split; lower --config.ks'
    )
  return ks


def find_neighbours(
  bank: features.Features,
  queries: np.ndarray,
  k: int,
  log: Log = lambda text: None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns cosines, float32 [Q, k], and labels, int32 [Q, k], of the nearest.

  The queries are divided among the processes, then, in parts of QUERIES rows,
  among their devices. They stay there while the bank passes.
  """
  normalize, merge = _compile()
  shape = jax.process_count(), -1, jax.local_device_count(), QUERIES
  count, dim = queries.shape
  padding = -count % (jax.device_count() * QUERIES)
  padded = np.pad(queries, ((0, padding), (0, 0)))
  own = padded.reshape(*shape, dim)[jax.process_index()]
  parts = [normalize(placement.shard(part)) for part in own]
  start = (
    np.full((QUERIES, k), -np.inf, np.float32),
    np.zeros((QUERIES, k), np.int32),
  )
  best = [placement.replicate(start)] * len(parts)
  size = len(bank.ids)
  for first in range(0, size, BANK):
    rows = slice(first, first + BANK)
    values, labels = placement.replicate((bank.values[rows], bank.labels[rows]))
    values = normalize(values)
    best = [merge(b, values, labels, p) for b, p in zip(best, parts)]
    # Else all parts of the bank would wait on the device at once.
    jax.block_until_ready(best)
    if size > BANK:
      done = min(size, first + BANK)
      log(f'knn: compared with {done:,} of {size:,} images of the bank')
  columns = [
    np.concatenate([placement.fetch_local_rows(x) for x in column])
    for column in zip(*best)
  ]
  cosines, labels = placement.allgather_rows(tuple(columns))
  return cosines[:count], labels[:count]


# Compiled once for all calls of a process.
@functools.cache
def _compile() -> tuple[Callable, Callable]:
  return placement.pmap(losses.l2_normalize), placement.pmap(merge_nearest)
