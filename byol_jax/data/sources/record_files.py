"""Files of records, each readable on its own at any place.

A TFRecord file is a row of (8-byte length, 4-byte crc, payload, 4-byte crc).
Its lengths are walked over once and kept in the cache of indexes; a record is
then one positioned read. ArrayRecord files bring their own index.
"""

from collections.abc import Callable
import functools
import hashlib
import struct
from typing import Any, Protocol

import numpy as np

from byol_jax import errors
from byol_jax.data.sources import index_cache, storage

_HEAD = struct.Struct('<Q4x')
_BETWEEN = struct.Struct('<IQ4x')  # a payload's crc, the next record's header
_CRC = 4
_MASK = 0xA282EAD8  # added to checksums
# Readers of ArrayRecord files that stay open; each holds a file, of which a
# process may by default have 1,024. Opening one takes 0.2 ms.
_SAMPLES, _SAMPLE = 8, 4096  # blocks of a file, and bytes of each
_READERS = 512
# Without these, threads of its own read ahead, as for a pass in order.
_RANDOM_ACCESS = 'readahead_buffer_size:0,max_parallelism:0'


class Shard(Protocol):
  """One file of records: how many, their digest, and their bytes."""

  num_records: int
  digest: bytes

  def record(self, index: int) -> bytes:
    """The payload of a record."""
    ...

  def verify(self, index: int) -> None:
    """Compares a record with its checksums; DataError if they differ."""
    ...


class TfrecordShard:
  """A TFRecord file with its offsets, int64 [N], and lengths, int64 [N].

  Raises:
    FileNotFoundError: there is none.
    DataError: it cannot be read, or ends within a record.
  """

  def __init__(self, path: storage.Path) -> None:
    self._path = path
    try:
      stamp = storage.contact(path, 'size', lambda: storage.stamp(path))
      index = index_cache.cached(
        'tfrecord-1',
        path,
        stamp,
        build=lambda: _walk(path, stamp.size),
        holds=lambda index: _fits(path, stamp.size, index),
      )
    except FileNotFoundError:
      raise
    except OSError as error:
      raise errors.DataError(f'{path}: cannot be read: {error}') from error
    self._offsets, self._lengths = index['offsets'], index['lengths']
    self.digest = index['digest'].tobytes()
    self.num_records = len(self._offsets)

  def record(self, index: int) -> bytes:
    """The payload of a record; safe from any thread."""
    return storage.read_at(
      self._path, int(self._lengths[index]), int(self._offsets[index])
    )

  def verify(self, index: int) -> None:
    """Compares the masked CRC-32C of length and payload; any thread."""
    import google_crc32c  # only a check of the whole set needs it

    start, length = int(self._offsets[index]) - _HEAD.size, self._lengths[index]
    data = storage.read_at(self._path, _HEAD.size + int(length) + _CRC, start)
    parts = data[: _HEAD.size], data[_HEAD.size :]
    for name, part in zip(('length', 'content'), parts):
      (stored,) = struct.unpack('<I', part[-_CRC:])
      # Rotated and shifted, as the format wants a checksum to be stored.
      crc = google_crc32c.value(part[:-_CRC])
      found = ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF
      if found != stored:
        raise errors.DataError(
          f'{self._path}: checksum of the {name} of record {index:,}: expected'
          f' {stored:08x}, found {found:08x}; copy or prepare it again'
        )


def _walk(path: storage.Path, size: int) -> index_cache.Arrays:
  """Offsets and lengths of the payloads, and a digest of length and crc."""
  offsets, lengths = [], []
  digest = hashlib.sha256()
  with storage.reading(path, in_order=True) as read:
    start, head = 0, read(_HEAD.size, 0)
    while start < size:
      if len(head) < _HEAD.size:
        raise _truncated(path, start, start + _HEAD.size, size)
      (length,) = _HEAD.unpack(head)
      payload = start + _HEAD.size
      start = payload + length + _CRC
      if start > size:
        raise _truncated(path, payload, start, size)
      offsets.append(payload)
      lengths.append(length)
      between = read(_BETWEEN.size, payload + length)
      digest.update(struct.pack('<Q', length) + between[:_CRC])
      head = between[_CRC:]
  return {
    'offsets': np.array(offsets, np.int64),
    'lengths': np.array(lengths, np.int64),
    'digest': np.frombuffer(digest.digest(), np.uint8),
  }


def _fits(path: storage.Path, size: int, index: index_cache.Arrays) -> bool:
  """Whether the last record of an index is the last one of the file."""
  if not len(index['offsets']):
    return size == 0
  offset, length = int(index['offsets'][-1]), int(index['lengths'][-1])
  head = storage.read_at(path, _HEAD.size, offset - _HEAD.size)
  return (
    len(head) == _HEAD.size
    and _HEAD.unpack(head) == (length,)
    and offset + length + _CRC == size
  )


def _truncated(
  path: storage.Path, start: int, expected: int, found: int
) -> errors.DataError:
  return errors.DataError(
    f'{path}: truncated or no TFRecord file: the record at byte {start}'
    f' needs {expected:,} bytes, the file has {found:,}; copy or prepare it'
    ' again'
  )


class ArrayrecordShard:
  """An ArrayRecord file, read through the package of that name.

  Raises:
    FileNotFoundError: there is none.
    DataError: no package, or it finds the file broken.
  """

  def __init__(self, path: storage.Path) -> None:
    try:
      self._stamp, self.num_records = storage.contact(
        path, 'opening an ArrayRecord file', lambda: _first_look(path)
      )
    except ImportError as error:
      raise errors.DataError(
        f'{path}: reading ArrayRecord files needs the package array_record:'
        ' pip install array_record, or prepare the set as tfrecord'
      ) from error
    except FileNotFoundError:
      raise
    except (OSError, RuntimeError, ValueError) as error:
      first = str(error).splitlines()[0]
      raise errors.DataError(
        f'{path}: truncated or no ArrayRecord file: {first}; copy or prepare'
        ' it again'
      ) from error
    self._path = path
    self.digest = self._sampled()

  def _sampled(self) -> bytes:
    """Covers number, size and some blocks: the file is not read whole."""
    size = self._stamp.size
    digest = hashlib.sha256(f'{self.num_records} {size}'.encode())
    with storage.reading(self._path) as read:
      for i in range(_SAMPLES):
        digest.update(
          read(_SAMPLE, max(0, size - _SAMPLE) * i // (_SAMPLES - 1))
        )
    return digest.digest()

  def record(self, index: int) -> bytes:
    """The payload of a record; safe from any thread.

    No lock: the package's own data source shares a reader between threads too.
    """
    return _reader(str(self._path), self._stamp).read([index])[0]

  def verify(self, index: int) -> None:
    """Nothing: the package compares checksums whenever it reads."""


def _first_look(path: storage.Path) -> tuple[storage.Stamp, int]:
  """Stamp and number of records, after one of them has been read."""
  stamp = storage.stamp(path)
  reader = _reader(str(path), stamp)
  count = reader.num_records()
  if count or not reader.ok():
    reader.read([0])  # a broken file has no records, and says why here
  return stamp, count


@functools.lru_cache(_READERS)
def _reader(path: str, stamp: storage.Stamp) -> Any:
  """A reader of a file as it was at `stamp`."""
  from array_record.python import array_record_module

  return array_record_module.ArrayRecordReader(path, _RANDOM_ACCESS)


KINDS: dict[str, Callable[[storage.Path], Shard]] = {
  'tfrecord': TfrecordShard,
  'array_record': ArrayrecordShard,
}
