"""Tests the network: names, sizes, heads, normalisation, batch norm."""

import collections
import functools

import haiku as hk
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byol_jax import modules, networks, resnet
from tests.helpers import tiny_run

# method.md 2.1, 2.5, 9.3: encoder, width, name, blocks per group, parameters of
# the encoder. torchvision's ResNet18 and 34 do not project the shortcut of
# their first group: 4,224 fewer. The last two are summed by hand.
SIZES = [
  ('ResNet18', 1, 'res_net18', (2, 2, 2, 2), 11_180_736),
  ('ResNet34', 1, 'res_net34', (3, 4, 6, 3), 21_288_896),
  ('ResNet50', 1, 'res_net50', (3, 4, 6, 3), 23_508_032),
  ('ResNet50', 2, 'res_net50', (3, 4, 6, 3), 93_907_072),
  ('ResNet50', 3, 'res_net50', (3, 4, 6, 3), 211_197_120),
  ('ResNet50', 4, 'res_net50', (3, 4, 6, 3), 375_378_176),
  ('ResNet101', 1, 'res_net101', (3, 4, 23, 3), 42_500_160),
  ('ResNet152', 1, 'res_net152', (3, 8, 36, 3), 58_143_808),
  ('ResNet200', 2, 'res_net200', (3, 24, 36, 3), 250_128_512),
  ('TinyResNet', 1, 'tiny_res_net', (1, 1, 1, 1), 19_072),
  ('MiniResNet', 1, 'mini_res_net', (1, 1, 1), 79_600),
]
KEY = jax.random.PRNGKey(0)
EMAS = ('mean_ema', 'var_ema')


def images(count=6, size=8, seed=0):
  return tiny_run.make_batch(seed, batch_size=count, size=size)['view1']


def paper_shapes(**network):
  """Parameters and states, as shapes, of a network with the paper's heads."""
  forward = tiny_run.make_forward(**tiny_run.PAPER_HEADS | network)
  return tiny_run.shapes_of(forward)


@pytest.mark.parametrize('encoder, width, name, blocks, size', SIZES)
def test_names_blocks_and_parameter_counts(encoder, width, name, blocks, size):
  params, _ = paper_shapes(encoder=encoder, width=width)
  for i, count in enumerate(blocks):
    group = f'{name}/~/block_group_{i}/'
    assert sum(m.startswith(group) and 'conv_0' in m for m in params) == count
  counts = collections.Counter()
  for module, leaves in params.items():
    counts[module.split('/')[0]] += sum(x.size for x in leaves.values())
  assert counts.keys() == {name, 'projector', 'predictor', 'classifier'}
  dim = params['projector/linear']['w'].shape[0]
  assert counts['projector'] == (dim + 259) * 4096
  assert counts['predictor'] == 2_109_440
  assert counts['classifier'] == (dim + 1) * 1000
  assert counts[name] == size


def f32(*shape):
  return (shape, 'float32')


def norm_of(*shape):
  return {'scale': f32(*shape), 'offset': f32(*shape)}


def block_params(path, inputs, outputs, *, first, version):
  inner = outputs // 4
  yield f'{path}/~/conv_0', {'w': f32(1, 1, inputs, inner)}
  yield f'{path}/~/conv_1', {'w': f32(3, 3, inner, inner)}
  yield f'{path}/~/conv_2', {'w': f32(1, 1, inner, outputs)}
  # v1 normalises the output of a convolution, v2 its input.
  sizes = (inner, inner, outputs) if version == 1 else (inputs, inner, inner)
  for i, size in enumerate(sizes):
    yield f'{path}/~/batchnorm_{i}', norm_of(1, 1, 1, size)
  if first:
    yield f'{path}/~/shortcut_conv', {'w': f32(1, 1, inputs, outputs)}
    if version == 1:
      yield f'{path}/~/shortcut_batchnorm', norm_of(1, 1, 1, outputs)


