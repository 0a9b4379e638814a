"""Norms of views, blocks of pixels and both layers as one equal references."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import convolution, modules, resnet
from tests.helpers.gradients import with_gradients

# Inputs and outputs of a convolution, and its kernel; the first two are folded.
FOLDED = [(3, 5, 1), (4, 4, 1)]
APART = [(5, 3, 1), (3, 5, 3)]


def make(compute, channels, kernel, stride, axis_name=None):
  """A convolution, its norm and a ReLU, with an average after the moments."""

  def network(x):
    conv = resnet.make_conv(channels, kernel, stride, 'conv')
    norm = modules.BatchNorm(
      decay=0.9, epsilon=1e-5, axis_name=axis_name, name='norm'
    )
    return modules.rectify(compute(conv, norm, x, True))

  return hk.transform_with_state(network)


def apply_both(layer, norm, images, is_training):
  return norm(layer(images), is_training)


def differentiate(network, params, state, images):
  """Outputs, new state, and the gradients of parameters and images."""

  def loss(params, images):
    outputs, after = network.apply(params, state, None, images)
    weigh = jnp.cos(jnp.arange(outputs.size)).reshape(outputs.shape)
    return jnp.sum(weigh * outputs), (outputs, after)

  grads, results = jax.grad(loss, (0, 1), has_aux=True)(params, images)
  return *results, grads


def test_a_batch_norm_of_two_views_is_one_of_each_in_turn():
  """On two devices; outputs, averages and gradients, in float64."""

  def make(num_views, axis_name='devices'):
    settings = {'decay': 0.9, 'epsilon': 1e-5, 'axis_name': axis_name}
    norm = lambda: modules.BatchNorm(**settings, views=modules.Views(num_views))
    return hk.transform_with_state(lambda x: jnp.square(norm()(x, True)))

  def together(scales, views):
    y, state = make(2).apply(*scales, None, views.reshape(6, 5, 4))
    return y.reshape(views.shape), state

  def apart(scales, views):
    (params, state), found = scales, []
    for view in views:
      y, state = make(1).apply(params, state, None, view)
      found.append(y)
    return jnp.stack(found), state

  def measure(function, params, state, views):
    outputs = lambda *args: function((args[0], state), args[1])[0]
    after = function((params, state), views)[1]
    return with_gradients(outputs, params, views), after

  def on_devices(function, *scales):
    mapped = functools.partial(measure, function, *scales)
    return jax.vmap(mapped, axis_name='devices')

  rng = np.random.default_rng(0)
  views = rng.normal(size=(2, 2, 3, 5, 4))
  views[:, 1] = 3 * views[:, 1] + 1
  with jax.enable_x64(True):
    scales = make(1, None).init(jax.random.PRNGKey(0), views[0, 0])
    scales[0]['batch_norm']['scale'] += rng.normal(size=(1, 1, 4))
    found, expected = jax.jit(
      lambda scales, views: [
        on_devices(function, *scales)(views) for function in (together, apart)
      ]
    )(scales, views)
  for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    assert x.dtype in (np.float64, np.int32)
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)


def test_blocks_are_gathered_in_the_precision_of_float32():
  """Products round to bfloat16 by default on a TPU; on a CPU they do not."""
  gather = jax.jit(modules.gather_blocks, static_argnums=1)
  traced = gather.trace(np.zeros((2, 4, 4, 3), np.float32), 2)
  text = traced.lower(lowering_platforms=('tpu',)).as_text()
  assert text.count('stablehlo.dot_general') == 2
  assert text.count('precision = [HIGHEST, HIGHEST]') == 2


def test_blocks_are_those_of_the_views(monkeypatch):
  """Both ways: [view, row, column, channel] of each block of 2x2 pixels."""
  images = np.random.default_rng(0).normal(size=(6, 4, 8, 3))
  block = lambda b, i, j: images[b::3, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
  expected = [
    [[block(b, i, j).ravel() for j in range(4)] for i in range(2)]
    for b in range(3)
  ]
  with jax.enable_x64(True):
    transposed = jax.jit(modules.gather_blocks, static_argnums=1)(images, 2)
    monkeypatch.setattr(
      convolution, 'choose_form', lambda plain, *, tpu, **others: tpu
    )
    permuted = jax.jit(lambda x: modules.gather_blocks(x, 2))(images)
  np.testing.assert_array_equal(transposed, expected)
  np.testing.assert_array_equal(permuted, expected)


@pytest.mark.parametrize('padding', resnet.PADDINGS)
def test_views_in_the_channels_are_views_in_turn(padding):
  """A first convolution, batch norms and another one, in float64."""

  def make(in_channels):
    views = modules.Views(2, in_channels)
    form = modules.ConvOfBlocks if in_channels else modules.Conv2D

    def network(x):
      norm = functools.partial(
        modules.BatchNorm, decay=0.9, epsilon=1e-5, views=views
      )
      x = resnet.make_conv(4, 7, 2, 'first', padding, views, form)(x)
      x = jax.nn.relu(norm(name='norm_0')(x, True))
      x = resnet.make_conv(3, 3, 1, 'second', padding, views)(x)
      x = norm(name='norm_1')(x, True)
      return resnet.separate_views(x, 2) if in_channels else x

    return hk.transform_with_state(network)

  def measure(network, params, state, images):
    apply = lambda params: network.apply(params, state, None, images)
    return with_gradients(lambda p: apply(p)[0], params), apply(params)[1]

  images = np.random.default_rng(0).normal(size=(6, 16, 16, 3))
  plain, fast = make(False), make(True)
  with jax.enable_x64(True):
    params, state = jax.jit(plain.init)(jax.random.PRNGKey(0), images)
    vary = lambda x: x + jnp.cos(jnp.arange(x.size)).reshape(x.shape) / 4
    params = jax.tree.map(vary, params)
    found, expected = jax.jit(
      lambda *args: [measure(network, *args) for network in (fast, plain)]
    )(params, state, images)
  for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    assert x.dtype in (np.float64, np.int32)
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)


def test_parameters_are_those_of_haiku():
  images = jnp.ones((2, 4, 4, 3))
  ours = hk.transform(lambda x: resnet.make_conv(5, 3, 2, 'conv_0')(x))
  haikus = hk.transform(
    lambda x: hk.Conv2D(5, 3, 2, with_bias=False, name='conv_0')(x)
  )
  key = jax.random.PRNGKey(0)
  found, expected = (jax.jit(x.init)(key, images) for x in (ours, haikus))
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('inputs, channels, kernel', FOLDED)
def test_a_folded_norm_is_the_norm(inputs, channels, kernel, stride):
  """On two devices, in float64: outputs, averages and all gradients."""
  images = np.random.default_rng(0).normal(size=(2, 3, 4, 4, inputs)) + 1
  shape = channels, kernel, stride
  with jax.enable_x64(True):
    plain, folded = (
      make(compute, *shape, axis_name='devices')
      for compute in (apply_both, modules.normalize_convolution)
    )
    params, state = make(apply_both, *shape).init(
      jax.random.PRNGKey(0), images[0]
    )
    vary = lambda x: x + jnp.cos(jnp.arange(x.size)).reshape(x.shape) / 4
    params, state = jax.tree.map(vary, params), state
    expected, found = (
      jax.jit(
        jax.vmap(
          functools.partial(differentiate, network, params, state),
          axis_name='devices',
        )
      )(images)
      for network in (plain, folded)
    )
  for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    assert x.dtype in (np.float64, np.int32)
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
  'shape, is_training, reads',
  [
    *((shape, True, shape in FOLDED) for shape in FOLDED + APART),
    (FOLDED[0], False, False),
  ],
)
def test_what_is_folded(monkeypatch, shape, is_training, reads):
  """In training, of 1x1 convolutions with no more inputs than outputs."""
  calls = []
  measure = modules.measure_moments
  monkeypatch.setattr(
    modules, 'measure_moments', lambda x: calls.append(x.shape) or measure(x)
  )
  inputs, channels, kernel = shape

  def network(x, is_training):
    conv = resnet.make_conv(channels, kernel, 2, 'conv')
    norm = modules.BatchNorm(decay=0.9, epsilon=1e-5)
    return modules.normalize_convolution(conv, norm, x, is_training)

  images = np.ones((2, 5, 5, inputs), np.float32)
  pure = hk.transform_with_state(network)
  params, state = pure.init(jax.random.PRNGKey(0), images, True)
  calls.clear()
  outputs, _ = pure.apply(params, state, None, images, is_training)
  assert outputs.shape == (2, 3, 3, channels)
  assert calls == [(2, 3, 3, inputs)] * reads


def test_sums_have_the_precision_of_parameters():
  """Neither 273 nor the products are numbers of bfloat16."""
  images = jnp.full((3, 7, 13, 2), 1 + 2**-7, jnp.bfloat16)
  mean, products = modules.measure_moments(images)
  assert (mean.dtype, products.dtype) == (np.float32, np.float32)
  # Some CPUs add the numbers one by one; a product in bfloat16 is off by 6e-5.
  near = functools.partial(np.testing.assert_allclose, rtol=273 * 2**-24)
  near(mean, np.full(2, 1 + 2**-7))
  near(products, np.full((2, 2), (1 + 2**-7) ** 2))
  biased = lambda bias: jnp.sum(
    modules.add_bias(images, bias).astype('float32')
  )
  change = jax.grad(biased)(jnp.zeros(2))
  assert change.dtype == np.float32
  np.testing.assert_array_equal(change, [273, 273])


@pytest.mark.parametrize(
  ('dtype', 'precision'),
  [(jnp.float32, 'HIGHEST, HIGHEST'), (jnp.bfloat16, 'DEFAULT, DEFAULT')],
)
def test_moments_of_float32_are_not_truncated(dtype, precision):
  """Where a GPU would compute the default in TensorFloat-32."""
  images = jnp.zeros((1, 2, 2, 8), dtype)
  program = jax.jit(modules.measure_moments).lower(images).as_text()
  (line,) = (x for x in program.splitlines() if 'dot_general' in x)
  assert f'precision = [{precision}]' in line


@pytest.mark.parametrize('num_images', [1, 2])
def test_equal_images_have_a_finite_norm(num_images):
  """Of outputs without a variance, whose rounding is far above epsilon."""
  network = make(modules.normalize_convolution, 2048, 1, 1)
  image = 10 * np.random.default_rng(0).random((1, 1, 1, 1024), np.float32)
  images = np.repeat(image, num_images, axis=0)
  params, state = network.init(jax.random.PRNGKey(0), images)
  outputs, after, grads = differentiate(network, params, state, images)
  # What 1 / sqrt(epsilon) makes of the rounding of numbers up to 30.
  np.testing.assert_allclose(
    outputs, np.zeros((num_images, 1, 1, 2048)), atol=0.05
  )
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
  assert (after['norm/~/var_ema']['average'] >= 0).all()


def test_rectify_is_relu():
  x = jnp.array([-2.0, -0.0, 0.0, 3.0])
  for function in (modules.rectify, jax.nn.relu):
    found, pull = jax.vjp(function, x)
    np.testing.assert_array_equal(found, [0, 0, 0, 3])
    np.testing.assert_array_equal(pull(jnp.ones(4))[0], [0, 0, 0, 1])
