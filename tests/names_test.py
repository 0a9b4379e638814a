"""Tests the public names and shapes of parameters (method.md 9.3)."""

import jax
import pytest

from tests.helpers import tiny_run


def shapes(**network):
  """{module: {leaf: (shape, dtype)}} of parameters and of states."""
  forward = tiny_run.make_forward(**tiny_run.PAPER_HEADS | network)
  trees = tiny_run.shapes_of(forward)
  return [jax.tree.map(lambda x: (x.shape, x.dtype.name), t) for t in trees]


def f32(*shape):
  return (shape, 'float32')


def norm(*shape):
  return {'scale': f32(*shape), 'offset': f32(*shape)}


def block_params(path, inputs, outputs, *, first, version):
  inner = outputs // 4
  yield f'{path}/~/conv_0', {'w': f32(1, 1, inputs, inner)}
  yield f'{path}/~/conv_1', {'w': f32(3, 3, inner, inner)}
  yield f'{path}/~/conv_2', {'w': f32(1, 1, inner, outputs)}
  # v1 normalises the output of a convolution, v2 its input.
  sizes = (inner, inner, outputs) if version == 1 else (inputs, inner, inner)
  for i, size in enumerate(sizes):
    yield f'{path}/~/batchnorm_{i}', norm(1, 1, 1, size)
  if first:
    yield f'{path}/~/shortcut_conv', {'w': f32(1, 1, inputs, outputs)}
    if version == 1:
      yield f'{path}/~/shortcut_batchnorm', norm(1, 1, 1, outputs)


def resnet50_params(version):
  yield 'res_net50/~/initial_conv', {'w': f32(7, 7, 3, 64)}
  if version == 1:
    yield 'res_net50/~/initial_batchnorm', norm(1, 1, 1, 64)
  else:
    yield 'res_net50/~/final_batchnorm', norm(1, 1, 1, 2048)
  inputs = 64
  for i, (blocks, outputs) in enumerate(
    [(3, 256), (4, 512), (6, 1024), (3, 2048)]
  ):
    for j in range(blocks):
      path = f'res_net50/~/block_group_{i}/~/block_{j}'
      first = j == 0
      yield from block_params(
        path, inputs, outputs, first=first, version=version
      )
      inputs = outputs


def head_params():
  for head, inputs in (('projector', 2048), ('predictor', 256)):
    yield f'{head}/linear', {'w': f32(inputs, 4096), 'b': f32(4096)}
    yield f'{head}/batch_norm', norm(1, 4096)
    yield f'{head}/linear_1', {'w': f32(4096, 256)}
  yield 'classifier', {'w': f32(2048, 1000), 'b': f32(1000)}


def states_of(params):
  for module, leaves in params.items():
    if 'scale' in leaves:
      average = {'hidden': leaves['scale'], 'average': leaves['scale']}
      for moment in ('mean_ema', 'var_ema'):
        yield f'{module}/~/{moment}', {'counter': ((), 'int32'), **average}


@pytest.mark.parametrize('version', [1, 2])
def test_resnet50(version):
  params, state = shapes(encoder='ResNet50', version=version)
  expected = dict(resnet50_params(version)) | dict(head_params())
  assert params == expected
  assert state == dict(states_of(expected))
  if version == 1:
    leaves = lambda tree: sum(map(len, tree.values()))
    assert (len(params), leaves(params)) == (113, 171)
    assert (len(state), leaves(state)) == (110, 330)


@pytest.mark.parametrize(
  'encoder, name, blocks',
  [
    ('ResNet18', 'res_net18', (2, 2, 2, 2)),
    ('ResNet34', 'res_net34', (3, 4, 6, 3)),
    ('ResNet101', 'res_net101', (3, 4, 23, 3)),
    ('TinyResNet', 'tiny_res_net', (1, 1, 1, 1)),
    ('MiniResNet', 'mini_res_net', (1, 1, 1)),
  ],
)
def test_the_encoder_is_named_after_its_class(encoder, name, blocks):
  params, _ = shapes(encoder=encoder)
  encoders = {m.split('/')[0] for m in params}
  assert encoders == {name, 'projector', 'predictor', 'classifier'}
  for i, count in enumerate(blocks):
    group = f'{name}/~/block_group_{i}/'
    assert sum(m.startswith(group) and 'conv_0' in m for m in params) == count
