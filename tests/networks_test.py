"""Tests the network: sizes, heads, normalisation, batch norm, gradients."""

import collections

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import errors, networks, resnet
from tests.helpers import tiny_run

# method.md 2.5: encoder, width, parameters of the encoder and the projector.
COUNTS = [
  ('ResNet50', 1, 23_508_032, 9_449_472),
  ('ResNet50', 2, 93_907_072, 17_838_080),
  ('ResNet50', 3, 211_197_120, 26_226_688),
  ('ResNet50', 4, 375_378_176, 34_615_296),
  ('ResNet101', 1, 42_500_160, 9_449_472),
  ('ResNet152', 1, 58_143_808, 9_449_472),
  ('ResNet200', 2, 250_128_512, 17_838_080),
]
KEY = jax.random.PRNGKey(0)


def images(count=6, size=8, seed=0):
  return tiny_run.make_batch(seed, batch_size=count, size=size)['view1']


def applied(forward, params, state, images, is_training=True):
  """`forward.apply`, compiled: its outputs and the new state."""
  return jax.jit(forward.apply, static_argnums=3)(
    params, state, images, is_training
  )


@pytest.mark.parametrize('encoder, width, torso, projector', COUNTS)
def test_parameter_counts(encoder, width, torso, projector):
  forward = tiny_run.make_forward(
    encoder=encoder, width=width, **tiny_run.PAPER_HEADS
  )
  params, _ = tiny_run.shapes_of(forward)
  counts = collections.Counter()
  for module, leaves in params.items():
    counts[module.split('/')[0]] += sum(x.size for x in leaves.values())
  assert counts.pop(resnet.ENCODERS[encoder].module_name) == torso
  assert counts == {
    'projector': projector,
    'predictor': 2_109_440,
    'classifier': (2048 * width + 1) * 1000,
  }


@pytest.mark.parametrize('sizes', [(5,), (7, 5), (7, 6, 5)])
def test_heads_of_depth_one_to_three_against_numpy(sizes):
  make_norm = lambda **named: hk.BatchNorm(True, True, 0.9, eps=1e-5, **named)
  pure = hk.transform_with_state(
    lambda x: networks.MLP(sizes, make_norm, 'projector')(x, True)
  )
  x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
  params, state = pure.init(KEY, x)
  generator = np.random.default_rng(1)
  params = jax.tree.map(
    lambda p: jnp.float32(generator.normal(size=p.shape)), params
  )
  actual, _ = pure.apply(params, state, None, x)
  y, left = np.float64(x), dict(params)
  for i in range(len(sizes)):
    suffix = f'_{i}' if i else ''
    linear = dict(left.pop(f'projector/linear{suffix}'))
    y = y @ np.float64(linear.pop('w'))
    if i < len(sizes) - 1:
      norm = left.pop(f'projector/batch_norm{suffix}')
      y = y + linear.pop('b')
      y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5)
      y = np.maximum(y * norm['scale'] + norm['offset'], 0)
    assert not linear, 'no bias at the output'
  assert not left, 'neither norm nor ReLU at the output'
  np.testing.assert_allclose(actual, y, rtol=1e-3, atol=1e-4)
  assert (np.asarray(actual) < 0).any()


def test_without_predictor_and_labels():
  forward = tiny_run.make_forward(predictor=(), num_classes=None)
  params, state = tiny_run.random_network(forward)
  outputs, _ = applied(forward, params, state, images())
  np.testing.assert_array_equal(outputs.prediction, outputs.projection)
  assert outputs.logits is None
  parts = {module.split('/')[0] for module in params}
  assert parts == {'tiny_res_net', 'projector'}


def test_images_are_normalised_inside():
  seen = []

  def record(next_function, args, kwargs, context):
    called = context.method_name == '__call__'
    if called and isinstance(context.module, resnet.ResNet):
      seen.append(args[0])
      return jnp.zeros((6, 8))
    return next_function(*args, **kwargs)

  forward = tiny_run.make_forward()
  params, state = tiny_run.random_network(forward)
  with hk.intercept_methods(record):
    forward.apply(params, state, images(), True)
  mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
  expected = (np.float64(images()) - mean) / std
  np.testing.assert_allclose(seen[-1], expected, atol=1e-5)


def test_representations_do_not_depend_on_the_rest_of_the_batch():
  forward = tiny_run.make_forward()
  apply = jax.jit(forward.apply, static_argnums=3)
  params, state = tiny_run.random_network(forward)
  for seed in range(3):
    _, state = apply(params, state, images(seed=seed), True)
  together = networks.represent(forward, params, state, images(seed=9))
  alone = networks.represent(forward, params, state, images(seed=9)[:1])
  np.testing.assert_allclose(together[:1], alone, atol=1e-5)
  outputs, after = apply(params, state, images(seed=9), False)
  np.testing.assert_allclose(together, outputs.representation, atol=1e-5)
  assert [x.shape for x in outputs] == [(6, 8), (6, 8), (6, 8), (6, 10)]
  assert all(x.dtype == jnp.float32 for x in outputs)
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(after)):
    np.testing.assert_array_equal(a, b)


def test_moving_averages_are_debiased_and_biased_variance():
  forward = tiny_run.make_forward()
  params, state = tiny_run.random_network(forward)
  kernel = np.float64(params['tiny_res_net/~/initial_conv']['w'])
  apply = jax.jit(forward.apply, static_argnums=3)
  moments = []
  for seed in (1, 2):
    x = np.float64(networks.normalize(images(seed=seed)))
    x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    view = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    y = np.einsum('bhwcij,ijco->bhwo', view, kernel)
    moments.append((y.mean((0, 1, 2)), y.var((0, 1, 2))))
    _, state = apply(params, state, images(seed=seed), True)
  for i, name in enumerate(('mean_ema', 'var_ema')):
    ema = state[f'tiny_res_net/~/initial_batchnorm/~/{name}']
    hidden = 0.9 * 0.1 * moments[0][i] + 0.1 * moments[1][i]
    assert ema['counter'] == 2
    np.testing.assert_allclose(np.ravel(ema['hidden']), hidden, atol=1e-6)
    # 1 - 0.9 ** 2 = 0.19.
    np.testing.assert_allclose(
      np.ravel(ema['average']), hidden / 0.19, rtol=1e-4, atol=1e-6
    )


def test_batch_norm_is_that_of_all_devices():
  x = jnp.asarray(images(8))
  whole = tiny_run.make_forward(axis_name=None)
  parts = tiny_run.make_forward(axis_name='devices')
  params, state = tiny_run.random_network(whole)
  expected, expected_state = applied(whole, params, state, x)
  apply = jax.jit(
    jax.vmap(
      lambda part: parts.apply(params, state, part, True),
      axis_name='devices',
    )
  )
  actual, states = apply(x.reshape(4, 2, *x.shape[1:]))
  for a, b in zip(actual, expected):
    # Sums in another order, through a dozen norms.
    np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-3, atol=1e-3)
  for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(expected_state)):
    for device in range(4):
      np.testing.assert_allclose(a[device], b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  'wrong',
  [
    {'encoder': 'ResNet51'},
    {'width': 0},
    {'version': 3},
    {'gamma_init': 'twos'},
    {'stem': 'large'},
    {'projector': ()},
    {'predictor': (16, 9)},
  ],
)
def test_a_wrong_value_is_named(wrong):
  (key,) = wrong
  with pytest.raises(errors.ConfigError, match=f'network.{key}'):
    tiny_run.make_forward(**wrong)
