"""Buffers for the batches that are being filled, and their finished rows."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
import threading
import weakref

import numpy as np

Batch = dict[str, np.ndarray]
# What an engine yields: 'position', int64 [N], rising throughout a stream, and
# 'labels', int32 [N], of rows that are written.
Chunk = Mapping[str, np.ndarray]


class _Lease:
  """Owns a block as the common base of all arrays over it."""

  def __init__(self, block: np.ndarray) -> None:
    self.__array_interface__ = block.__array_interface__
    self._block = block


class BatchBuffer:
  """The batches being filled, from any thread: arrays [rows, ...] by step.

  The first touch of new memory took as long as a third of a decoding, so
  memory returns to a pool when no array refers to it. An array's views, and a
  device's buffer over it, keep it out of the pool.

  Args:
    shapes: name -> shape and dtype of one row.
    rows: of a batch.
  """

  def __init__(
    self,
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    rows: int,
  ) -> None:
    self._shapes = dict(shapes)
    self._rows = rows
    self._batches: dict[int, Batch] = {}
    self._free: dict[int, list[np.ndarray]] = defaultdict(list)
    self._is_closed = False
    self._lock = threading.Lock()

  def row(self, step: int, row: int) -> Batch:
    """Returns views of one row, to be written to.

    Raises:
      RuntimeError: the buffer is closed.
    """
    return {name: array[row] for name, array in self._batch(step).items()}

  def _batch(self, step: int) -> Batch:
    with self._lock:
      if self._is_closed:
        raise RuntimeError('the stream has ended')
      if step not in self._batches:
        self._batches[step] = {
          name: self._allocate((self._rows, *shape), dtype)
          for name, (shape, dtype) in self._shapes.items()
        }
      return self._batches[step]

  def _allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array of any values."""
    size = int(np.prod(shape)) * dtype.itemsize
    free = self._free[size]
    block = free.pop() if free else np.empty(size, np.uint8)
    lease = _Lease(block)
    weakref.finalize(lease, free.append, block).atexit = False
    return np.asarray(lease).view(dtype).reshape(shape)

  def take(self, step: int) -> Batch:
    """Returns the arrays of a step, which belong to the caller from now on."""
    batch = self._batch(step)
    with self._lock:
      del self._batches[step]
    return batch

  def close(self) -> None:
    """Frees the memory; engine threads that still write get an error."""
    with self._lock:
      self._is_closed = True
      self._batches, self._free = {}, defaultdict(list)


def make_chunk(positions: list[int], labels: list[int]) -> Chunk:
  """Returns what an engine yields for rows that are written."""
  return {
    'position': np.array(positions, np.int64),
    'labels': np.array(labels, np.int32),
  }


def match_rows(
  chunks: Iterable[Chunk], positions_by_batch: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields for each batch which rows are done, and their labels.

  Args:
    chunks: of an engine.
    positions_by_batch: for each batch its positions, int64 [M], rising
      throughout.

  Yields:
    bool [M], and labels, int32 [M], -1 where a row is not done.
  """
  stream = iter(chunks)
  found: Chunk | None = make_chunk([], [])
  for positions in positions_by_batch:
    done = np.zeros(len(positions), bool)
    labels = np.full(len(positions), -1, np.int32)
    while found is not None and len(positions):
      count = int(np.searchsorted(found['position'], positions[-1], 'right'))
      rows = np.searchsorted(positions, found['position'][:count])
      done[rows], labels[rows] = True, found['labels'][:count]
      if done[-1] or count < len(found['position']):
        found = {name: array[count:] for name, array in found.items()}
        break
      found = next(stream, None)
    yield done, labels
