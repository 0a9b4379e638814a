"""When two arrays count as equal."""

import math

import numpy as np
import pytest

from byol_jax.conformance import compare


@pytest.mark.parametrize(
  'ours, theirs, scalars_hold, arrays_hold',
  (
    ([1e-3 * (1 + 2e-5)], [1e-3], False, True),
    ([1e3 * (1 + 0.9e-5)], [1e3], True, True),
    ([1e3 * (1 + 1.1e-5)], [1e3], False, False),
    ([0.0], [0.0], True, True),
    ([1e-30], [0.0], False, True),
    ([math.nan], [math.nan], False, False),
    ([1.0], [math.inf], False, False),
    (np.zeros(3), np.zeros((1, 3)), False, False),
    ([], [], True, True),
  ),
)
def test_scales_of_errors(ours, theirs, scalars_hold, arrays_hold):
  """Scalars are relative; arrays only above one; NaN always differs."""
  assert compare.compare_scalars('g', 'k', ours, theirs).holds is scalars_hold
  assert compare.compare_arrays('g', 'k', ours, theirs).holds is arrays_hold


def test_a_floor_is_the_least_scale_of_scalars():
  assert compare.compare_scalars('g', 'k', [1e-7], [0.0], floor=0.1).holds
  assert not compare.compare_scalars('g', 'k', [1e-5], [0.0], floor=0.1).holds


def test_a_leaf_on_one_side_only_is_a_difference():
  ours = {'a': {'w': np.zeros(2)}, 'b': {'w': np.zeros(2)}}
  arrays = {'final/a|w': np.zeros(2), 'final/c|w': np.zeros(2), 'd|w': 0}
  found = {
    comparison.key: comparison.holds
    for comparison in compare.compare_trees('g', ours, arrays, 'final/')
  }
  assert found == {'final/a|w': True, 'final/b|w': False, 'final/c|w': False}
