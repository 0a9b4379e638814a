"""Tests the encoders against numpy in float64 and against Haiku's."""

import functools

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import modules, networks, resnet
from tests.helpers import tiny_run
from tests.helpers.gradients import with_gradients

MAKE_NORM = functools.partial(modules.BatchNorm, decay=0.9, epsilon=1e-5)


def same(size, kernel, stride):
  """(before, after): TensorFlow's padding puts the odd pixel at the end."""
  total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
  return total // 2, total - total // 2


def windows(x, kernel, stride, fill, padding='same'):
  pads = [same(size, kernel, stride) for size in x.shape[1:3]]
  if padding == 'torch':
    pads = [(kernel // 2, kernel // 2)] * 2
  x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
  view = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (1, 2))
  return view[:, ::stride, ::stride]


def conv(x, w, stride, padding='same'):
  x = windows(x, len(w), stride, 0, padding)
  return np.einsum('bhwcij,ijco->bhwo', x, w)


def relu(x):
  return np.maximum(x, 0)


def norm(x, p):
  mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
  return (x - mean) / np.sqrt(variance + 1e-5) * p['scale'] + p['offset']


def block(x, p, path, stride, bottleneck, version, padding='same'):
  convs = [(1, 0), (stride, 1), (1, 2)] if bottleneck else [(stride, 0), (1, 1)]
  shortcut = x
  if version == 1:
    if f'{path}/shortcut_conv' in p:
      shortcut = conv(x, p[f'{path}/shortcut_conv']['w'], stride)
      shortcut = norm(shortcut, p[f'{path}/shortcut_batchnorm'])
    for step, i in convs:
      x = conv(x, p[f'{path}/conv_{i}']['w'], step, padding)
      x = norm(x, p[f'{path}/batchnorm_{i}'])
      x = relu(x) if (step, i) != convs[-1] else x
    return relu(x + shortcut)
  for step, i in convs:
    x = relu(norm(x, p[f'{path}/batchnorm_{i}']))
    if i == 0 and f'{path}/shortcut_conv' in p:
      shortcut = conv(x, p[f'{path}/shortcut_conv']['w'], stride)
    x = conv(x, p[f'{path}/conv_{i}']['w'], step, padding)
  return x + shortcut


def apply_randomised(module, x):
  """Applies a module with random parameters, scales and offsets too.

  Returns the parameters in float64, and the output in training mode.
  """
  pure = hk.transform_with_state(lambda x: module()(x, is_training=True))
  generator = np.random.default_rng(0)
  params, state = jax.eval_shape(pure.init, jax.random.PRNGKey(0), x)
  params = jax.tree.map(
    lambda p: np.float32(generator.normal(0.3, 0.5, p.shape)), params
  )
  state = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), state)
  output, _ = jax.jit(pure.apply)(params, state, None, x)
  return jax.tree.map(np.float64, params), output


@pytest.mark.parametrize('version', [1, 2])
@pytest.mark.parametrize('bottleneck', [True, False])
def test_block_against_numpy(version, bottleneck):
  """The bottleneck with a projection; other blocks are in the tests below."""
  x = np.random.default_rng(1).normal(size=(3, 6, 7, 8)).astype(np.float32)
  settings = {'version': version, 'bottleneck': bottleneck, 'last_gamma': 1.0}
  settings |= {'make_norm': MAKE_NORM, 'name': 'block', 'project': bottleneck}
  settings |= {'padding': 'same'}
  p, actual = apply_randomised(lambda: resnet.Block(8, 1, **settings), x)
  expected = block(np.float64(x), p, 'block/~', 1, bottleneck, version)
  assert actual.shape == expected.shape
  # Three layers of sums of 72 products.
  np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize('version', [1, 2])
