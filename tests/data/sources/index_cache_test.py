import logging
import pathlib

import numpy as np
import pytest

from byol_jax.data.sources import index_cache, storage

PATH = pathlib.Path('/some/where/a.tar')
STAMP = storage.Stamp(1000, 5)
ARRAYS = {
  'offsets': np.arange(7),
  'names': np.array([], np.uint8),
}


def kept():
  return index_cache.load('kind', PATH, STAMP)


@pytest.fixture
def stored(cache):
  """The one file of the cache."""
  index_cache.store('kind', PATH, STAMP, ARRAYS)
  (file,) = cache.iterdir()
  return file


def test_what_is_kept_is_what_was_given(stored):
  found = kept()
  assert found.keys() == ARRAYS.keys()
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(found[name], array)
    assert found[name].dtype == array.dtype


def test_another_stamp_path_or_kind_is_another_index(stored):
  for changed in (
    ('other', PATH, STAMP),
    ('kind', PATH.with_suffix('.x'), STAMP),
    ('kind', PATH, STAMP._replace(size=999)),
    ('kind', PATH, STAMP._replace(mtime_ns=6)),
  ):
    assert index_cache.load(*changed) is None
  assert kept() is not None


def test_a_new_stamp_takes_the_place_of_the_old(stored, cache):
  new = STAMP._replace(mtime_ns=6)
  index_cache.store('kind', PATH, new, ARRAYS)
  assert list(cache.iterdir()) == [stored]
  assert kept() is None and index_cache.load('kind', PATH, new) is not None


def test_any_flipped_bit_is_noticed(stored):
  data = stored.read_bytes()
  for place in range(0, len(data), 11):
    damaged = bytearray(data)
    damaged[place] ^= 1 << place % 8
    stored.write_bytes(damaged)
    assert kept() is None, place
  stored.write_bytes(data)
  assert kept() is not None


@pytest.mark.parametrize('length', [0, 1, 32, 100, -1])
def test_any_cut_is_noticed(stored, length):
  stored.write_bytes(stored.read_bytes()[:length])
  assert kept() is None


def test_an_index_is_built_once_and_again_when_it_does_not_hold(cache):
  calls = []

  def build():
    calls.append(1)
    return ARRAYS

  def look(holds):
    return index_cache.cached('k', PATH, STAMP, build, lambda _: holds)

  assert look(True).keys() == look(True).keys() == ARRAYS.keys()
  assert len(calls) == 1
  look(False)
  assert len(calls) == 2


def test_a_folder_that_cannot_be_written_warns_once(
  tmp_path, monkeypatch, caplog
):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('BYOL_JAX_CACHE', str(tmp_path / 'file' / 'below'))
  monkeypatch.setattr(index_cache, '_warned', type(index_cache._warned)())
  with caplog.at_level(logging.WARNING):
    for _ in range(3):
      found = index_cache.cached('k', PATH, STAMP, lambda: ARRAYS, bool)
      assert found is ARRAYS
  (record,) = caplog.records
  assert 'BYOL_JAX_CACHE' in record.message


def test_a_full_disk_warns_and_leaves_nothing(cache, monkeypatch, caplog):
  def full(*unused):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(index_cache.os, 'replace', full)
  monkeypatch.setattr(index_cache, '_warned', type(index_cache._warned)())
  index_cache.store('kind', PATH, STAMP, ARRAYS)
  assert 'No space left' in caplog.text
  assert list(cache.iterdir()) == []


def test_the_folder_is_the_users(monkeypatch):
  home = pathlib.Path.home()
  monkeypatch.setenv('XDG_CACHE_HOME', '/x')
  monkeypatch.setenv('BYOL_JAX_CACHE', '~/mine')
  assert index_cache.folder() == home / 'mine'
  monkeypatch.delenv('BYOL_JAX_CACHE')
  assert index_cache.folder() == pathlib.Path('/x/byol_jax')
  monkeypatch.delenv('XDG_CACHE_HOME')
  assert index_cache.folder() == home / '.cache' / 'byol_jax'


def test_tests_do_not_touch_the_home():
  assert pathlib.Path.home() not in index_cache.folder().parents
