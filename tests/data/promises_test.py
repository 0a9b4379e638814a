"""The promises of the input, by number, across all of its modules.

3 is in cache_test, 4 in crops_test and tf_engine_test, 5 in bad_images_test,
6 in image_set_test, 7 in train_test, 8 in resident_test.
"""

import tarfile

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.loading import cache
from byol_jax.data.sources import base
from tests.helpers import made, tiny_run
from tests.helpers.made import digests, encode, image_set, smooth

BATCH = 28  # 1, 2, 4 and 7 divide it
SIZE = 61  # BATCH does not divide it: batches straddle epochs


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
  return made.opened(folder, 'all')


def global_batches(source, hosts, start, count, **options):
  """The parts of all processes in their order, as the batch of one."""
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


@pytest.mark.parametrize('hosts, threads', [(1, 16), (2, 1), (7, 16)])
def test_promise_1_hosts_and_threads_change_no_byte(
  folder, expected, hosts, threads
):
  found = global_batches(opened(folder), hosts, 4, 3, num_threads=threads)
  assert digests(found) == expected[4:]


@pytest.mark.parametrize('kind', ['encoded', 'decoded'])
def test_promise_1_a_cache_changes_no_byte(folder, expected, kind):
  held = cache.CachedSource(opened(folder), kind, 1.0, 2)
  assert digests(image_set(held).view_batches(BATCH, 0, 7)) == expected


RUN = """
import sys
from tests.data import promises_test as p
batches = p.image_set(p.opened(sys.argv[1])).view_batches(p.BATCH, 3, 4)
print('digests', *p.digests(batches))
"""


@pytest.mark.jobs
def test_promise_1_another_process_continues_at_its_step(folder, expected):
  output = tiny_run.finish(tiny_run.start_python('-c', RUN, str(folder)))
  (line,) = [x for x in output.splitlines() if x.startswith('digests ')]
  assert line.split()[1:] == expected[3:]


class Synthetic(base.Source):
  """As many images as ImageNet has, each made when it is read."""

  name, fingerprint, class_names, num_classes = 'synthetic', 's', None, 2**21
  labels = None

  def __init__(self):
    self.reads = 0

  def __len__(self):
    return 1_281_167

  def read(self, index):
    self.reads += 1
    return encode(np.full((9, 8, 3), index % 256, np.uint8)), index

  def file_name(self, index):
    return f'{index}'


@pytest.mark.parametrize('step', [312, 300_000])
def test_promise_1_seeking_reads_nothing_before_the_step(step):
  source = Synthetic()
  data = image_set(source)
  (batch,) = data.view_batches(BATCH, step, 1)
  assert source.reads <= BATCH + 2
  (again,) = image_set(Synthetic(), num_threads=16).view_batches(BATCH, step, 1)
  assert digests([batch]) == digests([again])


def test_more_processes_than_images_are_refused(folder):
  with pytest.raises(errors.DataError, match='61 images for 64 processes'):
    image_set(opened(folder), process_count=64)


def labels_by_image(source):
  """{bytes of an image: its label}."""
  return dict(source.read(i) for i in range(len(source)))


def test_promise_2_every_kind_of_source_gives_the_same_bytes(folder, tmp_path):
  """A folder, its tar, and the ArrayRecord set that `data prepare` makes."""
  from byol_jax import __main__ as command

  expected = labels_by_image(opened(folder))
  assert len(expected) == SIZE
  with tarfile.open(tmp_path / 'set.tar', 'w') as tar:
    tar.add(folder, arcname='.')
  assert labels_by_image(opened(tmp_path / 'set.tar')) == expected
  words = ['data', 'prepare', str(folder), str(tmp_path), '--name=same']
  assert command.main(words) == 0
  # The truncated images have a header, so they are copied unchanged.
  assert labels_by_image(opened(tmp_path / 'same')) == expected
