"""Tests the spread of the projections."""

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import monitor, parallel


def spread(x):
  return float(monitor.projection_std(jnp.asarray(x), lambda value: value))


def test_bounds_and_numpy():
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
    lambda part: monitor.projection_std(part, parallel.mean),
    axis_name=parallel.AXIS,
  )(jnp.asarray(x))
  np.testing.assert_allclose(parts, spread(x.reshape(20, 6)), rtol=1e-5)
  assert parts[0] > 0.1
