"""Tests losses against numpy in float64, and their properties."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import losses, parallel
from configs import pretrain
from tests.helpers import tiny_run

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
  actual = tiny_run.BYOL_LOSS(online, target)
  np.testing.assert_allclose(actual, expected, atol=4e-6)


def test_range_is_zero_to_eight():
  online = pair(5)
  for sign, expected in ((1, 0), (-1, 8)):
    # A target parallel (or opposite) to each prediction.
    target = [View(sign * v.prediction, v.projection) for v in online[::-1]]
    found = tiny_run.BYOL_LOSS(online, target)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


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


def test_smoothed_targets_give_a_share_to_all_classes():
  logits, labels = 3 * vectors(4, (6, 9)), np.array([0, 8, 3, 3, 1, 5])
  targets = 0.9 * np.eye(9)[labels] + 0.1 / 9
  weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  actual = losses.cross_entropy(jnp.asarray(logits), labels, smoothing=0.1)
  expected = -np.sum(targets * np.log(weights), axis=1)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


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


# Objectives against their definitions: a linear network, whose online
# projections are x A and predictions x A Q, of images x in two views; the
# target's projections are x T. The references are float64 numpy, their
# gradients finite differences.

BATCH, INPUTS, WIDTH = 8, 4, 3
INFO_NCE = [
  {'name': 'info_nce', 'temperature': 0.1, 'negatives_weight': beta}
  | {'from_prediction': with_q, 'scale_by_temperature': True}
  for with_q in (True, False)
  for beta in (0.0, 1.0)
]
SIMCLR = INFO_NCE[-1] | {'temperature': 0.5, 'scale_by_temperature': False}
REGRESSION = [
  {'name': 'regression', 'normalization': name, 'symmetric': symmetric}
  for name, symmetric in (
    *(('l2', True), ('l2', False), ('layer_norm', True), ('batch_norm', True)),
    *(('batch_norm', False), ('none', True)),
  )
]
OPTIMAL = [
  {'name': 'optimal_linear', 'ridge': 1e-2, 'stop_predictor_gradient': stop}
  for stop in (True, False)
]
# With the parameters of the target: xi, sg(theta) and theta.
VARIANTS = [
  *[(x, t) for x in INFO_NCE for t in ('average', 'online_stopped', 'online')],
  *((SIMCLR, 'online'), (INFO_NCE[1] | {'negatives_weight': 0.5}, 'average')),
  *[(x, 'average') for x in REGRESSION],
  *[(x, 'online') for x in REGRESSION[::3]],
  *[(x, t) for x in OPTIMAL for t in ('online_stopped', 'online')],
]


def data():
  """Views [2, BATCH, INPUTS] with a common part, and the weights A, Q, T."""
  common = vectors(0, (BATCH, INPUTS))
  views = np.stack([common + 0.5 * vectors(i, common.shape) for i in (1, 2)])
  return views, {
    'A': vectors(3, (INPUTS, WIDTH)),
    'Q': vectors(4, (WIDTH, WIDTH)),
    'T': vectors(5, (INPUTS, WIDTH)),
  }


def unit(x, axis=1):
  return x / np.sqrt(np.sum(x**2, axis=axis, keepdims=True))


def minus_equation_6(phi, psi, other, *, alpha, beta, factor):
  """Returns -J of images v from phi(v), psi(v) and psi(v'), [BATCH, WIDTH]."""
  to_same, to_other = (unit(phi) @ unit(x).T / alpha for x in (psi, other))
  total = 0.0
  for i in range(BATCH):
    negatives = sum(np.exp(to_same[i, j]) for j in range(BATCH) if j != i)
    negatives += sum(np.exp(to_other[i]))
    total += to_other[i, i] - beta * np.log(negatives)
  return -factor * total / BATCH


def normalize(x, name):
  """Of table 20, by its definition."""
  if name == 'l2':
    return unit(x)
  axis = {'layer_norm': 1, 'batch_norm': 0, 'none': None}[name]
  if axis is None:
    return x
  mean, std = (f(x, axis=axis, keepdims=True) for f in (np.mean, np.std))
  return (x - mean) / (std * np.sqrt(WIDTH))


def ridge_regression(z, target, ridge):
  """The predictor, by least squares with rows of the ridge."""
  root = np.sqrt(ridge * np.mean(z**2) * len(z))
  rows = np.concatenate([z, root * np.eye(WIDTH)])
  values = np.concatenate([target, np.zeros((WIDTH, WIDTH))])
  return np.linalg.lstsq(rows, values)[0]


def compute_reference(weights, frozen, variant, parameters):
  """The batch's loss; `frozen` are the weights where no gradient flows."""
  views, settings = data()[0], dict(variant)
  name = settings.pop('name')
  z = [x @ weights['A'] for x in views]
  prediction = [x @ weights['Q'] for x in z]
  target = [
    x
    @ {'average': frozen['T'], 'online_stopped': frozen['A']}.get(
      parameters, weights['A']
    )
    for x in views
  ]
  if name == 'info_nce':
    alpha, beta = settings['temperature'], settings['negatives_weight']
    phi = prediction if settings['from_prediction'] else z
    factor = 2 * alpha if settings['scale_by_temperature'] else 1
    loss = functools.partial(
      minus_equation_6, alpha=alpha, beta=beta, factor=factor
    )
    return loss(phi[0], *target) + loss(phi[1], *target[::-1])
  normalization = settings.get('normalization', 'l2')
  total = 0.0
  for i in range(2 if settings.get('symmetric', True) else 1):
    predicted, expected = prediction[i], target[1 - i]
    if name == 'optimal_linear':
      solved = z[i], expected
      if settings['stop_predictor_gradient']:
        online = parameters == 'online'
        solved = (
          views[i] @ frozen['A'],
          views[1 - i] @ frozen['A'] if online else expected,
        )
      predicted = z[i] @ ridge_regression(*solved, settings['ridge'])
    difference = normalize(predicted, normalization) - normalize(
      expected, normalization
    )
    total += np.sum(difference**2) / BATCH
  return total


def differentiate(function, weights, width=1e-6):
  """(value, gradient) by central differences."""
  grads = {name: np.zeros_like(x) for name, x in weights.items()}
  for name, grad in grads.items():
    for place in np.ndindex(grad.shape):
      moved = []
      for sign in (1, -1):
        changed = weights | {name: weights[name].copy()}
        changed[name][place] += sign * width
        moved.append(function(changed))
      grad[place] = (moved[0] - moved[1]) / (2 * width)
  return function(weights), grads


def compute_on_devices(devices, variant, parameters, map_devices=jax.vmap):
  """(loss, gradient) of the global batch as `byol.make_update` has them."""
  objective = losses.make_objective(devices=parallel, **variant)
  views, weights = data()

  def loss(weights, views):
    z = views @ weights['A']
    prediction = z @ weights['Q']
    target = {
      'average': views @ jax.lax.stop_gradient(weights['T']),
      'online_stopped': jax.lax.stop_gradient(z),
      'online': z,
    }[parameters]
    online = [View(*x) for x in zip(z, prediction, strict=True)]
    values = objective(online, [View(x, None) for x in target])
    assert values.shape == (views.shape[1],)
    return jnp.mean(values)

  split = views.reshape(2, devices, -1, INPUTS).swapaxes(0, 1)
  found = map_devices(
    lambda views: parallel.mean(jax.value_and_grad(loss)(weights, views)),
    axis_name=parallel.AXIS,
  )(split)
  return jax.tree.map(lambda x: x[0], found)


@functools.cache
def compute_all(devices):
  """Results of all variants, compiled at once: faster than one by one."""
  compute = functools.partial(compute_on_devices, devices)
  return jax.jit(lambda: [compute(*variant) for variant in VARIANTS])()


def assert_defined(found, variant, parameters):
  """Compares with float64; returns the error that is allowed."""
  weights = data()[1]
  expected = differentiate(
    lambda changed: compute_reference(changed, weights, variant, parameters),
    weights,
  )
  leaves = jax.tree.leaves(expected)
  # Some dozen float32 roundings of cosines divided by the temperature.
  bound = 1e-5 * max(1.0, *(np.abs(x).max() for x in leaves))
  for x, y in zip(jax.tree.leaves(found), leaves, strict=True):
    np.testing.assert_allclose(x, y, atol=bound)
  return bound


@pytest.mark.parametrize('i', range(len(VARIANTS)), ids=map(str, VARIANTS))
def test_loss_and_gradient_are_those_of_the_definition(i):
  """On one device, and on four with a quarter of the batch each."""
  one, four = (compute_all(devices)[i] for devices in (1, 4))
  bound = assert_defined(four, *VARIANTS[i])
  for x, y in zip(*map(jax.tree.leaves, (one, four)), strict=True):
    np.testing.assert_allclose(x, y, atol=bound)


def assert_defined_under_pmap():
  """On the devices of this process."""
  for variant, parameters in VARIANTS:
    if parameters == 'online':
      found = compute_on_devices(4, variant, parameters, jax.pmap)
      assert_defined(found, variant, parameters)


@pytest.mark.jobs
def test_loss_and_gradient_are_those_of_the_definition_under_pmap():
  code = 'from tests import losses_test as t; t.assert_defined_under_pmap()'
  tiny_run.finish(tiny_run.start_python('-c', code, JAX_NUM_CPU_DEVICES='4'))


def test_every_objective_is_compared_with_its_definition():
  tried = {variant['name'] for variant, _ in VARIANTS}
  assert tried == losses.OBJECTIVES.keys() == pretrain.OBJECTIVES.keys()
