"""Whole batches, though images may be broken.

Every picture is painted into its row of the batch under way. What comes back
from the threads says which positions are done; where one is missing its image
is broken, and a slower path, which sees the exception, fills the gap.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import logging
import sys
import threading

import numpy as np

from byol_jax import errors
from byol_jax.data.loading import decode
from byol_jax.data.sources import base

Batch = dict[str, np.ndarray]
# 'position', int64 [N], rising throughout a stream, and 'labels', int32 [N].
Chunk = Mapping[str, np.ndarray]

_ALWAYS_ALLOWED = 10  # unusable images, however small the set
_NAMED = 50  # file names in one line; a larger list is for `data check`
_LOG = logging.getLogger(__name__)


class Failures:
  """Counts the distinct images that could not be used, by name.

  More than max(10, max_bad_share of the set) end the run; `key` is where a
  user sets that share.
  """

  def __init__(
    self,
    name: str,
    num_examples: int,
    max_bad_share: float,
    key: str = 'input.max_bad_share',
  ) -> None:
    self._set = name
    self._limit = max(_ALWAYS_ALLOWED, int(max_bad_share * num_examples))
    self._key = key
    self._names: dict[int, str] = {}
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self._names)

  def add(self, index: int, name: str, reason: str) -> None:
    """Counts an image once. DataError when they are too many."""
    with self._lock:
      if index in self._names:
        return
      self._names[index] = name
      names = list(self._names.values())
    _LOG.warning('%s: %s cannot be used: %s', self._set, name, reason)
    if len(names) > self._limit:
      more = len(names) - _NAMED
      raise errors.DataError(
        f'{self._set}: {len(names)} images cannot be used, allowed are'
        f' {self._limit}: {", ".join(names[:_NAMED])}'
        + (f' and {more} more' if more > 0 else '')
        + f' (the last {reason}); remove or mend them, or raise {self._key}'
      )


class Mender:
  """Reads and decodes single images where a stream left a gap."""

  def __init__(self, source: base.Source, max_bad_share: float) -> None:
    self.failures = Failures(source.name, len(source), max_bad_share)
    self._source = source

  def pixels(self, index: int) -> tuple[np.ndarray, int] | None:
    """uint8 [H, W, 3] and label; None, and counted, if it cannot be used."""
    try:
      image, label = self._source.read(index)
      return decode.pixels(image), label
    except errors.UserError:
      raise
    except Exception as error:  # a source or a decoder may raise anything
      reason = str(error)
      if not isinstance(error, decode.Unusable):
        reason = f'{type(error).__name__}: {error}'
      name = self._source.file_name(index)
      self.failures.add(index, name, reason.splitlines()[0])
      return None

  def first(self, index: int) -> tuple[np.ndarray, int]:
    """The same of the image, or of the next one that can be used."""
    for offset in range(len(self._source)):
      found = self.pixels((index + offset) % len(self._source))
      if found is not None:
        return found
    raise errors.DataError(f'{self._source.name}: no image can be used')


def _holders(arrays: list[np.ndarray]) -> list[int]:
  """How many references there are to each."""
  return [sys.getrefcount(array) for array in arrays]


# To an array that nobody but the list holds, as this interpreter counts.
(_NOBODY,) = _holders([np.empty(0, np.uint8)])


class Canvas:
  """The batches under way: arrays [local batch, ...] by step.

  Args:
    shapes: name -> shape and dtype of one row.
    local: rows of a batch.
    find: position -> step and row.
  """

  def __init__(
    self,
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    local: int,
    find: Callable[[int], tuple[int, int]],
  ) -> None:
    self._shapes = dict(shapes)
    self._local = local
    self._find = find
    self._batches: dict[int, Batch] = {}
    self._memory: list[np.ndarray] = []
    self._is_closed = False
    self._lock = threading.Lock()

  def row(self, position: int) -> Batch:
    """The row of a position, to be written to; from any thread."""
    step, row = self._find(position)
    return {name: array[row] for name, array in self._batch(step).items()}

  def _batch(self, step: int) -> Batch:
    with self._lock:
      if self._is_closed:  # threads may still be at work for nobody
        raise RuntimeError('the stream has ended')
      if step not in self._batches:
        self._batches[step] = {
          name: self._unused((self._local, *shape), dtype)
          for name, (shape, dtype) in self._shapes.items()
        }
      return self._batches[step]

  def _unused(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory that nobody looks at any more, else new memory.

    The first touch of new memory took as long as a third of a decoding. Every
    view of an array, a device's buffer over it too, holds a reference to it.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    for memory, count in zip(self._memory, _holders(self._memory)):
      if len(memory) == size and count == _NOBODY:
        return memory.view(dtype).reshape(shape)
    self._memory.append(np.empty(size, np.uint8))
    return self._memory[-1].view(dtype).reshape(shape)

  def take(self, step: int) -> Batch:
    """The arrays of a step, which are from now on the caller's."""
    batch = self._batch(step)
    with self._lock:
      del self._batches[step]
    return batch

  def close(self) -> None:
    """Gives the memory back; who painted may live longer than the batches."""
    with self._lock:
      self._is_closed = True
      self._batches, self._memory = {}, []


def chunk(positions: list[int], labels: list[int]) -> Chunk:
  """What a stream says of positions that are done."""
  return {
    'position': np.array(positions, np.int64),
    'labels': np.array(labels, np.int32),
  }


def in_order(
  chunks: Iterable[Chunk], wanted: Iterable[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Of each batch what is done: bool [M], and labels, int32 [M], else -1.

  Args:
    chunks: of a stream.
    wanted: for each batch its positions, int64 [M], rising throughout.
  """
  stream = iter(chunks)
  held: Chunk = chunk([], [])
  for positions in wanted:
    done = np.zeros(len(positions), bool)
    labels = np.full(len(positions), -1, np.int32)
    while len(positions):
      count = int(np.searchsorted(held['position'], positions[-1], 'right'))
      found = held['position'][:count]
      found = found[found >= positions[0]]
      places = np.searchsorted(positions, found)
      done[places] = True
      labels[places] = held['labels'][count - len(found) : count]
      last = count < len(held['position']) or (
        count and held['position'][count - 1] == positions[-1]
      )
      held = {name: array[count:] for name, array in held.items()}
      if last:
        break
      following = next(stream, None)
      if following is None:
        break
      held = following
    yield done, labels
