"""Reads single records of TFRecord and ArrayRecord files, in any order.

A TFRecord file is a sequence of records: length (8 bytes), CRC of the length
(4), payload, CRC of the payload (4). Its lengths are followed once and the
offsets kept in the index cache; reading a record is then one positioned read.
An ArrayRecord file holds its own index.
"""

import functools
import hashlib
import struct
from typing import Any, TypeAlias

import numpy as np

from byol_jax import errors
from byol_jax.data.sources import index_cache, paths

_HEADER = struct.Struct('<Q4x')
_CRC = 4
_CRC_MASK = 0xA282EAD8  # added to a checksum that is stored
# Positions and bytes of the parts of an ArrayRecord file that its digest covers
_SAMPLES, _SAMPLE_SIZE = 8, 4096
# Readers of ArrayRecord files that are kept open. Each holds a file, of which
# a process may by default have 1,024, as many as ImageNet has shards: the
# reason not to use `as_data_source` of TFDS, which keeps them all open.
# Opening one takes 0.2 ms.
_MAX_READERS = 512
# Without these, threads of the reader prefetch as for a pass in order.
_RANDOM_ACCESS = 'readahead_buffer_size:0,max_parallelism:0'


class TfrecordFile:
  """A TFRecord file. The digest covers length and checksum of all records.

  Raises:
    OSError: it cannot be read.
    EOFError: it ends within a record.
  """

  def __init__(self, path: paths.Path) -> None:
    self._path = path
    stamp = paths.stat_file(path)
    index = index_cache.load_or_build(
      'tfrecord-1',
      path,
      stamp,
      build=lambda: _build_index(path, stamp.size),
      fits=lambda index: _index_fits(path, index),
    )
    self._offsets, self._lengths = index['offsets'], index['lengths']
    self.digest = index['digest'].tobytes()
    self.num_records = len(self._offsets)

  def read(self, index: int) -> bytes:
    """Returns the payload of a record."""
    return paths.read_range(
      self._path, int(self._lengths[index]), int(self._offsets[index])
    )

  def verify(self, index: int) -> None:
    """Raises DataError if length or payload do not match their CRC-32C."""
    import google_crc32c  # only a check of the whole set needs it

    start, length = int(self._offsets[index]), int(self._lengths[index])
    size = _HEADER.size + length + _CRC
    data = paths.read_range(self._path, size, start - _HEADER.size)
    parts = {'length': data[: _HEADER.size], 'content': data[_HEADER.size :]}
    for name, part in parts.items():
      (stored,) = struct.unpack('<I', part[-_CRC:])
      # The format stores a checksum rotated by 15 bits, plus a constant.
      crc = google_crc32c.value(part[:-_CRC])
      found = ((crc >> 15 | crc << 17) + _CRC_MASK) & 0xFFFFFFFF
      if found != stored:
        raise errors.DataError(
          f'{self._path}: checksum of the {name} of record {index:,}: expected'
          f' {stored:08x}, found {found:08x}; copy or prepare it again'
        )


def _build_index(path: paths.Path, size: int) -> index_cache.Arrays:
  """Offsets and lengths of the payloads, int64 [N], and the digest."""
  offsets, lengths = [], []
  digest = hashlib.sha256()
  with paths.open_ranges(path, sequential=True) as read:
    end, header = 0, read(_HEADER.size, 0)
    while end < size:
      payload = end + _HEADER.size
      (length,) = _HEADER.unpack(header) if payload <= size else (0,)
      if payload + length + _CRC > size:
        raise EOFError(
          f'truncated: the record at byte {end:,} needs'
          f' {payload + length + _CRC:,} bytes, the file has {size:,}'
        )
      end = payload + length + _CRC
      offsets.append(payload)
      lengths.append(length)
      # One read for the checksum and the next record's header.
      between = read(_CRC + _HEADER.size, payload + length)
      digest.update(struct.pack('<Q', length) + between[:_CRC])
      header = between[_CRC:]
  return {
    'offsets': np.array(offsets, np.int64),
    'lengths': np.array(lengths, np.int64),
    'digest': np.frombuffer(digest.digest(), np.uint8),
  }


def _index_fits(path: paths.Path, index: index_cache.Arrays) -> bool:
  """Whether the file has a header where the index has its last record."""
  if not len(index['offsets']):
    return True
  offset, length = int(index['offsets'][-1]), int(index['lengths'][-1])
  header = paths.read_range(path, _HEADER.size, offset - _HEADER.size)
  return header.startswith(struct.pack('<Q', length))


class ArrayRecordFile:
  """An ArrayRecord file, read through the package array_record.

  The digest covers number of records, size and some blocks of the file.
  Opening it raises what the system or the package raises.
  """

  def __init__(self, path: paths.Path) -> None:
    self._path = path
    self._stamp, self.num_records = paths.call_with_timeout(
      path, 'opening an ArrayRecord file', lambda: _stat_and_count(path)
    )
    size = self._stamp.size
    digest = hashlib.sha256(f'{self.num_records} {size}'.encode())
    with paths.open_ranges(path) as read:
      for i in range(_SAMPLES):
        offset = max(0, size - _SAMPLE_SIZE) * i // (_SAMPLES - 1)
        digest.update(read(_SAMPLE_SIZE, offset))
    self.digest = digest.digest()

  def read(self, index: int) -> bytes:
    """Returns the payload of a record.

    Threads share a reader without a lock, as in array_record's data source.
    """
    return _open_reader(str(self._path), self._stamp).read([index])[0]

  def verify(self, index: int) -> None:
    """Does nothing: the package compares checksums whenever it reads."""


def _stat_and_count(path: paths.Path) -> tuple[paths.FileStamp, int]:
  stamp = paths.stat_file(path)
  reader = _open_reader(str(path), stamp)
  count = reader.num_records()
  if count or not reader.ok():
    reader.read([0])  # a broken file counts no records, and raises here
  return stamp, count


@functools.lru_cache(_MAX_READERS)
def _open_reader(path: str, stamp: paths.FileStamp) -> Any:
  """A reader of a file as it was at `stamp`."""
  from array_record.python import array_record_module

  return array_record_module.ArrayRecordReader(path, _RANDOM_ACCESS)


# Both read and verify records from any thread.
RecordFile: TypeAlias = TfrecordFile | ArrayRecordFile
FILE_FORMATS: dict[str, type[RecordFile]] = {
  'tfrecord': TfrecordFile,
  'array_record': ArrayRecordFile,
}
