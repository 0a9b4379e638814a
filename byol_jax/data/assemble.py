"""Whole batches out of a stream from which broken images are missing.

The decoding stream drops an image that fails, so the rest comes in chunks that
no longer fall together with the batches. Here they are cut again by position,
and each gap is filled by a slower path that sees the exception.
"""

from collections.abc import Callable, Iterable, Iterator
import logging
import re
from typing import Any

import numpy as np

from byol_jax import errors
from byol_jax.data import parts

Batch = dict[str, np.ndarray]
Row = dict[str, Any]  # one image's part of a batch

Render = Callable[[Any, Any, Any], Row]  # image, id, epoch

_LOG = logging.getLogger(__name__)
_NODE = re.compile(r'\{\{.*\}\} ?| ?\[Op:.*\]')  # TensorFlow's inner names


class Failures:
  """Counts the distinct images that could not be decoded, by name.

  More than max(10, 0.1 %) of the set end the run.
  """

  def __init__(self, name: str, num_examples: int) -> None:
    self._set = name
    self._limit = max(10, num_examples // 1000)
    self._names: dict[int, str] = {}

  def __len__(self) -> int:
    return len(self._names)

  def add(self, index: int, name: str, reason: str) -> None:
    """Counts an image once. DataError when they are too many."""
    if index in self._names:
      return
    self._names[index] = name
    _LOG.warning('%s: %s cannot be decoded: %s', self._set, name, reason)
    if len(self._names) > self._limit:
      raise errors.DataError(
        f'{self._set}: {len(self._names)} images cannot be decoded, allowed'
        f' are {self._limit}: {", ".join(list(self._names.values())[:5])} ...'
        f' (the last: {reason}); remove or mend them'
      )


class Mender:
  """Reads and renders single images where the stream left a gap."""

  def __init__(self, source: parts.Source) -> None:
    self.failures = Failures(source.name, len(source))
    self._source = source

  def attempt(
    self, render: Render, index: int, key: int, epoch: int
  ) -> Row | None:
    """Image `index` as if it were `key`; None, and counted, if it fails."""
    try:
      image, label = self._source.read(index)
      row = render(image, np.int64(key), np.int64(epoch))
    except errors.UserError:
      raise
    except Exception as error:  # a source or a decoder may raise anything
      reason = _NODE.sub('', f'{type(error).__name__}: {error}')
      name = self._source.file_name(index)
      self.failures.add(index, name, reason.splitlines()[0])
      return None
    found = {name: np.asarray(value) for name, value in row.items()}
    return {**found, 'labels': np.int32(label)}

  def first(self, render: Render, key: int, epoch: int) -> Row:
    """The image `key`, or the next one that can be decoded in its place."""
    for offset in range(len(self._source)):
      other = (key + offset) % len(self._source)
      row = self.attempt(render, other, key, epoch)
      if row is not None:
        return row
    raise errors.DataError(f'{self._source.name}: no image can be decoded')


def in_order(
  chunks: Iterable[Batch],
  wanted: Iterable[np.ndarray],
  mend: Callable[[int], Row],
) -> Iterator[Batch]:
  """Batches with exactly the wanted positions.

  Args:
    chunks: dicts of arrays [N, ...] with 'position', int64, rising throughout.
    wanted: for each batch its positions, int64 [M], rising throughout.
    mend: position -> the same dict without the leading axis.
  """
  stream = iter(chunks)
  held: Batch | None = None
  for positions in wanted:
    parts = []
    while len(positions):
      held = next(stream, None) if held is None else held
      if held is None:
        break
      place = held['position']
      count = int(np.searchsorted(place, positions[-1], side='right'))
      parts.append({name: array[:count] for name, array in held.items()})
      if count < len(place):
        held = {name: array[count:] for name, array in held.items()}
        break
      held = None
      if place[-1] == positions[-1]:
        break
    yield _whole(parts, positions, mend)


def _whole(
  parts: list[Batch], positions: np.ndarray, mend: Callable[[int], Row]
) -> Batch:
  if len(parts) == 1 and np.array_equal(parts[0]['position'], positions):
    return parts[0]
  rows = {
    int(position): {name: array[i] for name, array in part.items()}
    for part in parts
    for i, position in enumerate(part['position'])
  }
  found = [rows[int(p)] if int(p) in rows else mend(int(p)) for p in positions]
  return {
    name: np.stack([row[name] for row in found])
    for name in (found[0] if found else ())
  }


def nothing(image_size: int) -> Row:
  """What stands in an evaluation batch where there is no image."""
  return {
    'images': np.zeros([image_size, image_size, 3], np.float32),
    'labels': np.int32(-1),
    'mask': np.bool_(False),
    'ids': np.int64(-1),
    'position': np.int64(-1),
  }


def padded(batch: Batch, count: int, empty: Row) -> Batch:
  """Fills a batch, [N, ...], up to count rows with `empty`, [...]."""
  missing = count - len(batch.get('position', ()))
  if not missing:
    return batch
  rows = {
    name: np.repeat(np.asarray(value)[None], missing, axis=0)
    for name, value in empty.items()
  }
  if missing == count:
    return rows
  return {name: np.concatenate([batch[name], rows[name]]) for name in rows}
