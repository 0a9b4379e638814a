"""Batch norm of views, blocks of pixels and parameters equal references."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import convolution, modules, resnet
from tests.helpers.gradients import with_gradients


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