def resnet50_params(version):
  name, inputs = 'res_net50/~', 64
  yield f'{name}/initial_conv', {'w': f32(7, 7, 3, 64)}
  if version == 1:
    yield f'{name}/initial_batchnorm', norm_of(1, 1, 1, 64)
  else:
    yield f'{name}/final_batchnorm', norm_of(1, 1, 1, 2048)
  for i, (blocks, outputs) in enumerate(
    [(3, 256), (4, 512), (6, 1024), (3, 2048)]
  ):
    for j in range(blocks):
      path, first = f'{name}/block_group_{i}/~/block_{j}', j == 0
      yield from block_params(
        path, inputs, outputs, first=first, version=version
      )
      inputs = outputs
  for head, inputs in (('projector', 2048), ('predictor', 256)):
    yield f'{head}/linear', {'w': f32(inputs, 4096), 'b': f32(4096)}
    yield f'{head}/batch_norm', norm_of(1, 4096)
    yield f'{head}/linear_1', {'w': f32(4096, 256)}
  yield 'classifier', {'w': f32(2048, 1000), 'b': f32(1000)}


@pytest.mark.parametrize('version', [1, 2])
def test_names_and_shapes_of_resnet50_are_those_published(version):
  params, state = jax.tree.map(
    lambda x: (x.shape, x.dtype.name),
    paper_shapes(encoder='ResNet50', version=version),
  )
  expected = dict(resnet50_params(version))
  assert params == expected
  assert state == {
    f'{module}/~/{moment}': {'counter': ((), 'int32')}
    | dict.fromkeys(('hidden', 'average'), leaves['scale'])
    for module, leaves in expected.items()
    if 'scale' in leaves
    for moment in ('mean_ema', 'var_ema')
  }
  if version == 1:
    assert (len(params), sum(map(len, params.values()))) == (113, 171)
    assert (len(state), sum(map(len, state.values()))) == (110, 330)


def normalize_by_hand(x, norm):
  """Of [B, D]: over the batch, the features, or 16 groups of them."""
  if norm == 'none':
    return x
  axis = 0 if norm == 'batch' else -1
  parts = x.reshape(len(x), 16, -1) if norm == 'group' else x
  parts = parts - parts.mean(axis, keepdims=True)
  variance = np.mean(parts**2, axis, keepdims=True)
  return (parts / np.sqrt(variance + 1e-5)).reshape(x.shape)


