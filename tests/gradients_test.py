"""Tests gradients of sub-batches: one device is what several devices are."""

import functools
import re

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import byol, gradients, networks, optimizers, parallel
from byol_jax.training import hardware
from tests import byol_test
from tests.helpers import tiny_run

PARTS = 2


def divided_network(images, is_training):
  """Two layers with a batch norm that no device shares with another."""
  hidden = hk.Linear(6)(jnp.mean(images, (1, 2)))
  hidden = hk.BatchNorm(True, True, 0.9)(hidden, is_training)
  projection = hk.Linear(4)(jax.nn.relu(hidden))
  logits = hk.Linear(10, name='classifier')(jax.lax.stop_gradient(hidden))
  return networks.Outputs(hidden, projection, hk.Linear(4)(projection), logits)


def make_small():
  """The network as pure functions."""
  pure = hk.transform_with_state(divided_network)
  apply = lambda params, state, images, is_training: pure.apply(
    params, state, None, images, is_training
  )
  return networks.Forward(pure.init, networks.apply_in_turn(apply))


@functools.cache
def divided_update(devices, **division):
  """(update of the devices as a vmapped axis, state of each before step 0)."""
  noise = jax.vmap(lambda x, key: x + jax.random.normal(key, x.shape))
  forward = make_small()
  loss_fn = byol.make_loss(forward, (noise, noise), tiny_run.BYOL_LOSS)
  compute_gradients = gradients.make_gradients(loss_fn, **division)
  rate, tau = tiny_run.warmup()
  optimizer = optimizers.lars(
    lambda step: 1 + rate(step),
    **{'weight_decay': 1e-4, 'momentum': 0.9, 'trust_coefficient': 1e-3},
  )
  update = byol.make_update(compute_gradients, optimizer, tau, rate)
  init = lambda key: byol.init(forward, optimizer, key, jnp.zeros((2, 8, 8, 3)))
  state = jax.jit(init)(jax.random.PRNGKey(0))
  state = jax.tree.map(lambda x: np.stack([x] * devices), state)
  return jax.jit(jax.vmap(update, axis_name=parallel.AXIS)), state


def divided_batch(devices):
  """Sub-batches that differ, in their labelled images too."""
  data = tiny_run.make_batch(0, batch_size=4 * PARTS, size=byol_test.SIZE)
  data['view1'][:4] *= 0.1
  data['is_labelled'] = np.arange(4 * PARTS) < 5
  return tiny_run.divided(data, devices)


def test_sub_batches_are_what_devices_with_their_own_batch_norms_are():
  one, state = divided_update(1, accumulate=PARTS)
  many, states = divided_update(PARTS, bn_group=1)
  for _ in range(2):
    state, scalars = one(state, divided_batch(1))
    states, expected = many(states, divided_batch(PARTS))
  expected = tiny_run.flat((states, expected))
  for name, x in tiny_run.flat((state, scalars)).items():
    if 'projection_std' in name:
      continue  # of a sub-batch, and of all devices
    assert x.dtype == expected[name].dtype
    for row in expected[name]:  # the order of sums
      np.testing.assert_allclose(row, x[0], rtol=1e-5, atol=1e-6, err_msg=name)
  counters = [x for k, x in tiny_run.flat(state).items() if 'counter' in k]
  assert counters and all((x == 4).all() for x in counters)


def test_a_sub_batch_that_is_not_finite_makes_no_step():
  update, state = divided_update(1, accumulate=PARTS)
  data = divided_batch(1)
  data['view2'][0, 5, 2, 2, 1] = np.inf
  new, scalars = update(state, data)
  assert scalars['skipped'] == 1
  changed = byol_test.differing(new, state)
  assert changed and all(re.search(r'\.(step|count)$', x) for x in changed)


def test_an_objective_sees_a_sub_batch():
  """So do its negatives and normalisations."""
  seen = []

  def objective(online, target):
    seen.append((online[1].prediction.shape, target[0].projection.shape))
    return jnp.sum(online[1].prediction, axis=1)

  unchanged = lambda images, keys: images
  loss_fn = byol.make_loss(make_small(), (unchanged, unchanged), objective)
  compute = gradients.make_gradients(loss_fn, accumulate=PARTS)
  _, state = divided_update(1, accumulate=PARTS)
  step = lambda state, data: compute(state.online_params, state, data)
  jax.eval_shape(
    jax.vmap(step, axis_name=parallel.AXIS), state, divided_batch(1)
  )
  assert seen == [((4, 4), (4, 4))]


def test_the_operations_of_sub_batches_are_those_of_the_whole():
  """On a CPU all of them are in the program, once."""
  whole, parts = (
    hardware.count_flops(update, state, divided_batch(1), accumulate=count)
    for count in (1, PARTS)
    for update, state in [divided_update(1, accumulate=count)]
  )
  # The gradients are added up besides.
  assert parts == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize('platform', ('tpu', 'cuda'))
def test_sub_batches_are_a_loop_on_accelerators(platform):
  """So that they need the memory of one; a CPU, slow at loops, has none."""
  update, state = divided_update(1, accumulate=PARTS)
  traced = update.trace(state, divided_batch(1))
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert text.count('stablehlo.while') == 1
