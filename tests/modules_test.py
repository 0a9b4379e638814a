"""The forms for CPUs equal the plain ones, and no other platform gets them."""

import functools
import re

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import modules, resnet
from tests.helpers.gradients import with_gradients

# Kernel, stride, height, width: each form, odd and even sizes, one pixel.
SHAPES = [
  *((1, 1, 5, 4), (1, 2, 5, 4), (3, 1, 2, 2), (3, 2, 4, 3), (3, 2, 3, 2)),
  *((3, 1, 1, 1), (7, 2, 4, 4), (3, 1, 1, 4), (3, 1, 5, 4)),
]
# Both paddings of the other shapes are the same pixels.
DIFFERING = [shape for shape in SHAPES if shape[0] > 1 and shape[1] > 1]


def plain_convolution(images, weights, stride, padding):
  return jax.lax.conv_general_dilated(
    *(images, weights, (stride, stride), padding),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def draw_arrays(kernel, height, width):
  rng = np.random.default_rng(0)
  images = rng.normal(size=(3, height, width, 6))
  return images, rng.normal(size=(kernel, kernel, 6, 5))


@pytest.mark.parametrize(
  'shape, padding',
  [*((x, 'same') for x in SHAPES), *((x, 'torch') for x in DIFFERING)],
  ids=str,
)
def test_a_convolution_equals_the_plain_one(shape, padding):
  kernel, stride, *size = shape
  pads = {'same': 'SAME', 'torch': [(kernel // 2, kernel // 2)] * 2}[padding]
  arrays = draw_arrays(kernel, *size)
  ours = functools.partial(modules.convolve, stride=stride, padding=pads)
  plain = functools.partial(plain_convolution, stride=stride, padding=pads)
  singles = [x.astype(np.float32) for x in arrays]
  with jax.enable_x64(True):
    exact, found, *rounded = jax.jit(
      lambda arrays, singles: [
        *(with_gradients(function, *arrays) for function in (plain, ours)),
        *(with_gradients(function, *singles) for function in (ours, plain)),
      ]
    )(arrays, singles)
  exact = [np.asarray(x) for x in exact]
  for x, y in zip(found, exact, strict=True):
    assert x.dtype == y.dtype == jnp.float64
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)
  assert all(x.dtype == jnp.float32 for results in rounded for x in results)
  errors = [
    [np.abs(np.asarray(x) - y).max() for x, y in zip(results, exact)]
    for results in rounded
  ]
  # Sums in another order: at most twice as far off, or a last bit of a sum.
  for error, plain_error in zip(*errors, strict=True):
    assert error <= max(2 * plain_error, 2e-6)


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
      modules, 'choose_form', lambda plain, *, tpu, **others: tpu
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


@pytest.mark.parametrize('kernel', (1, 3))
def test_vmap_and_other_platforms(kernel):
  """The platform of the program counts, not the host it is lowered on."""
  images, weights = (x.astype(np.float32) for x in draw_arrays(kernel, 4, 4))

  ours = functools.partial(modules.convolve, stride=1, padding='SAME')
  plain = functools.partial(plain_convolution, stride=1, padding='SAME')
  each = jax.jit(jax.vmap(ours, (0, None)))(images[:, None], weights)
  together = jax.jit(ours)(images, weights)
  np.testing.assert_allclose(each[:, 0], together, atol=1e-5)

  def operations(function, platform):
    differentiated = jax.jit(functools.partial(with_gradients, function))
    traced = differentiated.trace(images, weights)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    # The compiler removes a choice among one.
    around = {'case', 'return', 'constant'}
    words = re.findall(r'stablehlo\.(\w+)', text)
    return sorted(word for word in words if word not in around)

  for platform in ('tpu', 'cuda'):
    assert operations(ours, platform) == operations(plain, platform)
  expected = {1: 0, 3: 2}[kernel]  # the one, and the gradient of its images
  assert operations(ours, 'cpu').count('convolution') == expected


@pytest.mark.parametrize('most, images_of_a_part', [(1, 1), (2, 2), (4, 3)])
@pytest.mark.parametrize('shape', [(3, 1, 5, 4), (7, 2, 8, 9)], ids=str)
def test_a_cpu_sums_the_gradient_of_weights_over_parts_of_the_batch(
  shape, most, images_of_a_part, monkeypatch
):
  """Of 6 images; parts are equal, of `most` images at most."""
  kernel, stride, *size = shape
  images, weights = draw_arrays(kernel, *size)
  images = np.concatenate([images, 2 * images])
  columns = weights[..., 0].size * np.prod([-(-x // stride) for x in size])
  monkeypatch.setattr(modules, 'MAX_PART_SIZE', columns * most)

  def find_gradients(convolve):
    function = functools.partial(convolve, stride=stride, padding='SAME')
    both = jax.jit(functools.partial(with_gradients, function))
    return both.lower(images, weights).as_text(), both(images, weights)

  with jax.enable_x64(True):
    (text, found), (_, expected) = map(
      find_gradients, (modules.convolve, plain_convolution)
    )
  parts = 6 // images_of_a_part
  assert f'{parts}x{images_of_a_part}x{size[0]}x{size[1]}x6xf64' in text
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)


def test_images_are_kept_for_the_gradient_of_weights_on_a_cpu():
  """The loop that transposes them would compute them again."""
  images, weights = draw_arrays(3, 8, 8)

  def find_loss(convolve, scale, weights):
    return jnp.sum(convolve(jnp.sin(scale * images), weights, 1, 'SAME') ** 2)

  def compile_gradient(convolve):
    gradient = jax.jit(jax.grad(functools.partial(find_loss, convolve), 1))
    found = gradient(1.0, weights)
    return gradient.lower(1.0, weights).compile().as_text(), found

  (text, found), (plain, expected) = map(
    compile_gradient, (modules.convolve, plain_convolution)
  )
  assert text.count(' sine(') == 1 < plain.count(' sine(')
  # The sum has another order.
  largest = np.abs(expected).max()
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize('first', (1, np.inf, np.nan))
def test_what_is_kept_is_lost_with_the_other(first):
  other = jnp.asarray([[first, np.nan]])
  kept = jax.jit(modules.keep)(jnp.arange(3.0), other)
  expected = np.arange(3) if first == 1 else [np.nan] * 3
  np.testing.assert_array_equal(kept, expected)
