"""Tests the encoders against a numpy reference in float64."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import networks, resnet
from tests.helpers import tiny_run

MAKE_NORM = functools.partial(
  hk.BatchNorm, create_scale=True, create_offset=True, decay_rate=0.9
)


def same(size, kernel, stride):
  """(before, after): TensorFlow's padding puts the odd pixel at the end."""
  total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
  return total // 2, total - total // 2


def windows(x, kernel, stride, fill):
  pads = [same(size, kernel, stride) for size in x.shape[1:3]]
  x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
  view = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (1, 2))
  return view[:, ::stride, ::stride]


def conv(x, w, stride):
  return np.einsum('bhwcij,ijco->bhwo', windows(x, len(w), stride, 0), w)


def relu(x):
  return np.maximum(x, 0)


def norm(x, p):
  mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
  return (x - mean) / np.sqrt(variance + 1e-5) * p['scale'] + p['offset']


def block(x, p, path, stride, bottleneck, version):
  convs = [(1, 0), (stride, 1), (1, 2)] if bottleneck else [(stride, 0), (1, 1)]
  shortcut = x
  if version == 1:
    if f'{path}/shortcut_conv' in p:
      shortcut = conv(x, p[f'{path}/shortcut_conv']['w'], stride)
      shortcut = norm(shortcut, p[f'{path}/shortcut_batchnorm'])
    for step, i in convs:
      x = conv(x, p[f'{path}/conv_{i}']['w'], step)
      x = norm(x, p[f'{path}/batchnorm_{i}'])
      x = relu(x) if (step, i) != convs[-1] else x
    return relu(x + shortcut)
  for step, i in convs:
    x = relu(norm(x, p[f'{path}/batchnorm_{i}']))
    if i == 0 and f'{path}/shortcut_conv' in p:
      shortcut = conv(x, p[f'{path}/shortcut_conv']['w'], stride)
    x = conv(x, p[f'{path}/conv_{i}']['w'], step)
  return x + shortcut


def randomised(params, seed=0):
  """Float32 values, scales and offsets too."""
  generator = np.random.default_rng(seed)
  leaves, structure = jax.tree.flatten(params)
  values = [generator.normal(0.3, 0.5, x.shape) for x in leaves]
  return jax.tree.unflatten(structure, [v.astype(np.float32) for v in values])


def zeros(state):
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)


def as_float64(params):
  return jax.tree.map(np.float64, params)


@pytest.mark.parametrize('version', [1, 2])
@pytest.mark.parametrize('bottleneck', [True, False])
@pytest.mark.parametrize('stride, project', [(1, False), (1, True), (2, True)])
def test_block_against_numpy(version, bottleneck, stride, project):
  def forward(x):
    settings = {'version': version, 'bottleneck': bottleneck, 'last_gamma': 1.0}
    settings |= {'make_norm': MAKE_NORM, 'name': 'block', 'project': project}
    return resnet.Block(8, stride, **settings)(x, is_training=True)

  pure = hk.transform_with_state(forward)
  x = np.random.default_rng(1).normal(size=(3, 6, 7, 8)).astype(np.float32)
  params, state = jax.eval_shape(pure.init, jax.random.PRNGKey(0), x)
  params, state = randomised(params), zeros(state)
  actual, _ = jax.jit(pure.apply)(params, state, None, x)
  expected = block(
    np.float64(x), as_float64(params), 'block/~', stride, bottleneck, version
  )
  assert actual.shape == expected.shape
  # Three layers of sums of 72 products.
  np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize('version', [1, 2])
