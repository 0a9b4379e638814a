"""Chooses the examples of a global step, a pure function of (seed, step).

Position p = step * batch_size + i runs through the epochs without a gap:
epoch = p // num_examples, and each epoch is a permutation of the whole set. So
batches straddle epochs, nothing is dropped, every example occurs exactly once
an epoch, and resuming at step N is starting at step N. No state is kept.
"""

import functools

import numpy as np

from byol_jax import errors

_MASK = (1 << 64) - 1


@functools.lru_cache(maxsize=4)
def permute_examples(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  """Returns the order of one epoch, int64 [num_examples], read-only.

  It sorts raw words of Philox: numpy guarantees that their stream never
  changes, and does not for `Generator.permutation`.
  """
  key = np.array([seed & _MASK, epoch], np.uint64)
  words = np.random.Philox(key=key).random_raw(num_examples)
  order = np.argsort(words, kind='stable').astype(np.int64)
  order.setflags(write=False)
  return order


def find_examples(
  seed: int, positions: np.ndarray, num_examples: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns ids and epochs, int64 [N] each, of positions, int64 [N]."""
  epochs, rows = np.divmod(positions, num_examples)
  ids = np.empty_like(positions)
  for epoch in np.unique(epochs):
    chosen = epochs == epoch
    ids[chosen] = permute_examples(seed, int(epoch), num_examples)[rows[chosen]]
  return ids, epochs


def compute_positions(
  step: int, batch_size: int, process_index: int, process_count: int
) -> np.ndarray:
  """Returns a process's part of a global batch, int64 [batch_size / P]."""
  local = batch_size // process_count
  start = step * batch_size + process_index * local
  return np.arange(start, start + local, dtype=np.int64)


def locate_position(
  position: int, batch_size: int, process_index: int, process_count: int
) -> tuple[int, int]:
  """Returns step and row in a process's part; inverts `compute_positions`."""
  step, row = divmod(position, batch_size)
  return step, row - process_index * (batch_size // process_count)


def divide_batch(
  batch_size: int, local_devices: int, process_count: int
) -> int:
  """Returns the images of one process in a global batch.

  Raises:
    ConfigError: the devices of all processes do not divide the batch.
  """
  devices = local_devices * process_count
  if batch_size < 1 or batch_size % devices:
    raise errors.ConfigError(
      f'batch_size: {batch_size} is not a multiple of the {devices} devices'
      f' ({process_count} processes with {local_devices} each); take for'
      f' example {max(1, round(batch_size / devices)) * devices}'
    )
  return batch_size // process_count
