"""Representations of whole image sets by a frozen encoder.

Batches are those of an image set's `eval_batches`: images float32
[local devices, per device, H, W, 3] in [0, 1], with `labels`, `mask` and
`ids`. The encoder is never trained: evaluation mode, moving averages.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import errors, networks, parallel
from byol_jax.distributed import placement

Batches = Iterable[Mapping[str, Any]]


class Encoder(NamedTuple):
  """A frozen encoder; params and state hold the heads too."""

  forward: networks.Forward
  params: networks.Params
  state: networks.NetState
  dim: int  # D
  name: str  # which weights, for messages
  step: int | None = None  # of its pretraining, where that is known
  store: 'FeatureStore | None' = None  # of features found by this encoder
  # The config section `network`; None where nothing is trained further.
  network: Mapping[str, Any] | None = None


class Features(NamedTuple):
  """The representations of a set, one row an image, in the order of the ids."""

  values: np.ndarray  # float32 [N, D]
  labels: np.ndarray  # int32 [N], -1 without a label
  ids: np.ndarray  # int64 [N]
  # uint64 [N], of the pixels that were encoded; equal for equal images.
  digests: np.ndarray | None = None


def make_encoder(
  forward: networks.Forward,
  params: networks.Params,
  state: networks.NetState,
  name: str,
) -> Encoder:
  """Returns an `Encoder`; its dimension is found without a forward pass."""
  # Any size does: the encoder ends in a global average.
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  represent = functools.partial(networks.represent, forward)
  shape = jax.eval_shape(represent, params, state, images).shape
  return Encoder(forward, params, state, shape[-1], name)


def extract_features(
  encoder: Encoder,
  batches: Batches,
  progress: Callable[[int], None] = lambda count: None,
) -> Features:
  """Returns the representation of every image; padding is dropped.

  In a job of several processes each gives its own batches, as many as the
  others, and gets the rows of all. `progress` is called with the number of
  images of this process so far.

  Raises:
    DataError: there is no image.
    DivergedError: a representation is not finite.
  """
  represent = _compile_represent(encoder.forward)
  frozen = placement.replicate((encoder.params, encoder.state))
  kept: list[list[np.ndarray]] = []
  count = 0

  def images() -> Iterator[Any]:
    nonlocal count
    for batch in batches:
      # These stay on the host, where ids have 64 bits.
      columns = [np.ravel(batch[k]) for k in ('labels', 'mask', 'ids')]
      kept.append([*columns, compute_digests(batch['images'])])
      yield batch['images']
      count += int(np.sum(batch['mask']))
      progress(count)

  values = list(_encode(represent, frozen, images()))
  if not kept:
    raise errors.DataError('no images to evaluate: the split is empty')
  columns = [np.concatenate(column) for column in zip(*kept)]
  found = placement.allgather_rows((np.concatenate(values), *columns))
  return _sort_rows(encoder, *found)


def compute_digests(images: np.ndarray) -> np.ndarray:
  """Returns a number for each image that equal images share, uint64 [L * P].

  Of a grid of at least 32 x 32 pixels, for two images of an evaluation to be
  recognised as the same one; images are [L, P, H, W, 3], float32 or uint8.
  """
  height, width = images.shape[2:4]
  grid = images[:, :, :: max(1, height // 32), :: max(1, width // 32)]
  rows = np.ascontiguousarray(grid).reshape(-1, np.prod(grid.shape[2:]))
  bits = rows.view(np.uint32) if rows.dtype == np.float32 else rows
  random = np.random.Philox(key=0).random_raw(rows.shape[-1])
  # Sums of products modulo 2^64: to be equal by chance is that improbable.
  return bits.astype(np.uint64) @ (random | np.uint64(1))


def estimate_batch_norm(
  forward: networks.Forward,
  params: networks.Params,
  state: networks.NetState,
  batches: Batches,
) -> networks.NetState:
  """Returns batch-norm averages estimated by forward passes, no update.

  Each is the mean over the batches of what one batch alone would leave, so
  neither their order nor the decay matters. Give batches in random order:
  statistics within a batch of one class are not those of the set.

  Args:
    forward: the network, its batch norm over `parallel.AXIS`.
    params: of the network.
    state: for its shapes.
    batches: `images` [L, P, H, W, 3], without padding.

  Raises:
    DataError: there is no image.
  """
  fresh = jax.tree.map(np.zeros_like, state)
  step = placement.pmap(
    lambda *x: parallel.mean_averages(forward.apply(*x, is_training=True)[1])
  )
  arguments = placement.replicate((params, fresh))
  images = (batch['images'] for batch in batches)
  found = [
    placement.fetch_first_replica(step(*arguments, batch))
    for batch in placement.prefetch(images)
  ]
  if not found:
    raise errors.DataError('no images to estimate batch-norm averages on')
  average = lambda *x: np.mean(x, axis=0, dtype=np.float64).astype(x[0].dtype)
  return jax.tree.map(average, *found)


def _encode(
  represent: Callable, frozen: Any, images: Iterator[Any]
) -> Iterator[np.ndarray]:
  """Yields the rows of each batch, fetched while the next is computed."""
  previous = None
  for batch in placement.prefetch(images):
    encoded = represent(*frozen, batch)
    if previous is not None:
      yield placement.fetch_local_rows(previous)
    previous = encoded
  if previous is not None:
    yield placement.fetch_local_rows(previous)


# Compiled once for all the splits of an evaluation.
@functools.lru_cache(maxsize=4)
def _compile_represent(forward: networks.Forward) -> Callable:
  return placement.pmap(functools.partial(networks.represent, forward))


def _sort_rows(
  encoder: Encoder,
  values: np.ndarray,
  labels: np.ndarray,
  mask: np.ndarray,
  ids: np.ndarray,
  digests: np.ndarray,
) -> Features:
  """Drops padding and sorts by id; see `extract_features` for the errors."""
  order = np.flatnonzero(mask)
  order = order[np.argsort(ids[order], kind='stable')]
  if not len(order):
    raise errors.DataError('no images to evaluate: none could be read')
  # Mostly they are in order: then no copy of what may be 10 GB.
  in_order = np.array_equal(order, np.arange(len(order)))
  rows = slice(len(order)) if in_order else order
  values = values[rows].astype(np.float32, copy=False)
  ids = ids[rows].astype(np.int64)
  finite = np.isfinite(values).all(axis=-1)
  if not finite.all():
    raise errors.DivergedError(
      f'the {encoder.name} encoder gives numbers that are not finite for'
      f' {np.sum(~finite)} of {len(finite)} images; its training diverged'
    )
  return Features(values, labels[rows].astype(np.int32), ids, digests[rows])


class FeatureStore:
  """Keeps the features of one encoder between evaluations.

  A split finds its images among those of others: `fit` and `valid` in `train`,
  or `train` in these two. `keep_only` bounds what is kept: an image has one
  row. What is found is a view where the rows lie side by side, else a copy.

  A split is `whole`, which names the set with all on which its pixels depend,
  and `rows`, those of its images in the set, rising, int64 [N].
  """

  def __init__(self) -> None:
    # Of each set the rows that were encoded, and what was found, its ids those
    # in the set: an image that cannot be read has none.
    self._kept: dict[Hashable, tuple[np.ndarray, Features]] = {}

  def keep_only(self, wholes: set[Hashable]) -> None:
    """Drops the features of all sets but these."""
    self._kept = {key: self._kept[key] for key in self._kept.keys() & wholes}

  def find(self, whole: Hashable, rows: np.ndarray) -> Features | None:
    """Returns the features of a split if all its images were encoded."""
    if whole not in self._kept:
      return None
    encoded, found = self._kept[whole]
    if not np.isin(rows, encoded).all():
      return None
    chosen = _select_ids(found, rows)
    return chosen._replace(ids=np.searchsorted(rows, chosen.ids))

  def add(self, whole: Hashable, rows: np.ndarray, found: Features) -> None:
    """Keeps the features of a split."""
    found = found._replace(ids=rows[found.ids])
    if whole in self._kept:
      encoded, before = self._kept[whole]
      rows, found = np.union1d(encoded, rows), _merge(before, found)
    self._kept[whole] = rows, found


def _select_ids(found: Features, ids: np.ndarray) -> Features:
  """Returns the rows of some ids."""
  places = np.flatnonzero(np.isin(found.ids, ids))
  rows: Any = places
  if len(places) and places[-1] - places[0] + 1 == len(places):
    rows = slice(places[0], places[-1] + 1)
  return jax.tree.map(lambda column: column[rows], found)


def _merge(first: Features, second: Features) -> Features:
  """Returns the rows of both by id, each once."""
  ids = np.union1d(first.ids, second.ids)

  def merge(*columns: np.ndarray) -> np.ndarray:
    merged = np.empty((len(ids), *columns[0].shape[1:]), columns[0].dtype)
    for part, column in zip((first, second), columns):
      merged[np.searchsorted(ids, part.ids)] = column
    return merged

  return jax.tree.map(merge, first, second)
