"""What the input promises, each by name; the parts have tests of their own.

3 is in cache_test, 4 in crops_test, preprocess_test and decode_test, 5 in
bad_files_test, 7 in train_test, 8 in resident_test.
"""

import functools
import hashlib
import signal
import tarfile

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.loading import cache
from byol_jax.data.sources import lookup, record_files
from tests.helpers import tiny_run
from tests.helpers.made import encode, image_set, smooth

BATCH = 28  # 1, 2, 4 and 7 divide it
SIZE = 61  # and it does not divide the set: batches straddle epochs


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """61 images of all sizes and chroma samplings, two of them broken."""
  path = tmp_path_factory.mktemp('images')
  for i in range(SIZE):
    name = path / 'abc'[i % 3] / f'{i:02d}.jpg'
    name.parent.mkdir(exist_ok=True)
    data = encode(smooth(i, 20 + i, 90 - i), subsampling=i % 3)
    name.write_bytes(data[:-30] if i in (7, 40) else data)
  return path


def opened(folder):
  return lookup.open_source(
    str(folder), 'all', data_dir=None, holdout='paper', heldout_share=0.1
  )


def digests(batches):
  """sha256 of each batch: names and bytes, devices side by side."""
  return [
    hashlib.sha256(
      b''.join(
        name.encode() + np.ascontiguousarray(batch[name]).tobytes()
        for name in sorted(batch)
      )
    ).hexdigest()
    for batch in batches
  ]


def global_batches(source, hosts, start, count, **options):
  """The parts of all processes, in their order, as the batch of one."""
  parts = [
    image_set(
      source, process_index=host, process_count=hosts, **options
    ).view_batches(BATCH, start, count)
    for host in range(hosts)
  ]
  for batches in zip(*parts, strict=True):
    yield {
      name: np.concatenate([batch[name] for batch in batches], axis=1)
      for name in batches[0]
    }


@pytest.fixture(scope='module')
def expected(folder):
  """From the start, one host: 7 batches, more than three epochs."""
  found = digests(image_set(opened(folder)).view_batches(BATCH, 0, 7))
  assert len(set(found)) == 7
  return found


@pytest.mark.parametrize('threads', [1, 16])
@pytest.mark.parametrize('hosts', [1, 2, 4, 7])
def test_promise_1_hosts_and_threads_change_no_byte(
  folder, expected, hosts, threads
):
  found = global_batches(opened(folder), hosts, 4, 3, num_threads=threads)
  assert digests(found) == expected[4:]


@pytest.mark.parametrize('kind', ['encoded', 'decoded'])
def test_promise_1_a_cache_changes_no_byte(folder, expected, kind):
  held = cache.CachedSource(opened(folder), kind, 1.0, 2)
  assert digests(image_set(held).view_batches(BATCH, 0, 7)) == expected


def test_promise_1_each_image_once_an_epoch(folder):
  """Of the good ones; in place of a broken one stands another."""
  source = opened(folder)
  data = image_set(ById(source))
  labels = np.concatenate(
    [batch['labels'].ravel() for batch in data.view_batches(1, 0, 2 * SIZE)]
  ).reshape(2, SIZE)
  good = set(range(SIZE)) - {broken(source, 7), broken(source, 40)}
  for epoch in labels:
    assert set(epoch) == good
    counts = np.bincount(epoch, minlength=SIZE)
    assert counts.sum() == SIZE and counts.max() <= 3
  assert (labels[0] != labels[1]).any()
  assert data.num_failures == 2


def broken(source, number):
  names = [source.file_name(i) for i in range(len(source))]
  (index,) = [i for i, n in enumerate(names) if n.endswith(f'{number:02d}.jpg')]
  return index


class ById:
  """A source whose labels are its ids."""

  name, fingerprint, class_names, num_classes = 'by id', 'x', None, 2**20

  def __init__(self, source):
    self._source = source
    self.reads = 0

  def __len__(self):
    return len(self._source)

  def read(self, index):
    self.reads += 1
    return self._source.read(index)[0], index

  def file_name(self, index):
    return self._source.file_name(index)


RUN = """
import os, sys
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libjpeg says of cut files
from tests.data import promises_test as p
data = p.image_set(p.opened(sys.argv[1]))
start, count = int(sys.argv[2]), int(sys.argv[3])
for batch in data.view_batches(p.BATCH, start, count):
  print('digest', *p.digests([batch]), flush=True)
"""


