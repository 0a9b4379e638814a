"""How far the forms of a network of two views round, at full size.

PYTHONPATH=. python benchmarks/forms.py [--images=2] [--size=224] \\
  [--output=FILE.json]

ResNet-50 with its heads in training mode: two passes, one for each view; one
pass; one pass with the views side by side in the channels of the stem, or of
the stem and the first group, as on a TPU; and two passes with norms folded into
convolutions, as on a GPU. Each in float32 on this CPU, beside two passes in
float64. `distance` is of the gradients of a weighted sum of all outputs, and of
the new batch-norm averages, relative to their norm.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import results_file
from byol_jax import configuration, networks

FORMS = {
  'two passes': {'one_pass': False},
  'one pass': {},
  'stem in channels': {'parts_in_channels': 1},
  'stem and group in channels': {'parts_in_channels': 2},
  'folded': {'one_pass': False, 'stem_of_blocks': True, 'fold_norms': True},
}


def make(config, **form):
  """The network of the preset; without axis all is one device."""
  forward = networks.make_forward(
    num_classes=None,
    axis_name=None,
    precision='float32',
    **form,
    **config.network,
  )
  return forward.apply, forward.init


def differentiate(apply, params, state, views):
  """Gradients of a weighted sum of the outputs, and the new averages."""

  def loss(params):
    outputs, after = apply(params, state, views, is_training=True)
    weigh = lambda x: jnp.sum(x * jnp.cos(jnp.arange(x.size)).reshape(x.shape))
    return sum(map(weigh, jax.tree.leaves(outputs))), after

  return jax.grad(loss, has_aux=True)(params)


def compute(name, apply, arguments):
  """(gradients, averages) as numpy arrays; prints how long it took."""
  began = time.monotonic()
  found = jax.jit(functools.partial(differentiate, apply))(*arguments)
  found = jax.tree.map(np.asarray, found)
  print(f'{name}: {time.monotonic() - began:.0f} s', flush=True)
  return found


def measure(found, exact):
  """Relative distances of the gradients and of the averages."""
  distances = []
  for tree, reference in zip(found, exact, strict=True):
    reference = jax.tree.map(np.float64, reference)
    change = jax.tree.map(np.subtract, tree, reference)
    distances.append(
      float(optax.tree.norm(change) / optax.tree.norm(reference))
    )
  return dict(zip(('gradients', 'averages'), distances, strict=True))


def main():
  parser = results_file.make_parser(__doc__)
  parser.add_argument('--images', type=int, default=2)
  parser.add_argument('--size', type=int, default=224)
  arguments = parser.parse_args()
  config = configuration.load('pretrain:1000')
  shape = (2, arguments.images, arguments.size, arguments.size, 3)
  views = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
  plain, init = make(config, **FORMS['two passes'])
  network = jax.jit(functools.partial(init, is_training=True))(
    jax.random.PRNGKey(0), views[0]
  )
  arguments_of_all = jax.tree.map(np.asarray, (*network, views))
  found = {
    name: compute(name, make(config, **form)[0], arguments_of_all)
    for name, form in FORMS.items()
  }
  with jax.enable_x64(True):
    exactly = jax.tree.map(
      lambda x: x if x.dtype == np.int32 else np.float64(x), arguments_of_all
    )
    exact = compute('float64', plain, exactly)
    distances = {name: measure(tree, exact) for name, tree in found.items()}
  base = distances['two passes']
  result = {
    'what': 'distance of float32 from float64, relative to the norm',
    'images of a view': arguments.images,
    'size': arguments.size,
    'distance': distances,
    'over two passes': {
      name: {key: round(row[key] / base[key], 3) for key in row}
      for name, row in distances.items()
    },
  }
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
