"""Tests schedules against float64 and method.md 4.2 to 4.4."""

import math

import numpy as np
import pytest

from byol_jax import schedules

IMAGENET = 1_281_167


def learning_rate(k, peak, warmup, total):
  if k < warmup:
    return peak * k / warmup
  return peak * 0.5 * (1 + math.cos(math.pi * (k - warmup) / (total - warmup)))


@pytest.mark.parametrize(
  'peak, warmup, total', [(3.2, 3127, 312_784), (0.8, 25_022, 2_502_279)]
)
def test_learning_rate_against_float64(peak, warmup, total):
  epochs, batch_size = (1000, 4096) if peak == 3.2 else (1000, 512)
  assert schedules.num_steps(epochs, IMAGENET, batch_size) == total
  schedule = schedules.warmup_cosine(peak, warmup, total)
  steps = [0, 1, 2, warmup - 1, warmup, warmup + 1, total // 2, total - 1]
  for k in steps:
    # float32: a cosine near -1 loses half its digits against the peak.
    np.testing.assert_allclose(
      schedule(k), learning_rate(k, peak, warmup, total), atol=3e-7 * peak
    )


def test_learning_rate_at_its_corners():
  schedule = schedules.warmup_cosine(3.2, 10, 110)
  assert schedule(0) == 0
  np.testing.assert_allclose(schedule(10), 3.2, rtol=1e-6)
  np.testing.assert_allclose(schedule(60), 1.6, rtol=1e-6)
  np.testing.assert_allclose(schedule(110), 0, atol=1e-6)
  rates = [float(schedule(k)) for k in range(111)]
  assert max(rates) == rates[10]
  assert np.all(np.diff(rates[:11]) > 0) and np.all(np.diff(rates[10:]) < 0)


def test_a_run_without_or_of_nothing_but_warmup():
  assert schedules.warmup_cosine(0.5, 0, 10)(0) == 0.5
  assert np.isfinite(schedules.warmup_cosine(0.5, 10, 10)(10))


def test_tau_against_float64_and_the_table():
  total = 312_784
  schedule = schedules.tau(0.996, total, 'cosine')
  for k in (0, 1, 1000, total // 3, total - 1):
    expected = 1 - 0.004 * (math.cos(math.pi * k / total) + 1) / 2
    # tau is next to 1, where float32 has steps of 6e-8.
    np.testing.assert_allclose(schedule(k), expected, atol=1.3e-7)
  table = {0: 0.9960, 0.25: 0.99659, 0.5: 0.9980, 0.75: 0.99941, 0.9: 0.99990}
  for progress, expected in table.items():
    # Five decimals are published.
    assert abs(float(schedule(progress * total)) - expected) <= 0.51e-5


def test_tau_rises_within_its_range_to_exactly_one():
  schedule = schedules.tau(0.97, 50, 'cosine')
  values = np.array([schedule(k) for k in range(51)])
  assert np.all(np.diff(values) >= 0) and values[-1] == 1
  assert values.min() >= np.float32(0.97) - 1e-7


@pytest.mark.parametrize('base', [0.0, 0.5, 1.0])
def test_a_constant_tau_is_that_number(base):
  schedule = schedules.tau(base, 100, 'constant')
  assert all(schedule(k) == base for k in (0, 50, 100))
