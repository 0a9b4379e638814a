from concurrent import futures
import os
import struct

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.sources import record_files, storage


def write(path, payloads):
  """A TFRecord file; nobody looks at the header's checksum."""
  with open(path, 'wb') as file:
    for data in payloads:
      crc = struct.pack('<I', sum(data))
      file.write(struct.pack('<Q4x', len(data)) + data + crc)
  return path


def payloads(count, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.bytes(int(rng.integers(0, 400))) for _ in range(count)]


def records(shard):
  return [shard.record(i) for i in range(shard.num_records)]


@pytest.fixture
def walks(cache, monkeypatch):
  """The paths that were walked over."""
  calls = []
  walk = record_files._walk

  def counted(path, size):
    calls.append(path)
    return walk(path, size)

  monkeypatch.setattr(record_files, '_walk', counted)
  return calls


@pytest.mark.parametrize('count', [0, 1, 50])
def test_a_file_is_walked_over_once(tmp_path, walks, count):
  path = write(tmp_path / 'a', payloads(count))
  first, second = (
    record_files.TfrecordShard(path),
    record_files.TfrecordShard(path),
  )
  assert walks == [path]
  assert records(first) == records(second) == payloads(count)
  assert first.digest == second.digest


def test_a_file_that_changed_is_walked_over_again(tmp_path, walks):
  path = write(tmp_path / 'a', payloads(9))
  first = record_files.TfrecordShard(path)
  write(path, payloads(10, seed=1))
  assert records(record_files.TfrecordShard(path)) == payloads(10, seed=1)
  assert len(walks) == 2
  os.utime(path, ns=(0, 0))
  again = record_files.TfrecordShard(path)
  assert len(walks) == 3 and again.digest != first.digest


def test_an_index_that_does_not_fit_is_made_again(tmp_path, walks):
  """Same size and time, other records: the last header tells."""
  data = payloads(3)
  path = write(tmp_path / 'a', data)
  status = path.stat()
  record_files.TfrecordShard(path)
  other = [data[0] + data[2][:1], data[1], data[2][1:]]
  write(path, other)
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
  assert path.stat().st_size == status.st_size
  assert records(record_files.TfrecordShard(path)) == other and len(walks) == 2


def test_a_cache_that_is_damaged_or_missing_is_no_loss(
  tmp_path, walks, cache, monkeypatch
):
  path = write(tmp_path / 'a', payloads(9))
  record_files.TfrecordShard(path)
  (file,) = cache.iterdir()
  file.write_bytes(file.read_bytes()[:-1])
  assert records(record_files.TfrecordShard(path)) == payloads(9)
  monkeypatch.setenv('BYOL_JAX_CACHE', str(path / 'below a file'))
  assert records(record_files.TfrecordShard(path)) == payloads(9)
  assert len(walks) == 3


@pytest.mark.parametrize('indexed', [False, True])
def test_a_file_that_is_cut_is_refused(tmp_path, walks, indexed):
  path = write(tmp_path / 'a', payloads(4))
  data = path.read_bytes()
  whole = np.cumsum([0] + [len(p) + 16 for p in payloads(4)])
  if indexed:
    record_files.TfrecordShard(path)
  for size in set(range(1, len(data), 7)) - set(whole.tolist()):
    path.write_bytes(data[:size])
    with pytest.raises(errors.DataError, match=f'the file has {size:,};'):
      record_files.TfrecordShard(path)


def test_a_bucket_is_read_like_the_disk(bucket, walks, monkeypatch):
  monkeypatch.setattr(storage, '_BLOCK', 300)  # smaller than some record
  write(bucket / 'a', payloads(50))
  path = storage.make_path('gs://bucket/a')
  disk = record_files.TfrecordShard(bucket / 'a')
  for _ in range(2):
    shard = record_files.TfrecordShard(path)
    assert records(shard) == payloads(50) and shard.digest == disk.digest
  assert walks == [bucket / 'a', path]
  with open(bucket / 'a', 'ab') as file:
    file.write(b'x')
  with pytest.raises(errors.DataError, match='gs://bucket/a: truncated'):
    record_files.TfrecordShard(path)


@pytest.fixture
def array_record(tmp_path):
  """write(name, payloads): an ArrayRecord file, as TFDS groups it."""
  module = pytest.importorskip('array_record.python.array_record_module')

  def call(name, payloads):
    writer = module.ArrayRecordWriter(str(tmp_path / name), 'group_size:1')
    for data in payloads:
      writer.write(data)
    writer.close()
    return tmp_path / name

  return call


def test_array_records_are_read_from_many_threads(array_record, monkeypatch):
  first = array_record('a', payloads(300))
  second = array_record('b', payloads(300, seed=1))
  opened = [record_files.ArrayrecordShard(path) for path in (first, second)]
  assert [shard.num_records for shard in opened] == [300, 300]
  expected = [payloads(300), payloads(300, seed=1)]
  order = np.random.default_rng(2).integers(0, (2, 300), (4000, 2)).tolist()
  with futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda at: opened[at[0]].record(at[1]), order))
  assert found == [expected[shard][index] for shard, index in order]


def test_few_array_record_files_are_open_at_a_time(array_record):
  path = array_record('a', payloads(3))
  before = len(os.listdir('/proc/self/fd'))
  for count in range(600):
    os.utime(path, ns=(count, count))
    record_files.ArrayrecordShard(path)
  assert len(os.listdir('/proc/self/fd')) <= before + record_files._READERS
  record_files._reader.cache_clear()
  assert len(os.listdir('/proc/self/fd')) <= before


@pytest.mark.parametrize('left', [0, 1, 1000, 2**17, -(2**16), -1])
def test_an_array_record_file_that_is_cut_is_refused(array_record, left):
  rng = np.random.default_rng(0)
  path = array_record('a', [rng.bytes(9000) for _ in range(40)])
  path.write_bytes(path.read_bytes()[:left])
  with pytest.raises(errors.DataError) as info:
    record_files.ArrayrecordShard(path)
  text = str(info.value)
  assert text.startswith(f'{path}: truncated or no ArrayRecord file: ')
  assert '\n' not in text


def test_a_file_that_is_not_there_is_not_found(tmp_path):
  pytest.importorskip('array_record')
  for kind in record_files.KINDS.values():
    with pytest.raises(FileNotFoundError):
      kind(tmp_path / 'none')