@pytest.mark.parametrize('stem', list(resnet.STEMS))
def test_whole_torso_against_numpy(version, stem):
  def forward(images):
    torso = resnet.ResNet(
      'TinyResNet',
      width=1,
      version=version,
      gamma_init='ones',
      stem=stem,
      make_norm=MAKE_NORM,
    )
    return torso(images, is_training=True)

  pure = hk.transform_with_state(forward)
  # One odd and one even side: TensorFlow's padding differs.
  size = 37 if stem == 'imagenet' else 17
  x = np.random.default_rng(2).normal(size=(3, size, size + 3, 3))
  x = x.astype(np.float32)
  params, state = jax.eval_shape(pure.init, jax.random.PRNGKey(0), x)
  params, state = randomised(params), zeros(state)
  actual, _ = jax.jit(pure.apply)(params, state, None, x)
  p, root = as_float64(params), 'tiny_res_net/~'
  y = conv(
    np.float64(x), p[f'{root}/initial_conv']['w'], 1 if stem == 'small' else 2
  )
  if version == 1:
    y = relu(norm(y, p[f'{root}/initial_batchnorm']))
  if stem == 'imagenet':
    y = windows(y, 3, 2, -np.inf).max((-1, -2))
  for i in range(4):
    path = f'{root}/block_group_{i}/~/block_0/~'
    y = block(y, p, path, 1 if i == 0 else 2, False, version)
  if version == 2:
    y = relu(norm(y, p[f'{root}/final_batchnorm']))
  # Ten layers; batch norm of few pixels amplifies roundings.
  np.testing.assert_allclose(actual, y.mean((1, 2)), rtol=1e-3, atol=1e-3)


def encoder_shapes(**network):
  """{module: {leaf: shape}} of the encoder."""
  network |= {'num_classes': None, 'predictor': ()}
  params, _ = tiny_run.shapes_of(tiny_run.make_forward(**network))
  return {
    module: leaves
    for module, leaves in params.items()
    if not module.startswith('projector/')
  }


def test_resnet18_projects_the_shortcut_of_its_first_group_too():
  shapes = encoder_shapes(encoder='ResNet18', stem='imagenet')
  # torchvision's does not and has 4,224 parameters fewer (method.md 2.1).
  assert sum(x.size for x in jax.tree.leaves(shapes)) == 11_180_736


@pytest.mark.parametrize('width', [0.25, 3])
@pytest.mark.parametrize('encoder', ['ResNet18', 'ResNet50'])
def test_width_multiplies_every_channel_but_the_colours(encoder, width):
  one = encoder_shapes(encoder=encoder)
  wide = encoder_shapes(encoder=encoder, width=width)
  assert one.keys() == wide.keys()
  for module, leaves in one.items():
    for name, x in leaves.items():
      expected = list(x.shape)
      expected[3] *= width
      if name == 'w' and 'initial_conv' not in module:
        expected[2] *= width
      assert list(wide[module][name].shape) == expected, module


@pytest.mark.parametrize('bottleneck', [True, False])
@pytest.mark.parametrize('version', [1, 2])
@pytest.mark.parametrize('gamma', [1.0, 0.0])
def test_gamma_init_is_that_of_the_last_norm(bottleneck, version, gamma):
  def forward(x):
    settings = {'version': version, 'bottleneck': bottleneck, 'name': 'group'}
    settings |= {'last_gamma': gamma, 'make_norm': MAKE_NORM}
    return resnet.BlockGroup(8, 2, 1, **settings)(x, is_training=True)

  init = jax.jit(hk.transform_with_state(forward).init)
  params, _ = init(jax.random.PRNGKey(0), jnp.ones((2, 3, 3, 8)))
  norms = {m: leaves for m, leaves in params.items() if 'scale' in leaves}
  last = '/batchnorm_2' if bottleneck else '/batchnorm_1'
  assert sum(module.endswith(last) for module in norms) == 2
  for module, leaves in norms.items():
    expected = gamma if module.endswith(last) else 1
    assert np.all(leaves['scale'] == expected), module
    assert not np.any(leaves['offset'])


def test_gamma_init_is_passed_on(monkeypatch):
  seen = []
  real = resnet.BlockGroup.__init__

  def record(self, *args, last_gamma, **kwargs):
    seen.append(last_gamma)
    real(self, *args, last_gamma=last_gamma, **kwargs)

  monkeypatch.setattr(resnet.BlockGroup, '__init__', record)
  for gamma_init, expected in (('ones', 1.0), ('zeros', 0.0)):
    seen.clear()
    tiny_run.shapes_of(tiny_run.make_forward(gamma_init=gamma_init))
    assert seen and set(seen) == {expected}


def test_weights_are_truncated_normals_of_the_fan_in():
  def forward(images):
    y = resnet.conv(64, 3, 1, 'conv')(images)
    return networks.MLP((256, 64), MAKE_NORM, 'projector')(y[:, 0, 0], True)

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
