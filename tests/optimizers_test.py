"""Tests optimizers against numpy in float64, with a changing rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byol_jax import optimizers
from configs import pretrain
from tests.helpers import tiny_run

SETTINGS = {'weight_decay': 0.01, 'momentum': 0.9, 'trust_coefficient': 1e-3}
SHAPES = {
  'net/~/conv_0': {'w': (3, 3, 2, 4)},
  'net/~/batchnorm_0': {'scale': (1, 1, 1, 4), 'offset': (1, 1, 1, 4)},
  'projector/linear': {'w': (4, 3), 'b': (3,)},
  'projector/batch_norm': {'scale': (1, 3), 'offset': (1, 3)},
  'zero/linear': {'w': (3, 3)},
  'idle/linear': {'w': (2, 2)},
}
ADAPTED = {(module, 'w') for module, x in SHAPES.items() if 'w' in x}
NUM_STEPS = 6


def tree(seed, scale):
  generator = np.random.default_rng(seed)
  return {
    module: {name: scale * generator.normal(size=s) for name, s in x.items()}
    for module, x in SHAPES.items()
  }


def start():
  params = tree(0, 1.0)
  params['zero/linear']['w'] *= 0
  # Neither value nor gradient: both norms are zero.
  params['idle/linear']['w'] *= 0
  return params


def gradients(step):
  grads = tree(100 + step, 0.3)
  grads['idle/linear']['w'] *= 0
  return grads


# Name -> the settings, and the factor of a kernel's update from the ratio of
# the norms and the rate. Some of the clipped ratios are below the rates.
SGD = {k: v for k, v in SETTINGS.items() if k != 'trust_coefficient'}
CLIPPED = {'trust_coefficient': 0.5, 'clip_trust_ratio': True}
SCALINGS = {
  'sgd': (SGD, lambda ratio, rate: 1),
  'lars': (SETTINGS, lambda ratio, rate: 1e-3 * ratio),
  'lars clipped': (
    SETTINGS | CLIPPED,
    lambda ratio, rate: min(0.5 * ratio / rate, 1) if rate else 1,
  ),
}


def rate(step):
  if step == 1:
    return 0.0
  return 2.0 * (step + 1) / 3 if step < 3 else 2.0 * 0.4 ** (step - 2)


def reference(num_steps, factor):
  """Momentum with decay: (parameters, momenta); see `SCALINGS`."""
  params, momenta = start(), jax.tree.map(np.zeros_like, start())
  for step in range(num_steps):
    for module, leaves in gradients(step).items():
      for name, update in leaves.items():
        value = params[module][name]
        if (module, name) in ADAPTED:
          update = update + SETTINGS['weight_decay'] * value
          norms = np.linalg.norm(value.ravel()), np.linalg.norm(update.ravel())
          if min(norms) > 0:
            update *= factor(norms[0] / norms[1], rate(step))
        momenta[module][name] = 0.9 * momenta[module][name] + update
        params[module][name] = value - rate(step) * momenta[module][name]
  return params, momenta


def table(step):
  return jnp.asarray([rate(i) for i in range(NUM_STEPS)])[step]


def run(optimizer, params, grads_of_steps):
  """The parameters and the optimizer's state after steps in float32."""

  @jax.jit
  def update(params, state, grads):
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  params = jax.tree.map(np.float32, params)
  state = jax.jit(optimizer.init)(params)
  for grads in grads_of_steps:
    params, state = update(params, state, jax.tree.map(np.float32, grads))
  return params, state


def momentum_of(state):
  return optax.tree_utils.tree_get(state, 'trace')


def largest_error(a, b):
  """Relative to the largest number of each leaf."""
  return max(
    float(np.max(np.abs(x - y)) / max(np.max(np.abs(y)), 1e-12))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


@pytest.mark.parametrize('name', SCALINGS)
def test_lars_and_sgd_against_float64(name):
  settings, factor = SCALINGS[name]
  optimizer = optimizers.make_optimizer(name.split()[0], table, **settings)
  params, state = run(optimizer, start(), map(gradients, range(NUM_STEPS)))
  expected, momenta = reference(NUM_STEPS, factor)
  # Six float32 steps.
  assert largest_error(params, expected) < 2e-6
  assert largest_error(momentum_of(state), momenta) < 2e-6


def test_kernels_are_those_and_only_those():
  mask = optimizers.mask_kernels(start())
  chosen = {(m, n) for m, x in mask.items() for n, on in x.items() if on}
  assert chosen == ADAPTED
  assert jax.tree.structure(mask) == jax.tree.structure(start())
  # method.md 2.5: 58 adapted leaves, 113 excluded ones with 78,696 numbers.
  forward = tiny_run.make_forward(encoder='ResNet50', **tiny_run.PAPER_HEADS)
  params, _ = tiny_run.shapes_of(forward)
  mask = jax.tree.leaves(optimizers.mask_kernels(params))
  excluded = [x.size for x, on in zip(jax.tree.leaves(params), mask) if not on]
  assert (sum(mask), len(excluded), sum(excluded)) == (58, 113, 78_696)


def test_adamw_moves_by_the_rate_of_each_step_and_decays_kernels_only():
  # Of a constant gradient Adam's update is its sign, at any step.
  rates, old = (0.0, 0.25), tree(0, 1.0)
  optimizer = optimizers.make_optimizer(
    'adamw', lambda step: jnp.asarray(rates)[step], weight_decay=0.5
  )
  params, _ = run(optimizer, old, [jax.tree.map(np.ones_like, old)] * 2)
  for module, leaves in old.items():
    for name, x in leaves.items():
      decay = 0.5 * x if (module, name) in ADAPTED else 0
      # Four digits of 1 - 0.999 ** 2, by which Adam divides, are left.
      np.testing.assert_allclose(
        params[module][name], x - 0.25 * (1 + decay), rtol=1e-5, atol=1e-5
      )


@pytest.mark.parametrize('name', pretrain.OPTIMIZERS)
def test_a_head_moves_by_its_factor_of_the_rate(name):
  """All arrays of it, and no others; without factors nothing is added."""
  settings = pretrain.OPTIMIZERS[name]
  grads, params = (
    jax.tree.map(jnp.float32, x) for x in (gradients(0), start())
  )

  def update(head_rates):
    optimizer = optimizers.make_optimizer(
      name, lambda step: 0.5, head_rates, **settings
    )
    state = optimizer.init(params)
    updates, after = optimizer.update(grads, state, params)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    return updates, state

  plain, state = update({})
  direct = optimizers.OPTIMIZERS[name](lambda step: 0.5, **settings)
  assert jax.tree.structure(state) == jax.tree.structure(direct.init(params))
  changed, state = update({'projector': 3.0, 'predictor': 0.0})
  assert len(jax.tree.leaves(state)) == len(
    jax.tree.leaves(direct.init(params))
  )
  for module, leaves in plain.items():
    factor = 3 if module.startswith('projector/') else 1
    for leaf, x in leaves.items():
      np.testing.assert_array_equal(changed[module][leaf], factor * x)
      assert np.any(x) or module == 'idle/linear'
