"""Tests top-k against sorting, and the spread of the projections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import metrics, parallel


def best(scores, k):
  """The k best classes of each row; of equal scores the lower class."""
  return np.argsort(-scores, axis=-1, kind='stable')[:, :k]


@pytest.mark.parametrize('k', (1, 2, 5))
def test_in_top_k_agrees_with_sorting(k):
  generator = np.random.default_rng(k)
  # Few different values: most rows have ties.
  scores = generator.integers(0, 4, (200, 7)).astype(np.float32)
  labels = generator.integers(0, 7, 200)
  expected = (best(scores, k) == labels[:, None]).any(axis=-1)
  found = metrics.in_top_k(jnp.asarray(scores), jnp.asarray(labels), k)
  np.testing.assert_array_equal(found, expected)
  assert 0 < expected.sum() < 200


def test_classes_fewer_than_k_and_nan_scores():
  scores = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)))
  assert metrics.in_top_k(scores, jnp.arange(20) % 3, 5).all()
  scores = jnp.asarray([[np.nan, 0.0, 1.0], [np.nan] * 3])
  assert not metrics.in_top_k(scores, jnp.asarray([0, 0]), 3).any()
  found = metrics.in_top_k(scores, jnp.asarray([2, 0]), 1)
  assert found.tolist() == [True, False]


def spread(x):
  return float(metrics.projection_std(jnp.asarray(x), lambda value: value))


def test_spread_has_its_bounds_and_is_that_of_numpy():
  x = np.random.default_rng(1).normal(size=(40, 6)) + 0.7
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  expected = np.sqrt(np.mean(np.std(unit, axis=0) ** 2)) * np.sqrt(6)
  np.testing.assert_allclose(spread(x), expected, rtol=1e-5)
  # Opposite directions; and one, whatever the lengths.
  np.testing.assert_allclose(spread(np.concatenate([x, -x])), 1, atol=1e-6)
  # float32: the variance is a difference of numbers near 1/D.
  assert spread(np.linspace(0.1, 9, 20)[:, None] * np.ones((1, 6))) < 1e-3


def test_devices_see_the_spread_of_the_whole_batch():
  # Each device holds one direction only: local spreads are all zero.
  x = np.repeat(np.random.default_rng(2).normal(size=(4, 1, 6)), 5, axis=1)
  parts = jax.vmap(
    lambda part: metrics.projection_std(part, parallel.mean),
    axis_name=parallel.AXIS,
  )(jnp.asarray(x))
  np.testing.assert_allclose(parts, spread(x.reshape(20, 6)), rtol=1e-5)
  assert parts[0] > 0.1
