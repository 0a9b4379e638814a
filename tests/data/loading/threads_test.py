import threading
import time

import pytest

from byol_jax.data.loading import threads


@pytest.mark.parametrize('count', [1, 3])
def test_results_come_in_the_order_of_the_items(count):
  def slow_at_first(item):
    time.sleep(0.01 if item < 3 else 0)
    return item * item

  found = list(threads.in_order(slow_at_first, range(40), count))
  assert found == [item * item for item in range(40)]


def test_only_a_few_items_are_taken_ahead():
  taken = []

  def items():
    for item in range(1000):
      taken.append(item)
      yield item

  results = threads.in_order(lambda item: item, items(), 2)
  assert next(results) == 0
  assert len(taken) < 50
  results.close()
  assert len(taken) < 50


def test_an_error_is_raised_in_its_place():
  def work(item):
    return 1 // (item - 2)

  results = threads.in_order(work, range(100), 2)
  assert [next(results), next(results)] == [-1, -1]
  with pytest.raises(ZeroDivisionError):
    next(results)
  assert not [t for t in threading.enumerate() if 'ThreadPool' in t.name]


def test_zero_threads_are_as_many_as_cores():
  assert threads.count(3) == 3
  assert threads.count(0) >= 1
