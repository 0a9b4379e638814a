import time

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.sampling import order


def test_an_epoch_holds_every_example_once_though_batches_straddle_epochs():
  size, batch = 10, 4
  pairs = [order.example_ids(7, step, batch, size) for step in range(15)]
  ids = np.concatenate([ids for ids, _ in pairs])
  epochs = np.concatenate([epochs for _, epochs in pairs])
  np.testing.assert_array_equal(epochs, np.arange(60) // size)
  for epoch in ids.reshape(6, size):
    assert sorted(epoch) == list(range(size))


def test_a_batch_may_hold_several_epochs():
  ids, epochs = order.example_ids(0, 1, 10, 4)
  np.testing.assert_array_equal(epochs, [2, 2, 3, 3, 3, 3, 4, 4, 4, 4])
  assert sorted(ids[2:6]) == sorted(ids[6:]) == [0, 1, 2, 3]


@pytest.mark.parametrize('processes', [1, 2, 4, 7])
def test_the_parts_of_the_processes_make_the_global_batch(processes):
  parts = [order.positions_of(5, 28, h, processes) for h in range(processes)]
  ids, epochs = order.ids_at(3, np.concatenate(parts), 37)
  np.testing.assert_array_equal((ids, epochs), order.example_ids(3, 5, 28, 37))


def test_order_depends_on_seed_and_epoch_and_on_nothing_else():
  first = order.permutation(1, 0, 50).copy()
  others = [
    order.permutation(*key, 50) for key in ((2, 0), (1, 1), (-1, 0), (-2, 0))
  ]
  assert len({ids.tobytes() for ids in (first, *others)}) == 5
  order.permutation.cache_clear()
  np.testing.assert_array_equal(order.permutation(1, 0, 50), first)


def test_places_of_an_example_are_uniform_over_epochs():
  places = [
    int(np.flatnonzero(order.permutation(0, epoch, 5) == 2)[0])
    for epoch in range(2000)
  ]
  # Chi-square with 4 degrees of freedom; 18.5 has probability 0.001.
  counts = np.bincount(places, minlength=5)
  assert ((counts - 400) ** 2 / 400).sum() < 18.5


def test_a_late_step_of_imagenet_costs_no_more_than_an_early_one():
  order.permutation.cache_clear()
  start = time.perf_counter()
  ids, epochs = order.example_ids(0, 300_000, 4096, 1_281_167)
  assert time.perf_counter() - start < 5  # 0.2 s; the machine may be busy
  assert ids.dtype == np.int64 and set(epochs) == {959}


def test_positions_pass_the_range_of_int32():
  ids, epochs = order.example_ids(0, 2**40, 4, 3)
  assert list(epochs - 2**42 // 3) == [0, 0, 1, 1]
  assert ids[0] != ids[1] and ids[2] != ids[3] and set(ids) <= {0, 1, 2}


@pytest.mark.parametrize('batch_size', [0, 6, -8])
def test_an_uneven_batch_is_refused_with_its_numbers(batch_size):
  with pytest.raises(errors.ConfigError) as info:
    order.local_batch(batch_size, 4, 2)
  assert str(batch_size) in str(info.value) and '8 devices' in str(info.value)
  assert '\n' not in str(info.value)
  assert order.local_batch(16, 4, 2) == 8
