import time

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.sampling import order


def global_batch(seed, step, batch_size, num_examples):
  """Ids and epochs of all processes."""
  positions = order.compute_positions(step, batch_size, 0, 1)
  return order.find_examples(seed, positions, num_examples)


@pytest.mark.parametrize('batch_size, size', [(4, 10), (10, 4)])
def test_an_epoch_holds_every_example_once(batch_size, size):
  """Though batches straddle epochs, and one may hold several."""
  pairs = [global_batch(7, step, batch_size, size) for step in range(20)]
  ids, epochs = (np.concatenate(arrays) for arrays in zip(*pairs))
  np.testing.assert_array_equal(epochs, np.arange(20 * batch_size) // size)
  for epoch in ids.reshape(-1, size):
    assert sorted(epoch) == list(range(size))


@pytest.mark.parametrize('processes', [1, 2, 4, 7])
def test_the_parts_of_the_processes_are_the_global_batch(processes):
  parts = [
    order.compute_positions(5, 28, p, processes) for p in range(processes)
  ]
  ids, epochs = order.find_examples(3, np.concatenate(parts), 37)
  np.testing.assert_array_equal((ids, epochs), global_batch(3, 5, 28, 37))
  for process, part in enumerate(parts):
    for row, position in enumerate(part.tolist()):
      found = order.locate_position(position, 28, process, processes)
      assert found == (5, row)


def test_order_depends_on_seed_and_epoch_and_on_nothing_else():
  first = order.permute_examples(1, 0, 50).copy()
  others = [
    order.permute_examples(*key, 50)
    for key in ((2, 0), (1, 1), (-1, 0), (-2, 0))
  ]
  assert len({ids.tobytes() for ids in (first, *others)}) == 5
  order.permute_examples.cache_clear()
  np.testing.assert_array_equal(order.permute_examples(1, 0, 50), first)


def test_the_rank_of_an_example_is_uniform_over_epochs():
  ranks = [
    int(np.flatnonzero(order.permute_examples(0, epoch, 5) == 2)[0])
    for epoch in range(2000)
  ]
  # Chi-square with 4 degrees of freedom; 18.5 has probability 0.001.
  counts = np.bincount(ranks, minlength=5)
  assert ((counts - 400) ** 2 / 400).sum() < 18.5


def test_a_late_step_costs_no_more_than_an_early_one():
  order.permute_examples.cache_clear()
  start = time.perf_counter()
  ids, epochs = global_batch(0, 300_000, 4096, 1_281_167)
  assert time.perf_counter() - start < 5  # 0.2 s; the machine may be busy
  assert ids.dtype == np.int64 and set(epochs) == {959}
  ids, epochs = global_batch(0, 2**40, 4, 3)  # positions beyond int32
  assert list(epochs - 2**42 // 3) == [0, 0, 1, 1]
  assert ids[0] != ids[1] and ids[2] != ids[3] and set(ids) <= {0, 1, 2}


@pytest.mark.parametrize('batch_size', [0, 6, -8])
def test_a_batch_that_the_devices_do_not_divide_is_refused(batch_size):
  with pytest.raises(errors.ConfigError, match=f': {batch_size} .* 8 devices'):
    order.divide_batch(batch_size, 4, 2)
  assert order.divide_batch(16, 4, 2) == 8
