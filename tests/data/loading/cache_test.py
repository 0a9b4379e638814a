import os
import re

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.loading import cache, decode
from tests.helpers import listed, tiny_run
from tests.helpers.made import encode, smooth


class Counting(listed.Listed):
  """Images that count how often each is read."""

  def __init__(self, images):
    super().__init__(images)
    self.reads = [0] * len(images)

  def read(self, index):
    self.reads[index] += 1
    return super().read(index)


def pictures(count):
  return [encode(smooth(i, 20 + i, 60 - i)) for i in range(count)]


@pytest.mark.parametrize('kind', ['encoded', 'decoded'])
def test_a_cache_reads_each_image_once_and_gives_the_same(kind):
  source = Counting(pictures(12))
  held = cache.CachedSource(source, kind, 1.0, 2)
  assert max(source.reads) == 1  # the sample; a cache fills when it is used
  held.read(0)
  before = list(source.reads)
  for index in range(12):
    image, label = held.read(index)
    expected = source._images[index]
    if kind == 'decoded':
      expected = decode.decode_rgb(expected)
    np.testing.assert_array_equal(image, expected)
    assert label == index and held.file_name(index) == f'file{index}'
  assert source.reads == before and max(before) <= 2  # the sample, the load
  assert held.fingerprint == source.fingerprint and len(held) == 12


@pytest.mark.parametrize('kind', ['encoded', 'decoded'])
def test_a_broken_image_raises_when_its_turn_comes(kind):
  images = pictures(4)
  images[1], images[2] = None, b'<html>'
  held = cache.CachedSource(Counting(images), kind, 1.0, 2)
  with pytest.raises(OSError, match='disk'):
    held.read(1)
  if kind == 'decoded':
    with pytest.raises(decode.Unusable):
      held.read(2)
  assert held.read(3)[1] == 3


def test_a_cache_over_its_budget_is_refused_before_the_set_is_read():
  source = Counting(pictures(30) * 40)
  with pytest.raises(errors.ConfigError) as info:
    cache.CachedSource(source, 'decoded', 1e-3, 2)
  text = str(info.value)
  assert 'input.cache' in text and 'input.cache_gib' in text
  assert '\n' not in text and '0.001' in text
  assert sum(source.reads) <= 200


def test_without_a_budget_the_free_memory_decides(monkeypatch):
  source = Counting(pictures(5))
  assert (
    cache.check_budget(source, 'decoded', 0.0) < cache.measure_free_memory()
  )
  monkeypatch.setattr(cache, 'measure_free_memory', lambda: 10_000)
  with pytest.raises(errors.ConfigError, match='what is free'):
    cache.check_budget(source, 'decoded', 0.0)


GROWTH = """
import gc, sys
import numpy as np
from byol_jax.data.loading import cache
from byol_jax.data.sources import lookup

def rss():
  gc.collect()
  fields = open('/proc/self/statm').read().split()
  return int(fields[1]) * 4096

source = lookup.open_source(sys.argv[1], 'all', data_dir=None,
                             holdout='paper', heldout_share=0.1)
held = []
for kind in ('encoded', 'decoded') * 2:  # the first two warm the allocators
  before = rss()
  held.append(cache.CachedSource(source, kind, 1.0, 2))
  held[-1].read(0)
  print('result', cache.estimate_bytes(source, kind), rss() - before)
"""


@pytest.mark.skipif(
  not os.path.exists('/proc/self/statm'), reason='resident memory, on Linux'
)
def test_promise_3_the_estimate_is_within_15_percent(tmp_path):
  """Of the growth of the process that holds the set; sizes vary fourfold."""
  generator = np.random.default_rng(0)
  for i in range(500):
    height, width = generator.integers(60, 240, 2)
    noise = generator.integers(0, 255, (height, width, 3), np.uint8)
    (tmp_path / f'{i:03d}.jpg').write_bytes(encode(noise, quality=85))
  output = tiny_run.finish(tiny_run.start_python('-c', GROWTH, str(tmp_path)))
  results = re.findall(r'result (\d+) (\d+)', output)
  assert len(results) == 4
  for expected, grown in results[2:]:
    assert int(grown) > 5e6 and abs(int(expected) / int(grown) - 1) < 0.15
