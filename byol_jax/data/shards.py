"""Files of records, each readable on its own at any place.

A TFRecord file is a row of (8-byte length, 4-byte crc, payload, 4-byte crc).
Opening it walks over the lengths once; a record is then one positioned read.
ArrayRecord files bring their own index.
"""

from collections.abc import Callable
import hashlib
import os
import pathlib
import struct
import threading
from typing import Protocol

import numpy as np

from byol_jax import errors

_HEAD = struct.Struct('<Q4x')
_BETWEEN = struct.Struct('<IQ4x')  # a payload's crc, the next record's header
_CRC = 4


class Shard(Protocol):
  """One file of records: how many, their digest, and their bytes."""

  num_records: int
  digest: bytes

  def record(self, index: int) -> bytes:
    """The payload of a record."""
    ...


class TfrecordShard:
  """A TFRecord file with its offsets, int64 [N], and lengths, int64 [N]."""

  def __init__(self, path: pathlib.Path) -> None:
    self._path = path
    self._offsets, self._lengths, self.digest = _walk(path)
    self.num_records = len(self._offsets)

  def record(self, index: int) -> bytes:
    """The payload of a record; safe from any thread."""
    # Opened for each read: ImageNet has 1,024 shards, as many as a process
    # may by default hold open.
    file = os.open(self._path, os.O_RDONLY)
    try:
      return os.pread(
        file, int(self._lengths[index]), int(self._offsets[index])
      )
    finally:
      os.close(file)


def _walk(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray, bytes]:
  """Offsets and lengths of the payloads, and a digest of length and crc."""
  offsets, lengths = [], []
  digest = hashlib.sha256()
  try:
    with open(path, 'rb', buffering=0) as file:
      size = os.fstat(file.fileno()).st_size
      start, head = 0, file.read(_HEAD.size)
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
        between = os.pread(file.fileno(), _BETWEEN.size, payload + length)
        digest.update(struct.pack('<Q', length) + between[:_CRC])
        head = between[_CRC:]
  except OSError as error:
    raise errors.DataError(f'{path}: cannot be read: {error}') from error
  return (
    np.array(offsets, np.int64),
    np.array(lengths, np.int64),
    digest.digest(),
  )


def _truncated(
  path: pathlib.Path, start: int, expected: int, found: int
) -> errors.DataError:
  return errors.DataError(
    f'{path}: truncated or no TFRecord file: the record at byte {start}'
    f' needs {expected:,} bytes, the file has {found:,}; copy or prepare it'
    ' again'
  )


class ArrayrecordShard:
  """An ArrayRecord file, read through the package of that name."""

  def __init__(self, path: pathlib.Path) -> None:
    try:
      from array_record.python import array_record_module
    except ImportError as error:
      raise errors.DataError(
        f'{path}: reading ArrayRecord files needs the package array_record:'
        ' pip install array_record, or prepare the set as tfrecord'
      ) from error
    try:
      size = path.stat().st_size
      self._reader = array_record_module.ArrayRecordReader(str(path))
      self.num_records = self._reader.num_records()
    except (OSError, RuntimeError, ValueError) as error:
      raise errors.DataError(f'{path}: cannot be read: {error}') from error
    self._lock = threading.Lock()
    self.digest = hashlib.sha256(f'{self.num_records} {size}'.encode()).digest()

  def record(self, index: int) -> bytes:
    """The payload of a record; safe from any thread."""
    with self._lock:
      return self._reader.read([index])[0]


KINDS: dict[str, Callable[[pathlib.Path], Shard]] = {
  'tfrecord': TfrecordShard,
  'array_record': ArrayrecordShard,
}