def test_promise_1_a_killed_process_starts_again_at_its_step(folder, expected):
  process = tiny_run.start_python('-c', RUN, str(folder), '0', '1000000')
  found = []
  while len(found) < 3:
    line = process.stdout.readline()
    assert line, 'ended early'
    if line.startswith('digest '):
      found.append(line.split()[1])
  process.send_signal(signal.SIGKILL)
  process.wait()
  process.stdout.close()
  process = tiny_run.start_python('-c', RUN, str(folder), '3', '4')
  output = tiny_run.finish(process)
  found += [
    line.split()[1] for line in output.splitlines() if line.startswith('digest')
  ]
  assert found == expected


class Synthetic:
  """An index of ImageNet's size; every image is made when it is read."""

  name, fingerprint, class_names, num_classes = 'synthetic', 's', None, 2**21

  def __init__(self):
    self.reads = 0

  def __len__(self):
    return 1_281_167

  def read(self, index):
    self.reads += 1
    return encode(np.full((9, 8, 3), index % 256, np.uint8)), index

  def file_name(self, index):
    return f'{index}'


@pytest.mark.parametrize('step', [0, 312, 300_000])
def test_promise_1_seeking_reads_nothing_before_the_step(step):
  """What a seek costs in seconds: `bench input` measures it."""
  source = Synthetic()
  data = image_set(source)
  (batch,) = data.view_batches(BATCH, step, 1)
  assert source.reads <= BATCH + 2
  (again,) = image_set(Synthetic(), num_threads=16).view_batches(BATCH, step, 1)
  assert digests([batch]) == digests([again])


@pytest.mark.parametrize('hosts', [1, 2, 3, 7])
@pytest.mark.parametrize('per_host', [1, 5, 64])
def test_promise_6_evaluation_counts_every_image_once(folder, hosts, per_host):
  """Sums of integers over hosts: a made-up classifier's hits and images."""
  source = ById(opened(folder))
  total = hits = 0
  ids = []
  for host in range(hosts):
    data = image_set(source, process_index=host, process_count=hosts)
    for batch in data.eval_batches(per_host * hosts):
      mask = batch['mask']
      guess = (batch['images'].sum((2, 3, 4)) * 997).astype(np.int64) % 5
      hits += int(np.sum((guess == batch['labels'] % 5) & mask))
      total += int(mask.sum())
      ids += batch['ids'][mask].tolist()
  assert (total, len(set(ids))) == (SIZE - 2, SIZE - 2)
  assert hits == one_host(folder)


@functools.cache
def one_host(folder):
  """The hits on one host in one batch."""
  (batch,) = image_set(ById(opened(folder))).eval_batches(SIZE)
  guess = (batch['images'].sum((2, 3, 4)) * 997).astype(np.int64) % 5
  return int(np.sum((guess == batch['labels'] % 5) & batch['mask']))


def test_more_processes_than_images_are_refused(folder):
  with pytest.raises(errors.DataError, match='61 images for 64 processes'):
    image_set(opened(folder), process_count=64)


def held(source):
  """{bytes of an image: its label}."""
  return dict(source.read(i) for i in range(len(source)))


def test_promise_2_every_kind_of_source_gives_the_same_bytes(folder, tmp_path):
  """A folder, its tar, and the ArrayRecord set that `data prepare` makes."""
  from byol_jax import __main__ as command

  expected = held(opened(folder))
  assert len(expected) == SIZE
  with tarfile.open(tmp_path / 'set.tar', 'w') as tar:
    tar.add(folder, arcname='.')
  assert held(opened(tmp_path / 'set.tar')) == expected
  words = ['data', 'prepare', str(folder), str(tmp_path), '--name=same']
  assert command.main(words) == 0
  # The images that are cut have a header, so they are kept as they are.
  assert held(opened(tmp_path / 'same')) == expected


def test_promise_2_the_two_kinds_of_tfds_shards_are_one_set(prepared):
  first, second = (
    opened(prepared[kind][1]) for kind in ('tfrecord', 'array_record')
  )
  assert len(first) == len(second) == 40
  for index in range(40):
    assert first.read(index) == second.read(index)


def test_promise_2_an_index_of_tfrecords_is_built_once(prepared, monkeypatch):
  _, path = prepared['tfrecord']
  opened(path)

  def walk(*_):
    raise AssertionError('walked again')

  monkeypatch.setattr(record_files, '_build_index', walk)
  assert len(opened(path)) == 40
