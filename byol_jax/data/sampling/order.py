"""Which examples a global step sees: a pure function of (seed, step).

Position p = step * batch_size + i runs through the epochs without a gap:
epoch = p // size, and inside an epoch a permutation of the whole set. So
batches straddle epochs, nothing is dropped, every example occurs exactly once
an epoch, and resuming at step N is starting at step N. No state is kept.
"""

import functools

import numpy as np

from byol_jax import errors

_MASK = (1 << 64) - 1


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  """The order of one epoch, int64 [num_examples], read-only.

  Sorted raw words of Philox: numpy promises their stream for ever, which it
  does not for `Generator.permutation`.
  """
  key = np.array([seed & _MASK, epoch], np.uint64)
  words = np.random.Philox(key=key).random_raw(num_examples)
  order = np.argsort(words, kind='stable').astype(np.int64)
  order.setflags(write=False)
  return order


def ids_at(
  seed: int, positions: np.ndarray, num_examples: int
) -> tuple[np.ndarray, np.ndarray]:
  """Example ids and epochs, int64 [N] each, of positions, int64 [N]."""
  epochs, places = np.divmod(positions, num_examples)
  ids = np.empty_like(positions)
  for epoch in np.unique(epochs):
    chosen = epochs == epoch
    ids[chosen] = permutation(seed, int(epoch), num_examples)[places[chosen]]
  return ids, epochs


def positions_of(
  step: int, batch_size: int, process_index: int, process_count: int
) -> np.ndarray:
  """A process's contiguous part of a global batch, int64 [batch_size / P]."""
  local = batch_size // process_count
  start = step * batch_size + process_index * local
  return np.arange(start, start + local, dtype=np.int64)


def place_of(
  position: int, batch_size: int, process_index: int, process_count: int
) -> tuple[int, int]:
  """Step and row in a process's part of its batch; undoes `positions_of`."""
  step, place = divmod(position, batch_size)
  return step, place - process_index * (batch_size // process_count)


def example_ids(
  seed: int, step: int, batch_size: int, num_examples: int
) -> tuple[np.ndarray, np.ndarray]:
  """Ids and epochs, int64 [batch_size] each, of a global step."""
  return ids_at(seed, positions_of(step, batch_size, 0, 1), num_examples)


def local_batch(batch_size: int, local_devices: int, process_count: int) -> int:
  """One process's part of a global batch, images; ConfigError if uneven."""
  devices = local_devices * process_count
  if batch_size < 1 or batch_size % devices:
    raise errors.ConfigError(
      f'batch_size: {batch_size} is not a multiple of the {devices} devices'
      f' ({process_count} processes with {local_devices} each); take for'
      f' example {max(1, round(batch_size / devices)) * devices}'
    )
  return batch_size // process_count
