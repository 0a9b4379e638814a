import os
import pathlib

import numpy as np
import pytest

from byol_jax import files
from byol_jax.data.sources import index_cache, paths

PATH = pathlib.Path('/some/where/a.tar')
STAMP = paths.FileStamp(1000, 5)
ARRAYS = {'offsets': np.arange(7), 'names': np.array([], np.uint8)}


def is_cached(kind='kind', path=PATH, stamp=STAMP, fits=lambda _: True):
  """Looks the index up; stores it if it is missing."""
  builds = []
  found = index_cache.load_or_build(
    kind, path, stamp, lambda: builds.append(1) or ARRAYS, fits
  )
  assert found.keys() == ARRAYS.keys()
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(found[name], array)
    assert found[name].dtype == array.dtype
  return not builds


@pytest.fixture
def stored(cache):
  """The one file of the cache."""
  assert not is_cached()
  (file,) = cache.iterdir()
  return file


def test_an_index_is_built_once_for_a_kind_a_path_and_a_stamp(stored, cache):
  assert is_cached() and is_cached()
  assert not is_cached(kind='other')
  assert not is_cached(path=PATH.with_suffix('.x'))
  assert len(list(cache.iterdir())) == 3
  # Of another stamp, the new index replaces the old one.
  assert not is_cached(stamp=STAMP._replace(size=999))
  assert not is_cached(stamp=STAMP._replace(mtime_ns=6))
  assert not is_cached()
  assert not is_cached(fits=lambda _: False)
  assert len(list(cache.iterdir())) == 3


def test_every_flipped_bit_and_every_cut_is_noticed(stored):
  data = stored.read_bytes()
  damaged = [data[:length] for length in (0, 1, 32, 100, -1)]
  for position in range(0, len(data), 29):
    flipped = bytearray(data)
    flipped[position] ^= 1 << position % 8
    damaged.append(flipped)
  for content in damaged:
    stored.write_bytes(content)
    assert not is_cached()
    assert stored.read_bytes() == data


def test_the_folder_is_the_users(monkeypatch):
  home = pathlib.Path.home()
  assert home not in files.find_cache_folder().parents  # in tests
  monkeypatch.setenv('XDG_CACHE_HOME', '/x')
  monkeypatch.setenv('BYOL_JAX_CACHE', '~/mine')
  assert files.find_cache_folder() == home / 'mine'
  monkeypatch.delenv('BYOL_JAX_CACHE')
  assert files.find_cache_folder() == pathlib.Path('/x/byol_jax')
  monkeypatch.delenv('XDG_CACHE_HOME')
  assert files.find_cache_folder() == home / '.cache' / 'byol_jax'


def test_what_cannot_be_stored_warns_once(cache, monkeypatch, caplog):
  with monkeypatch.context() as patch:
    patch.setattr(index_cache.os, 'replace', lambda *_: os.stat('/none'))
    assert not is_cached() and not is_cached()
  assert not list(cache.iterdir())
  monkeypatch.setenv('BYOL_JAX_CACHE', '/dev/null/below')
  assert not is_cached() and not is_cached()
  assert len(caplog.records) == 2
  assert all('BYOL_JAX_CACHE' in record.message for record in caplog.records)
