"""Tests top-k against sorting."""

import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import metrics


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