@pytest.mark.parametrize(
  'sizes, norm',
  [
    *(((5,), 'batch'), ((7, 5), 'batch'), ((7, 6, 5), 'batch')),
    *(((7, 6, 5), 'none'), ((7, 6, 5), 'layer'), ((64, 5), 'group')),
  ],
)
def test_heads_of_depth_one_to_three_against_numpy(sizes, norm):
  make_norm = functools.partial(modules.BatchNorm, decay=0.9, epsilon=1e-5)
  pure = hk.transform_with_state(
    lambda x: networks.MLP(sizes, norm, make_norm, 'projector')(x, True)
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
    w = np.float64(linear.pop('w'))
    if i < len(sizes) - 1:
      if norm == 'group':  # standardized
        w = (w - w.mean(0)) / (w.std(0) * np.sqrt(len(w)))
      y = normalize_by_hand(y @ w + linear.pop('b'), norm)
      if norm != 'none':  # 'norm' in the name: without decay and trust ratio
        learned = left.pop(f'projector/{norm}_norm{suffix}')
        y = y * np.ravel(learned['scale']) + np.ravel(learned['offset'])
      y = np.maximum(y, 0)
    else:
      y = y @ w
    assert not linear, 'no bias at the output'
  assert not left, 'neither norm nor ReLU at the output'
  np.testing.assert_allclose(actual, y, rtol=1e-3, atol=1e-4)
  assert (np.asarray(actual) < 0).any()


def test_initial_weights_have_a_variance_times_the_scale(monkeypatch):
  """Of convolutions and linear layers; nothing else changes."""

  def encode(self, x, is_training):
    x = resnet.make_conv(8, 3, 1, 'conv')(x)
    return hk.BatchNorm(True, True, 0.9)(x, is_training).mean((1, 2))

  monkeypatch.setattr(resnet.ResNet, '__call__', encode)
  forwards = [
    tiny_run.make_forward(projector=(), predictor=(4, 8), init_scale=scale)
    for scale in (1.0, 2.25)
  ]
  plain, scaled = jax.jit(
    lambda x: [forward.init(KEY, x, True)[0] for forward in forwards]
  )(images())
  assert {m.rpartition('/')[2] for m in plain} == {
    *('conv', 'batch_norm', 'linear', 'linear_1', 'classifier'),
  }
  for module, leaves in plain.items():
    for name, x in leaves.items():
      factor = 1.5 if name == 'w' else 1
      np.testing.assert_allclose(scaled[module][name], factor * x, rtol=1e-6)


def test_without_predictor_and_labels():
  forward = tiny_run.make_forward(predictor=(), num_classes=None)
  params, state = tiny_run.random_network(forward)
  outputs, _ = jax.jit(forward.apply, static_argnums=3)(
    params, state, images(), True
  )
  np.testing.assert_array_equal(outputs.prediction, outputs.projection)
  assert outputs.logits is None
  parts = {module.split('/')[0] for module in params}
  assert parts == {'tiny_res_net', 'projector'}


def test_images_are_normalised_inside(monkeypatch):
  seen = []
  encode = lambda self, x, is_training: (seen.append(x), x[:, 0, 0])[1]
  monkeypatch.setattr(resnet.ResNet, '__call__', encode)
  forward = tiny_run.make_forward(projector=(8,), predictor=())
  forward.init(KEY, images(), True)
  mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
  expected = (np.float64(images()) - mean) / std
  np.testing.assert_allclose(seen[-1], expected, atol=1e-5)


@pytest.fixture(scope='module')
def trained():
  """(forward, its apply compiled, parameters, states after 0 to 3 batches)."""
  forward = tiny_run.make_forward()
  apply = jax.jit(forward.apply, static_argnums=3)
  params, state = tiny_run.random_network(forward)
  states = [state]
  for seed in range(3):
    states.append(apply(params, states[-1], images(seed=seed), True)[1])
  return forward, apply, params, states


def test_representations_do_not_depend_on_the_rest_of_the_batch(trained):
  forward, apply, params, states = trained
  represent = jax.jit(functools.partial(networks.represent, forward))
  together = represent(params, states[-1], images(seed=9))
  alone = represent(params, states[-1], images(seed=9)[:1])
  np.testing.assert_allclose(together[:1], alone, atol=1e-5)
  outputs, after = apply(params, states[-1], images(seed=9), False)
  np.testing.assert_allclose(together, outputs.representation, atol=1e-5)
  assert [x.shape for x in outputs] == [(6, 8), (6, 8), (6, 8), (6, 10)]
  assert all(x.dtype == jnp.float32 for x in outputs)
  jax.tree.map(np.testing.assert_array_equal, after, states[-1])


def test_moving_averages_are_debiased_and_biased_variance(trained):
  _, _, params, states = trained
  kernel = np.float64(params['tiny_res_net/~/initial_conv']['w'])
  moments = []
  for seed in range(2):
    x = np.float64(networks.normalize(images(seed=seed)))
    x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    view = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    y = np.einsum('bhwcij,ijco->bhwo', view, kernel)
    moments.append((y.mean((0, 1, 2)), y.var((0, 1, 2))))
  for i, name in enumerate(EMAS):
    ema = states[2][f'tiny_res_net/~/initial_batchnorm/~/{name}']
    hidden = 0.9 * 0.1 * moments[0][i] + 0.1 * moments[1][i]
    assert ema['counter'] == 2
    np.testing.assert_allclose(np.ravel(ema['hidden']), hidden, atol=1e-6)
    # 1 - 0.9 ** 2 = 0.19.
    np.testing.assert_allclose(
      np.ravel(ema['average']), hidden / 0.19, rtol=1e-4, atol=1e-6
    )


def differentiate(apply, params, state, views):
  """Gradients of a weighted sum of all outputs, outputs and new state."""

  def loss(params):
    outputs, after = apply(params, state, views, True)
    weigh = lambda x: jnp.sum(x * jnp.cos(jnp.arange(x.size)).reshape(x.shape))
    return sum(weigh(x) for x in outputs), (outputs, after)

  grads, results = jax.grad(loss, has_aux=True)(params)
  return jax.lax.pmean(grads, 'devices'), *results


@pytest.mark.jobs
def test_forms_of_two_views_are_two_passes():
  """ResNet-50 on two devices: in float64, and no form rounds much more."""
  network = {'encoder': 'ResNet50', 'stem': 'imagenet', 'width': 0.25}
  make = functools.partial(tiny_run.make_forward, **network)
  state = tiny_run.random_network(make())
  views = np.stack([images(6, 64), 0.5 * images(6, 64, seed=1)])
  views = views.reshape(2, 2, 3, 64, 64, 3).swapaxes(0, 1)
  forms = [
    make(axis_name='devices', parts_in_channels=parts).apply
    for parts in range(3)
  ]
  of_a_gpu = {'one_pass': False, 'stem_of_blocks': True, 'fold_norms': True}
  forms.append(make(axis_name='devices', **of_a_gpu).apply)
  compute = jax.jit(
    lambda state, views: [
      jax.vmap(
        functools.partial(differentiate, apply, *state), axis_name='devices'
      )(views)
      for apply in (networks.apply_in_turn(forms[0]), *forms)
    ]
  )
  rounded = jax.tree.map(np.asarray, compute(state, views))
  with jax.enable_x64(True):
    exact = lambda x: x if x.dtype == np.int32 else np.float64(x)
    plain, *others = compute(*jax.tree.map(exact, (state, views)))
    plain = jax.tree.map(np.asarray, plain)
  for other in others:
    for x, y in zip(*map(jax.tree.leaves, (other, plain)), strict=True):
      assert x.dtype in (np.float64, np.int32)
      np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)
  distances = [
    optax.tree.norm(jax.tree.map(np.subtract, grads, plain[0]))
    for grads, *_ in rounded
  ]
  assert max(distances) <= 2 * distances[0]


