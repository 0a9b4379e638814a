"""Batches: the same ones, their errors, and an end to waiting."""

import threading
import time

import pytest

from byol_jax import errors
from byol_jax.training import batch_timeout


def test_all_batches_come_in_order_and_none_is_asked_for_early():
  asked = []

  def batches():
    for i in range(5):
      asked.append(i)
      yield i

  found = batch_timeout.Arriving(batches(), 60)
  assert asked == []
  for i, batch in enumerate(found):
    assert batch == i and asked == list(range(i + 1))
  assert i == 4
  assert next(found, None) is None and next(found, None) is None


def test_an_error_of_the_data_set_is_the_caller_s():
  def batches():
    yield 1
    raise errors.DataError('a.jpg: broken')

  found = batch_timeout.Arriving(batches(), 60)
  assert next(found) == 1
  with pytest.raises(errors.DataError, match=r'a\.jpg: broken'):
    next(found)


def test_a_source_that_no_longer_answers_is_told_of_and_then_refused():
  hold, notes = threading.Event(), []

  def batches():
    yield 1
    hold.wait()

  found = batch_timeout.Arriving(batches(), 1.0, notes.append)
  assert next(found) == 1
  with pytest.raises(errors.DataError, match='no images for 1 s') as caught:
    next(found)
  hold.set()
  assert caught.value.exit_code == 3
  assert len(notes) == 1 and 'waiting for images for 0.1 s' in notes[0]


def test_a_slow_source_is_told_of_and_waited_for():
  notes = []

  def batches():
    time.sleep(0.5)
    yield 1

  assert list(batch_timeout.Arriving(batches(), 3.0, notes.append)) == [1]
  assert len(notes) == 1


def test_no_limit_is_for_ever():
  def batches():
    time.sleep(0.2)
    yield 1

  assert list(batch_timeout.Arriving(batches(), 0)) == [1]


def test_its_thread_ends_when_it_is_closed():
  before = threading.active_count()
  found = batch_timeout.Arriving(iter(range(5)), 60)
  assert next(found) == 0
  assert threading.active_count() == before + 1
  found.close()
  deadline = time.monotonic() + 30
  while threading.active_count() > before and time.monotonic() < deadline:
    time.sleep(0.01)
  assert threading.active_count() == before
