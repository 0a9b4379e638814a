"""Tests top-k against sorting, means over classes, and signs of collapse."""

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


@pytest.mark.parametrize('rows', (7, 1024))
@pytest.mark.parametrize('num_classes', (5, 6))
def test_hits_of_several_classifiers_do_not_depend_on_the_parts(
  num_classes, rows, monkeypatch
):
  monkeypatch.setattr(metrics, 'ROWS', rows)
  generator = np.random.default_rng(0)
  values = generator.normal(size=(31, 5)).astype(np.float32)
  labels = generator.integers(0, num_classes, 31)
  weights = generator.normal(size=(3, 5, num_classes)).astype(np.float32)
  scores = np.einsum('bd,rdc->rbc', values, weights)
  order = np.argsort(-scores, axis=-1)
  found = metrics.find_hits(
    lambda params, x: jnp.einsum('bd,rdc->rbc', x, params),
    *(weights, values, labels),
  )
  assert list(found) == ['top1', 'top5'][: num_classes - 4]
  for name, hits in found.items():
    expected = order[..., : int(name[3:])] == labels[:, None]
    np.testing.assert_array_equal(hits, expected.any(axis=-1))


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


def alone(function, *arrays):
  return np.asarray(function(*map(jnp.asarray, arrays), lambda value: value))


def test_the_effective_rank_counts_directions_of_equal_variance():
  generator = np.random.default_rng(3)
  x = generator.normal(size=(50, 6)) * [5, 2, 1, 1, 0.1, 0.1] + 0.3
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  variances = np.linalg.eigvalsh(np.cov(unit.T))
  expected = variances.sum() ** 2 / np.square(variances).sum()
  found = alone(metrics.effective_rank, np.float32(x))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  axes = np.eye(6, 8, dtype=np.float32)
  both = np.concatenate([axes, -axes])
  np.testing.assert_allclose(alone(metrics.effective_rank, both), 6, rtol=1e-6)
  # One direction, however little of it; none.
  line = np.stack([np.ones(9), np.linspace(0, 1e-4, 9)], axis=1)
  found = alone(metrics.effective_rank, np.float32(line))
  np.testing.assert_allclose(found, 1, rtol=1e-3)
  assert alone(metrics.effective_rank, np.ones((9, 4), np.float32)) < 1e-3


def test_cosines_are_those_of_all_pairs():
  p, z = np.random.default_rng(4).normal(size=(2, 10, 6)) + 0.5
  pairs = (p / np.linalg.norm(p, axis=1, keepdims=True)) @ (
    z / np.linalg.norm(z, axis=1, keepdims=True)
  ).T
  found = alone(metrics.cosines, np.float32(p), np.float32(z))
  expected = np.diag(pairs).mean(), pairs.mean()
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_unit_is_dead_that_no_image_makes_positive():
  values = np.float32([[0, 0, -1, 2], [0, 3, -2, 1]])
  assert alone(metrics.dead_units, values) == 0.5


@pytest.mark.parametrize(
  'function, count',
  ((metrics.effective_rank, 1), (metrics.cosines, 2), (metrics.dead_units, 1)),
)
def test_devices_monitor_the_whole_batch(function, count):
  x = np.random.default_rng(5).normal(size=(count, 4, 3, 6)) - 1
  parts = jax.vmap(
    lambda *part: jnp.array(function(*part, parallel.mean)),
    axis_name=parallel.AXIS,
  )(*np.float32(x))
  whole = alone(function, *np.float32(x).reshape(count, 12, 6))
  np.testing.assert_allclose(parts, np.stack([whole] * 4), rtol=1e-5)


def test_the_mean_per_class_and_its_interval():
  reference = pytest.importorskip('sklearn.metrics')
  generator = np.random.default_rng(0)
  labels = generator.choice([0, 1, 3], 5000, p=[0.7, 0.25, 0.05])
  chances = np.array([0.9, 0.5, 0, 0.2])[labels]
  predicted = np.where(generator.random(5000) < chances, labels, 2)
  value, half_width = metrics.mean_per_class(predicted == labels, labels)
  recalls = {'average': 'macro', 'labels': [0, 1, 3]}
  expected = reference.recall_score(labels, predicted, **recalls)
  np.testing.assert_allclose(value, expected)
  # What other images of the same kind give: a deviation for each of 400 sets.
  draws = generator.random((400, 5000)) < chances
  spread = np.std([metrics.mean_per_class(hits, labels)[0] for hits in draws])
  np.testing.assert_allclose(half_width, 1.96 * spread, rtol=0.15)
  assert metrics.mean_per_class(np.ones(4, bool), np.arange(4))[1] > 0.1


def compute_precision(scores, relevant):
  """11-point average precision, one threshold after the other."""
  relevant, curve = [bool(x) for x in relevant], []
  for threshold in set(scores):
    chosen = [r for s, r in zip(scores, relevant) if s >= threshold]
    curve.append((sum(chosen) / sum(relevant), sum(chosen) / len(chosen)))
  return (
    sum(
      max(precision for recall, precision in curve if recall > i / 10 - 1e-9)
      for i in range(11)
    )
    / 11
  )


def test_average_precision_agrees_with_its_definition():
  generator = np.random.default_rng(0)
  for count in (10, 11, 40):
    # Few different values: many images have equal scores.
    scores = generator.integers(0, 12, count) / 10
    relevant = generator.random(count) < 0.4
    relevant[0] = True
    ones = np.ones(count, int)
    found = metrics.interpolated_precision(scores, relevant, ones)
    np.testing.assert_allclose(found, compute_precision(scores, relevant))
    weights = generator.multinomial(count, ones / count)
    weights[0] += 1
    found = metrics.interpolated_precision(scores, relevant, weights)
    rows = np.repeat(np.arange(count), weights)
    expected = compute_precision(scores[rows], relevant[rows])
    np.testing.assert_allclose(found, expected)


def test_the_mean_of_precisions_leaves_out_what_does_not_count():
  generator = np.random.default_rng(1)
  targets = (generator.random((600, 3)) < 0.3).astype(np.int8)
  scores = generator.normal(size=(600, 3)) + 1.5 * targets
  targets[::3, 0], targets[:, 1] = -1, 0
  kept = targets[:, 0] >= 0
  expected = compute_precision(scores[kept, 0], targets[kept, 0])
  expected += compute_precision(scores[:, 2], targets[:, 2])
  found = metrics.mean_average_precision(scores, targets)
  np.testing.assert_allclose(found, expected / 2)
  # Images that count twice are like images that are there twice.
  twice = np.repeat(np.arange(600), 1 + np.arange(600) % 2)
  weights = np.stack([np.ones(600, int), 1 + np.arange(600) % 2])
  found = metrics.mean_average_precision(scores, targets, weights)
  expected = metrics.mean_average_precision(scores[twice], targets[twice])
  np.testing.assert_allclose(found[1], expected)
