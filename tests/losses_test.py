"""Tests losses against numpy in float64, and their properties."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import losses

View = collections.namedtuple('View', ('projection', 'prediction'))


def vectors(seed, shape=(7, 5)):
  return np.random.default_rng(seed).normal(size=shape)


def pair(seed):
  return tuple(
    View(jnp.asarray(vectors(seed + i)), jnp.asarray(vectors(seed + 10 + i)))
    for i in range(2)
  )


def cosine(a, b):
  scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
  return np.sum(a * b, axis=1) / scale


def test_regression_is_two_minus_two_cosines():
  a, b = vectors(0), 1e3 * vectors(1)
  # 1e-6: a few float32 roundings of numbers near 1.
  np.testing.assert_allclose(
    losses.regression_loss(jnp.asarray(a), jnp.asarray(b)),
    2 - 2 * cosine(a, b),
    atol=2e-6,
  )


def test_unit_vectors_have_unit_length_down_to_the_epsilon():
  for scale in (1e-3, 1.0, 1e6):
    unit = losses.l2_normalize(jnp.asarray(scale * vectors(2)))
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
  # Norm 1e-7 is below sqrt(1e-12) = 1e-6: divided by that, not by itself.
  tiny = jnp.asarray([[1e-7, 0.0]])
  np.testing.assert_allclose(losses.l2_normalize(tiny), [[0.1, 0]], rtol=1e-5)


def test_gradients_are_orthogonal_to_the_prediction_and_finite_at_zero():
  b = jnp.asarray(vectors(1))
  grad = jax.grad(lambda x: jnp.sum(losses.regression_loss(x, b)))
  # The loss depends on directions only.
  a = jnp.asarray(vectors(0))
  np.testing.assert_allclose(np.sum(a * grad(a), axis=1), 0, atol=1e-6)
  zero = 0 * b
  np.testing.assert_allclose(losses.regression_loss(zero, b), 1, atol=1e-6)
  np.testing.assert_array_equal(losses.regression_loss(zero, zero), 0)
  assert np.isfinite(grad(zero)).all()


def test_symmetric_loss_is_the_sum_of_both_crossed_directions():
  online, target = pair(0), pair(20)
  expected = (
    4
    - 2 * cosine(*map(np.asarray, (online[0].prediction, target[1].projection)))
    - 2 * cosine(*map(np.asarray, (online[1].prediction, target[0].projection)))
  )
  actual = losses.symmetric_regression_loss(online, target)
  np.testing.assert_allclose(actual, expected, atol=4e-6)


def test_range_is_zero_to_eight():
  online = pair(5)
  for sign, expected in ((1, 0), (-1, 8)):
    # A target parallel (or opposite) to each prediction.
    target = [View(sign * v.prediction, v.projection) for v in online[::-1]]
    found = losses.symmetric_regression_loss(online, target)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


def test_no_gradient_passes_through_the_target():
  total = lambda online, target: jnp.sum(
    losses.symmetric_regression_loss(online, target)
  )
  to_online, to_target = jax.grad(total, (0, 1))(pair(0), pair(20))
  assert not any(np.any(x) for x in jax.tree.leaves(to_target))
  for view in to_online:
    assert np.any(view.prediction)
    assert not np.any(view.projection)


def test_shapes_that_do_not_meet_are_refused():
  with pytest.raises(AssertionError):
    losses.regression_loss(jnp.ones((4, 3)), jnp.ones((1, 3)))
  with pytest.raises(AssertionError):
    losses.cross_entropy(jnp.ones((4, 3)), jnp.ones((4, 3)))


def test_cross_entropy_is_minus_the_log_of_the_chosen_probability():
  logits, labels = 3 * vectors(4, (6, 9)), np.array([0, 8, 3, 3, 1, 5])
  weights = np.exp(logits)
  expected = -np.log(weights[np.arange(6), labels] / weights.sum(axis=1))
  actual = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
  np.testing.assert_allclose(actual, expected, rtol=1e-5)
  huge = losses.cross_entropy(jnp.asarray([[1e4, -1e4]]), jnp.asarray([1]))
  np.testing.assert_allclose(huge, 2e4, rtol=1e-6)


def test_clipped_and_penalised_logits_are_those_of_the_definition():
  logits, labels = 9 * vectors(4, (6, 9)), np.array([0, 8, 3, 3, 1, 5])
  plain = losses.cross_entropy(jnp.asarray(logits), labels)
  for clip, penalty in ((0.0, 0.0), (0.0, 0.5), (20.0, 0.01), (2.0, 0.0)):
    actual = losses.regularized_cross_entropy(
      jnp.asarray(logits), labels, clip=clip, penalty=penalty
    )
    kept = clip * np.tanh(logits / clip) if clip else logits
    weights = np.exp(kept)
    chosen = weights[np.arange(6), labels] / weights.sum(axis=1)
    expected = -np.log(chosen) + penalty * np.mean(kept**2, axis=1)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    if not clip and not penalty:
      np.testing.assert_array_equal(actual, plain)