def test_bottleneck_blocks_equal_those_of_the_official_network(version):
  """Haiku's, with the same parameters: two training passes, an evaluation."""
  norm = {'decay_rate': 0.9, 'eps': 1e-5}
  settings = {'version': version, 'last_gamma': 1.0, 'bottleneck': True}
  settings |= {'make_norm': MAKE_NORM}
  settings |= {'padding': 'same'}
  ours = lambda x, is_training: resnet.BlockGroup(
    *(16, 2, 2, 'group'), **settings
  )(x, is_training)
  theirs = lambda x, is_training: hk.nets.ResNet.BlockGroup(
    *(16, 2, 2, norm, version == 2, True, True), name='group'
  )(x, is_training, False)
  generator = np.random.default_rng(0)
  x = generator.normal(size=(4, 9, 8, 8)).astype(np.float32)
  results = []
  for group in (ours, theirs):
    pure = hk.transform_with_state(group)
    params, state = jax.eval_shape(
      functools.partial(pure.init, is_training=True), jax.random.PRNGKey(0), x
    )
    results.append([params, state])
    generator = np.random.default_rng(1)
    params = jax.tree.map(
      lambda p, g=generator: np.float32(g.normal(0.3, 0.5, p.shape)), params
    )
    state = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), state)
    apply = jax.jit(pure.apply, static_argnums=4)
    for images, is_training in ((x, True), (x + 1, True), (x, False)):
      y, state = apply(params, state, None, images, is_training)
      results[-1] += [y, state]
  assert results[0][:2] == results[1][:2]  # names, shapes and dtypes
  # Six convolutions of sums of at most 36 products, in another fusion.
  chex.assert_trees_all_close(
    *(found[2:] for found in results), rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize(
  'stem, padding, version',
  [  # every pair of two values
    *(('imagenet', 'same', 1), ('imagenet', 'torch', 2)),
    *(('small', 'same', 2), ('small', 'torch', 1)),
    *(('small_stride2', 'same', 1), ('small_stride2', 'torch', 2)),
  ],
)
def test_whole_torso_against_numpy(stem, padding, version):
  settings = {'width': 1, 'version': version, 'gamma_init': 'ones'}
  settings |= {'stem': stem, 'make_norm': MAKE_NORM, 'padding': padding}
  # One odd and one even side: TensorFlow's padding differs.
  size = 37 if stem == 'imagenet' else 17
  x = np.random.default_rng(2).normal(size=(3, size, size + 3, 3))
  p, actual = apply_randomised(
    lambda: resnet.ResNet('TinyResNet', **settings), x.astype(np.float32)
  )
  root, stride = 'tiny_res_net/~', 1 if stem == 'small' else 2
  y = conv(np.float64(x), p[f'{root}/initial_conv']['w'], stride, padding)
  if version == 1:
    y = relu(norm(y, p[f'{root}/initial_batchnorm']))
  if stem == 'imagenet':
    y = windows(y, 3, 2, -np.inf, padding).max((-1, -2))
  for i in range(4):
    path = f'{root}/block_group_{i}/~/block_0/~'
    step = 1 if i == 0 else 2
    y = block(y, p, path, step, False, version, padding)
  if version == 2:
    y = relu(norm(y, p[f'{root}/final_batchnorm']))
  # Ten layers; batch norm of few pixels amplifies roundings.
  np.testing.assert_allclose(actual, y.mean((1, 2)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('width', [0.25, 3])
def test_width_multiplies_every_channel_but_the_colours(width):
  def shapes(width):
    forward = tiny_run.make_forward(encoder='ResNet18', width=width)
    params, _ = tiny_run.shapes_of(forward)
    return {m: x for m, x in params.items() if m.startswith('res_net18/')}

  one, wide = shapes(1), shapes(width)
  assert one.keys() == wide.keys()
  for module, leaves in one.items():
    for name, x in leaves.items():
      expected = list(x.shape)
      expected[3] *= width
      if name == 'w' and 'initial_conv' not in module:
        expected[2] *= width
      assert list(wide[module][name].shape) == expected, module


@pytest.mark.parametrize(
  'encoder, version, gamma_init',
  [
    *((name, v, 'zeros') for name in ('ResNet18', 'ResNet50') for v in (1, 2)),
    ('ResNet18', 1, 'ones'),
  ],
)
def test_gamma_init_is_that_of_the_last_norm_of_each_block(
  encoder, version, gamma_init
):
  last = {'ResNet18': 1, 'ResNet50': 2}[encoder]
  gamma = {'ones': 1, 'zeros': 0}[gamma_init]
  forward = tiny_run.make_forward(
    encoder=encoder, version=version, gamma_init=gamma_init, width=1 / 64
  )

  def init_norms(key):  # the compiler leaves the rest out
    params, _ = forward.init(key, jnp.ones((2, 8, 8, 3)), True)
    return {m: leaves for m, leaves in params.items() if 'scale' in leaves}

  norms = jax.jit(init_norms)(jax.random.PRNGKey(0))
  blocks = sum(resnet.ENCODERS[encoder].blocks)
  assert sum(m.endswith(f'/batchnorm_{last}') for m in norms) == blocks
  for module, leaves in norms.items():
    is_last = module.endswith(f'/batchnorm_{last}')
    assert np.all(leaves['scale'] == (gamma if is_last else 1)), module
    assert not np.any(leaves['offset'])


def test_weights_are_truncated_normals_of_the_fan_in():
  def forward(images):
    y = resnet.make_conv(64, 3, 1, 'conv')(images)
    head = networks.MLP((256, 64), 'batch', MAKE_NORM, 'projector')
    return head(y[:, 0, 0], True)

  init = jax.jit(hk.transform_with_state(forward).init)
  params, _ = init(jax.random.PRNGKey(0), jnp.ones((2, 2, 2, 32)))
  checked = 0
  for module, leaves in params.items():
    assert not np.any(leaves.get('b', 0))
    if 'w' not in leaves:
      continue
    w = np.asarray(leaves['w'])
    sigma = 1 / np.sqrt(np.prod(w.shape[:-1]))
    # Cut at two sigma and not rescaled: 0.880 of it remains (method.md 2.4).
    assert np.abs(w).max() <= 2 * sigma * (1 + 1e-6), module
    assert abs(w.std() / sigma - 0.880) < 0.02, module
    assert abs(w.mean()) < 0.05 * sigma
    checked += 1
  assert checked == 3


@pytest.mark.parametrize('platform', ('cpu', 'tpu', 'cuda'))
def test_a_platform_pools_by_windows_or_lines(platform):
  """A GPU by lines, a CPU the gradient alone, a TPU neither."""
  pool = functools.partial(resnet.max_pool, padding='SAME')
  traced = jax.jit(functools.partial(with_gradients, pool)).trace(
    jnp.zeros((1, 4, 4, 1))
  )
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert ('stablehlo.reduce_window' in text) == (platform != 'cuda')
  assert ('stablehlo.select_and_scatter' in text) == (platform == 'tpu')


@pytest.mark.parametrize('padding', resnet.PADDINGS)
@pytest.mark.parametrize('size', ((5, 6), (4, 7)), ids=str)
def test_pools_equal_that_of_windows(size, padding):
  """Also where pixels are equal, as after a ReLU: the first gets all."""
  drawn = np.random.default_rng(0).normal(size=(2, *size, 3))
  images = jnp.maximum(0, jnp.round(drawn * 2))
  window, pads = ((1, 3, 3, 1), (1, 2, 2, 1)), resnet.POOL_PADDING
  if padding == 'same':
    pads = jax.lax.padtype_to_pads(images.shape, *window, 'SAME')
  pool_windows = lambda x: jax.lax.reduce_window(
    *(x, -jnp.inf, jax.lax.max, *window, pads)
  )
  pools = (
    pool_windows,
    functools.partial(resnet.max_pool, padding=pads),
    functools.partial(resnet.pool_by_lines, pads),
  )
  expected, *found = jax.jit(
    lambda images: [with_gradients(pool, images) for pool in pools]
  )(images)
  for x, y, exact in zip(*found, expected, strict=True):
    np.testing.assert_allclose(x, exact, rtol=0, atol=1e-6)  # order of a sum
    np.testing.assert_allclose(y, exact, rtol=0, atol=1e-6)


def test_a_pool_of_no_images_has_a_gradient():
  pool = functools.partial(resnet.max_pool, padding='SAME')
  outputs, gradient = with_gradients(pool, jnp.zeros((0, 4, 4, 3)))
  assert outputs.shape == (0, 2, 2, 3)
  assert gradient.shape == (0, 4, 4, 3)
