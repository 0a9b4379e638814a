"""The graph of every encoder: all of its parameters, and Haiku's numbers."""

import itertools

import jax
import numpy as np
import pytest

from byol_jax import resnet
from byol_jax.convert import graph, parity, reference, weights as weights_lib
from tests.helpers import encoders, tiny_run


class Shapes:
  """`graph.Operations` on shapes, without numbers."""

  def __init__(self):
    self.used = []

  def convolve(self, x, kernel, stride, name):
    self.used.append(name)
    *sides, channels = x[1:]
    assert kernel.shape[0] == kernel.shape[1] and kernel.shape[2] == channels
    return (x[0], *(-(-side // stride) for side in sides), kernel.shape[3])

  def normalize(self, x, norm, name):
    self.used.append(name)
    assert {part.shape for part in norm} == {x[-1:]}
    return x

  def relu(self, x):
    return x

  def max_pool(self, x):
    return (x[0], -(-x[1] // 2), -(-x[2] // 2), x[3])

  def add(self, x, y):
    assert x == y
    return x

  def average(self, x):
    return (x[0], x[3])

  def multiply(self, x, matrix, bias, name):
    self.used.append(name)
    assert matrix.shape[0] == x[1]
    return (x[0], matrix.shape[1])


# Both kinds of blocks, in four groups and in three; others have more blocks.
ENCODERS = ('ResNet18', 'ResNet50', 'TinyResNet', 'MiniResNet')


# The stem does not depend on the blocks, whose tracing takes seconds.
@pytest.mark.parametrize(
  'encoder, version, stem',
  [
    *itertools.product(ENCODERS, (1, 2), [*resnet.STEMS][:1]),
    *itertools.product(['TinyResNet'], (1, 2), [*resnet.STEMS][1:]),
  ],
)
def test_every_parameter_has_one_place(encoder, version, stem):
  network = {'encoder': encoder, 'version': version, 'stem': stem}
  heads = {'projector': (16, 16, 8), 'predictor': (4,)}
  forward = tiny_run.make_forward(**network, **heads, width=1 / 16)
  none = lambda tree: {
    module: {k: np.empty(x.shape, x.dtype) for k, x in leaves.items()}
    for module, leaves in tree.items()
  }
  params, state = map(none, tiny_run.shapes_of(forward))
  weights = weights_lib.EncoderWeights(params, state, network, 10, 64, '', {})
  operations = Shapes()
  outputs = graph.build_graph(weights, operations, (2, 65, 96, 3))
  dim = params['classifier']['w'].shape[0]
  assert outputs == {
    **{'representation': (2, dim), 'projection': (2, 8)},
    **{'prediction': (2, 4), 'logits': (2, 10)},
  }
  assert sorted(operations.used) == sorted(params)


@pytest.mark.parametrize(
  'network',
  (
    {'encoder': 'TinyResNet'},
    {'encoder': 'TinyResNet', 'version': 2, 'stem': 'small_stride2'},
    {'encoder': 'ResNet50', 'version': 2, 'width': 1 / 16},
  ),
)
def test_numbers_are_those_of_haiku(network):
  """In numpy, heads included; float32 sums in another order."""
  forward, weights = encoders.make(**network)
  found = parity.compare_encoders(
    parity.make_ours(forward, weights.params, weights.state),
    reference.make_encode(weights),
    [(33, 46)],  # an odd side and an even one
  )
  assert parity.holds(found), found


def test_heads_are_those_of_haiku():
  forward, weights = encoders.make(projector=(16, 16, 8), predictor=(12, 8))
  images = parity.make_images((32, 32))
  apply = jax.jit(forward.apply, static_argnums=3)
  expected, _ = apply(weights.params, weights.state, images, False)
  found = graph.build_graph(
    weights,
    reference.Operations(weights.network),
    parity.normalize_images(images),
  )
  for name, value in expected._asdict().items():
    # The order of sums; values are of order 1.
    np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)
