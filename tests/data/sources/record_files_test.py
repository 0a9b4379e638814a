from concurrent import futures
import os
import struct

import numpy as np
import pytest

from byol_jax.data.sources import paths, record_files


def write_tfrecord(path, payloads):
  """A TFRecord file; checksums of headers are left out, as none reads them."""
  with open(path, 'wb') as file:
    for data in payloads:
      crc = struct.pack('<I', sum(data))
      file.write(struct.pack('<Q4x', len(data)) + data + crc)
  return path


def random_payloads(count, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.bytes(int(rng.integers(0, 400))) for _ in range(count)]


def read_all(file):
  return [file.read(i) for i in range(file.num_records)]


@pytest.fixture
def indexed(cache, monkeypatch):
  """The paths whose index was built."""
  calls = []
  build = record_files._build_index
  monkeypatch.setattr(
    record_files, '_build_index', lambda *at: calls.append(at[0]) or build(*at)
  )
  return calls


@pytest.mark.parametrize('count', [0, 1, 50])
def test_the_index_of_a_file_is_built_once(tmp_path, indexed, count):
  path = write_tfrecord(tmp_path / 'a', random_payloads(count))
  first, second = (record_files.TfrecordFile(path) for _ in range(2))
  assert indexed == [path]
  assert read_all(first) == read_all(second) == random_payloads(count)
  assert first.digest == second.digest


def test_the_index_is_built_again_for_a_changed_file(tmp_path, indexed, cache):
  data = random_payloads(3)
  path = write_tfrecord(tmp_path / 'a', data)
  status = path.stat()
  first = record_files.TfrecordFile(path)
  # The same size and time, other records: the last header tells.
  other = [data[0] + data[2][:1], data[1], data[2][1:]]
  write_tfrecord(path, other)
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
  assert path.stat().st_size == status.st_size
  second = record_files.TfrecordFile(path)
  assert read_all(second) == other and second.digest != first.digest
  os.utime(path, ns=(0, 0))
  assert read_all(record_files.TfrecordFile(path)) == other
  (file,) = cache.iterdir()
  file.write_bytes(file.read_bytes()[:-1])
  assert read_all(record_files.TfrecordFile(path)) == other
  assert len(indexed) == 4


def test_a_file_cut_within_a_record_is_refused(tmp_path, cache):
  payloads = random_payloads(4)
  path = write_tfrecord(tmp_path / 'a', payloads)
  data = path.read_bytes()
  whole = np.cumsum([0] + [len(p) + 16 for p in payloads])
  record_files.TfrecordFile(path)  # cached: the cut file has another size
  for size in set(range(1, len(data), 7)) - set(whole.tolist()):
    path.write_bytes(data[:size])
    with pytest.raises(EOFError, match=f'the file has {size:,}$'):
      record_files.TfrecordFile(path)


def test_a_bucket_is_read_like_the_disk(bucket, indexed, monkeypatch):
  monkeypatch.setattr(paths, '_BLOCK', 300)  # smaller than some record
  write_tfrecord(bucket / 'a', random_payloads(50))
  path = paths.parse_path('gs://bucket/a')
  disk = record_files.TfrecordFile(bucket / 'a')
  for _ in range(2):
    file = record_files.TfrecordFile(path)
    assert read_all(file) == random_payloads(50) and file.digest == disk.digest
  assert indexed == [bucket / 'a', path]


@pytest.fixture
def write_array_record(tmp_path):
  """write_array_record(name, payloads), in groups of one as TFDS writes."""
  module = pytest.importorskip('array_record.python.array_record_module')

  def write(name, payloads):
    writer = module.ArrayRecordWriter(str(tmp_path / name), 'group_size:1')
    for data in payloads:
      writer.write(data)
    writer.close()
    return tmp_path / name

  return write


def test_array_records_are_read_from_many_threads(write_array_record):
  expected = [random_payloads(300), random_payloads(300, seed=1)]
  files = [
    record_files.ArrayRecordFile(write_array_record(name, payloads))
    for name, payloads in zip('ab', expected)
  ]
  assert [file.num_records for file in files] == [300, 300]
  order = np.random.default_rng(2).integers(0, (2, 300), (4000, 2)).tolist()
  with futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda at: files[at[0]].read(at[1]), order))
  assert found == [expected[file][index] for file, index in order]


def test_few_array_record_files_are_open_at_a_time(
  write_array_record, monkeypatch
):
  path = write_array_record('a', random_payloads(3))
  before = len(os.listdir('/proc/self/fd'))
  for count in range(record_files._MAX_READERS + 50):
    os.utime(path, ns=(count, count))
    record_files.ArrayRecordFile(path)
  after = len(os.listdir('/proc/self/fd'))
  assert before < after <= before + record_files._MAX_READERS
  record_files._open_reader.cache_clear()
  assert len(os.listdir('/proc/self/fd')) <= before


@pytest.mark.parametrize('left', [0, 1, 1000, 2**17, -(2**16), -1])
def test_a_cut_array_record_file_is_refused(write_array_record, left):
  rng = np.random.default_rng(0)
  path = write_array_record('a', [rng.bytes(9000) for _ in range(40)])
  path.write_bytes(path.read_bytes()[:left])
  with pytest.raises((OSError, RuntimeError, ValueError)):
    record_files.ArrayRecordFile(path)