def count_operations(jaxpr, name):
  """How many operations of a name the program has, in those inside too."""
  return sum(
    (name in equation.primitive.name)
    + sum(
      count_operations(inner, name)
      for inner in jax.extend.core.jaxprs_in_params(equation.params)
    )
    for equation in jaxpr.eqns
  )


def test_recomputed_blocks_are_the_same_function():
  """Their convolutions run twice, their sums over devices once."""
  make = functools.partial(tiny_run.make_forward, encoder='TinyResNet')
  network = tiny_run.random_network(make())
  views = np.stack([images(2), images(2, seed=1)])[None]
  results, programs = [], []
  with jax.enable_x64(True):
    exact = lambda x: x if x.dtype == np.int32 else np.float64(x)
    state, views = jax.tree.map(exact, (network, views))
    for recompute in (False, True):
      apply = make(axis_name='devices', recompute_blocks=recompute).apply
      compute = jax.jit(
        jax.vmap(
          functools.partial(differentiate, apply, *state), axis_name='devices'
        )
      )
      programs.append(jax.make_jaxpr(compute)(views).jaxpr)
      results.append(jax.tree.map(np.asarray, compute(views)))
  once, twice = (
    [count_operations(program, name) for name in ('conv_general', 'psum')]
    for program in programs
  )
  blocks = sum(resnet.ENCODERS['TinyResNet'].blocks)
  assert twice[0] >= once[0] + 2 * blocks
  assert twice[1] == once[1]
  for x, y in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)


def list_operands(jaxpr):
  """Dtypes of the operands of convolutions and matrix products."""
  for equation in jaxpr.eqns:
    if equation.primitive.name in ('conv_general_dilated', 'dot_general'):
      yield tuple(x.aval.dtype.name for x in equation.invars)
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from list_operands(inner)


@pytest.mark.parametrize('head_norm', ['batch', 'group'])
def test_bfloat16_is_of_operands_only(head_norm):
  forward = tiny_run.make_forward(head_norm=head_norm, precision='bfloat16')
  params, state = tiny_run.shapes_of(forward)

  def differentiate(params, state, x):
    def loss(params):
      outputs, after = forward.apply(params, state, x, True)
      return sum(jnp.sum(output) for output in outputs), (outputs, after)

    return jax.grad(loss, has_aux=True)(params)

  traced = jax.make_jaxpr(differentiate, return_shape=True)
  jaxpr, (grads, (outputs, after)) = traced(params, state, images())
  dtypes = lambda tree: jax.tree.map(lambda x: x.dtype.name, tree)
  assert dtypes((grads, after)) == dtypes((params, state))
  assert {*jax.tree.leaves(dtypes((params, outputs)))} == {'float32'}
  counts = collections.Counter(list_operands(jaxpr.jaxpr))
  # The classifier, forward and for its weights, sees what the encoder gives.
  assert counts.pop(('float32', 'float32')) == 2
  assert counts.keys() == {('bfloat16', 'bfloat16')}


