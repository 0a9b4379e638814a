"""Tests of `byol_jax.folding`."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import folding, modules, resnet

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
    return folding.rectify(compute(conv, norm, x, True))

  return hk.transform_with_state(network)


def apply_both(convolution, norm, images, is_training):
  return norm(convolution(images), is_training)


def differentiate(network, params, state, images):
  """Outputs, new state, and the gradients of parameters and images."""

  def loss(params, images):
    outputs, after = network.apply(params, state, None, images)
    weigh = jnp.cos(jnp.arange(outputs.size)).reshape(outputs.shape)
    return jnp.sum(weigh * outputs), (outputs, after)

  grads, results = jax.grad(loss, (0, 1), has_aux=True)(params, images)
  return *results, grads


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('inputs, channels, kernel', FOLDED)
def test_a_folded_norm_is_the_norm(inputs, channels, kernel, stride):
  """On two devices, in float64: outputs, averages and all gradients."""
  images = np.random.default_rng(0).normal(size=(2, 3, 4, 4, inputs)) + 1
  shape = channels, kernel, stride
  with jax.enable_x64(True):
    plain, folded = (
      make(compute, *shape, axis_name='devices')
      for compute in (apply_both, folding.normalize_convolution)
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
  measure = folding.measure_moments
  monkeypatch.setattr(
    folding, 'measure_moments', lambda x: calls.append(x.shape) or measure(x)
  )
  inputs, channels, kernel = shape

  def network(x, is_training):
    conv = resnet.make_conv(channels, kernel, 2, 'conv')
    norm = modules.BatchNorm(decay=0.9, epsilon=1e-5)
    return folding.normalize_convolution(conv, norm, x, is_training)

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
  mean, products = folding.measure_moments(images)
  assert (mean.dtype, products.dtype) == (np.float32, np.float32)
  # Some CPUs add the numbers one by one; a product in bfloat16 is off by 6e-5.
  near = functools.partial(np.testing.assert_allclose, rtol=273 * 2**-24)
  near(mean, np.full(2, 1 + 2**-7))
  near(products, np.full((2, 2), (1 + 2**-7) ** 2))
  biased = lambda bias: jnp.sum(
    folding.add_bias(images, bias).astype('float32')
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
  program = jax.jit(folding.measure_moments).lower(images).as_text()
  (line,) = (x for x in program.splitlines() if 'dot_general' in x)
  assert f'precision = [{precision}]' in line


@pytest.mark.parametrize('num_images', [1, 2])
def test_equal_images_have_a_finite_norm(num_images):
  """Of outputs without a variance, whose rounding is far above epsilon."""
  network = make(folding.normalize_convolution, 2048, 1, 1)
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
  for function in (folding.rectify, jax.nn.relu):
    found, pull = jax.vjp(function, x)
    np.testing.assert_array_equal(found, [0, 0, 0, 3])
    np.testing.assert_array_equal(pull(jnp.ones(4))[0], [0, 0, 0, 1])
