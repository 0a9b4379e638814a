"""Tests schedules against float64 and method.md 4.2 to 4.4."""

import math

import numpy as np
import pytest

from byol_jax import schedules


def learning_rate(k, peak, warmup, total):
  if k < warmup:
    return peak * k / warmup
  return peak * 0.5 * (1 + math.cos(math.pi * (k - warmup) / (total - warmup)))


@pytest.mark.parametrize(
  'peak, warmup, total',
  [(3.2, 3127, 312_784), (0.8, 25_022, 2_502_279), (3.2, 10, 110)],
)
def test_learning_rate_against_float64(peak, warmup, total):
  schedule = schedules.warmup_cosine_schedule(peak, warmup, total)
  assert schedule(0) == 0
  for k in (1, 2, warmup - 1, warmup, warmup + 1, total // 2, total - 1, total):
    # float32: a cosine near -1 loses half its digits against the peak.
    np.testing.assert_allclose(
      schedule(k), learning_rate(k, peak, warmup, total), atol=3e-7 * peak
    )


def test_a_run_without_or_of_nothing_but_warmup():
  assert schedules.warmup_cosine_schedule(0.5, 0, 10)(0) == 0.5
  assert np.isfinite(schedules.warmup_cosine_schedule(0.5, 10, 10)(10))


@pytest.mark.parametrize('total', [50, 312_784])
def test_tau_against_float64_and_the_table(total):
  schedule = schedules.tau_schedule(0.996, total, 'cosine')
  assert schedule(total) == 1
  for k in (0, 1, total // 50, total // 3, total - 1):
    expected = 1 - 0.004 * (math.cos(math.pi * k / total) + 1) / 2
    # tau is next to 1, where float32 has steps of 6e-8.
    np.testing.assert_allclose(schedule(k), expected, atol=1.3e-7)
  table = {0: 0.9960, 0.25: 0.99659, 0.5: 0.9980, 0.75: 0.99941, 0.9: 0.99990}
  for progress, expected in table.items():
    # Five decimals are published.
    assert abs(float(schedule(progress * total)) - expected) <= 0.51e-5


@pytest.mark.parametrize('base', [0.0, 0.5, 1.0])
def test_a_constant_tau_is_that_number(base):
  schedule = schedules.tau_schedule(base, 100, 'constant')
  assert all(schedule(k) == base for k in (0, 50, 100))