def test_statistics_of_bfloat16_are_exact():
  norm = hk.transform_with_state(
    lambda x: modules.BatchNorm(decay=0.9, epsilon=1e-5)(x, True)
  )
  x = np.random.default_rng(0).normal(20, 0.5, (64, 4, 4, 8))
  x = jnp.asarray(x, jnp.bfloat16)
  y, state = jax.jit(norm.apply)(*norm.init(KEY, x), None, x)
  exact = np.float64(x)
  mean, variance = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
  found = [state[f'batch_norm/~/{name}']['average'] for name in EMAS]
  assert all(x.dtype == jnp.float32 for x in found)
  # In bfloat16 the mean of squares alone is off by as much as the variance.
  np.testing.assert_allclose(np.ravel(found[0]), mean, rtol=1e-6)
  np.testing.assert_allclose(np.ravel(found[1]), variance, rtol=1e-3)
  expected = (exact - mean) / np.sqrt(variance + 1e-5)
  assert y.dtype == jnp.bfloat16
  # Half a last place of bfloat16, below 4 in absolute value.
  np.testing.assert_allclose(np.float64(y), expected, atol=2**-7, rtol=1e-3)


HEAD_PARTS = {
  'layer': lambda x: networks.apply_norm(x, 'layer', None, True),
  'group': lambda x: networks.apply_norm(x, 'group', None, True),
  'weights': lambda x: networks.apply_linear(x[:, :32], 32, True),
}


@pytest.mark.parametrize('part', HEAD_PARTS)
def test_parts_of_heads_compute_in_float32_and_round_once(part):
  def compute(x):
    with hk.custom_getter(modules.cast_parameters):
      return HEAD_PARTS[part](x)

  pure = hk.without_apply_rng(hk.transform(compute))
  x = np.random.default_rng(0).normal(20, 0.5, (32, 64))
  x = np.eye(32, dtype=np.float32) if part == 'weights' else x
  x = jnp.asarray(x, jnp.bfloat16)
  params = pure.init(KEY, x.astype(np.float32))
  # A shift, which the standardized weights take away.
  params = jax.tree.map(lambda x: x + 20 * (x.ndim > 1), params)
  # Not compiled: XLA may leave out a rounding between two operations.
  found, exact = (
    pure.apply(params, x.astype(dtype)) for dtype in (jnp.bfloat16, np.float32)
  )
  assert (found.dtype, exact.dtype) == (jnp.bfloat16, np.float32)
  # Half a last place of bfloat16; a bit of it where float32 lies between two.
  np.testing.assert_allclose(np.float32(found), exact, atol=1e-6, rtol=2**-8)


@pytest.mark.parametrize('version', [1, 2])
@pytest.mark.parametrize(
  'form',
  [
    {'parts_in_channels': 2},
    {'one_pass': False, 'stem_of_blocks': True, 'fold_norms': True},
  ],
)
def test_forms_need_no_other_parameters(version, form):
  """Of a channel that was taken for two, or two for one, they differ."""
  make = functools.partial(
    tiny_run.make_forward, stem='imagenet', version=version
  )
  params, state = tiny_run.shapes_of(make())
  views = jnp.zeros((2, 2, 32, 32, 3))
  plain, fast = (
    jax.eval_shape(
      lambda *args, form=form: make(**form).apply(*args, views, True),
      *(params, state),
    )
    for form in ({}, form)
  )
  assert fast == plain


def test_differences_are_listed_up_to_a_number():
  found = {('a', 'w'): (1, 2), ('b', 'w'): (3,)}
  assert networks.describe_differences((found, found)) == ''
  other = {('a', 'w'): (2,), ('c', 'w'): ()}
  assert networks.describe_differences((found, other)) == (
    "'a/w': expected [2], found [1, 2]; unknown 'b/w' [3]; missing 'c/w' []"
  )
  many = {(f'{i:03}',): () for i in range(100)}
  listed = networks.describe_differences((many, {}), ({}, many)).split('; ')
  assert listed[29:] == ["unknown '029' []", 'and 170 more of 200']
