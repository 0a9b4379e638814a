"""Batches: the same ones in order, their errors, and a limit to waiting."""

import threading
import time

import pytest

from byol_jax import errors
from byol_jax.training import batch_timeout


@pytest.mark.parametrize('seconds', (0, 60))
def test_all_batches_come_in_order_and_each_only_when_asked_for(seconds):
  asked = []

  def batches():
    for i in range(5):
      asked.append(i)
      yield i

  found = batch_timeout.BatchTimeout(batches(), seconds)
  assert asked == []
  for i, batch in enumerate(found):
    assert batch == i and asked == list(range(i + 1))
  assert i == 4
  assert next(found, None) is None and next(found, None) is None


def test_an_error_of_the_data_set_is_raised():
  def batches():
    yield 1
    raise errors.DataError('a.jpg: broken')

  found = batch_timeout.BatchTimeout(batches(), 60)
  assert next(found) == 1
  with pytest.raises(errors.DataError, match=r'a\.jpg: broken'):
    next(found)
  assert next(found, None) is None


def test_a_slow_batch_gets_a_note_and_a_missing_one_an_error():
  release, notes = threading.Event(), []

  def batches():
    time.sleep(0.3)  # a tenth of a second is noted, one second is the end
    yield 1
    release.wait()

  found = batch_timeout.BatchTimeout(batches(), 1.0, notes.append)
  assert next(found) == 1
  assert len(notes) == 1 and 'waiting for images for 0.1 s' in notes[0]
  started = time.monotonic()
  with pytest.raises(errors.DataError, match='no images for 1 s'):
    next(found)
  assert 0.9 < time.monotonic() - started < 5
  release.set()
  assert len(notes) == 2


def test_close_ends_the_thread():
  threads = threading.active_count()
  found = batch_timeout.BatchTimeout(iter(range(5)), 60)
  assert next(found) == 0
  assert threading.active_count() == threads + 1
  found.close()
  deadline = time.monotonic() + 30
  while threading.active_count() > threads and time.monotonic() < deadline:
    time.sleep(0.01)
  assert threading.active_count() == threads
