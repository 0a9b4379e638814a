"""Inside the mapped step: sums over devices, and the keys of images."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byol_jax import errors, optimizers, parallel
from tests.helpers import tiny_run


def test_mean_and_total_run_over_the_axis():
  x = jnp.arange(12.0).reshape(4, 3)
  both = jax.vmap(
    lambda part: (parallel.mean(part), parallel.total({'x': part})),
    axis_name=parallel.AXIS,
  )
  mean, total = both(x)
  for row in range(4):
    np.testing.assert_allclose(mean[row], np.mean(x, axis=0))
    np.testing.assert_allclose(total['x'][row], np.sum(x, axis=0))


def test_averages_are_combined_and_their_counters_kept():
  tree = {'average': jnp.arange(4.0), 'counter': jnp.full(4, 3)}
  found = jax.vmap(parallel.mean_averages, axis_name=parallel.AXIS)(tree)
  np.testing.assert_array_equal(found['average'], np.full(4, 1.5))
  np.testing.assert_array_equal(found['counter'], tree['counter'])
  assert found['counter'].dtype == jnp.int32


def test_groups_are_neighbours_and_hold_every_device_once():
  assert parallel.list_groups(6, 2) == [[0, 1], [2, 3], [4, 5]]
  assert parallel.list_groups(6, 0) is None
  assert parallel.list_groups(1, 4) is None


@pytest.mark.parametrize(
  'batch_size, devices, division, message',
  (
    (96, 4, {'accumulate': 4, 'bn_group': 2}, None),
    (8, 8, {}, None),  # as before there were sub-batches
    (8, 4, {'bn_group': 1}, None),
    (16, 8, {'accumulate': 2}, None),
    (
      12,
      1,
      {'accumulate': 5},
      'multiple of 5, the 1 device times .* nearest: 10$',
    ),
    (40, 4, {'accumulate': 4}, 'multiple of 16, the 4 devices times .* 32$'),
    (8, 4, {'bn_group': 3}, 'bn_group: .* divisor of the 4 devices, found 3'),
    (8, 1, {'bn_group': 2}, 'bn_group: expected 0 or 1 on one device, found 2'),
    (8, 8, {'bn_group': 1}, 'at least 2 images in a batch norm'),
    (8, 1, {'accumulate': 8}, 'at least 2 images in a batch norm'),
  ),
)
def test_a_batch_that_cannot_be_divided_is_refused(
  batch_size, devices, division, message
):
  check = lambda: parallel.check_division(
    'batch_size', batch_size, devices, **division
  )
  if message is None:
    check()
  else:
    with pytest.raises(errors.ConfigError, match=message):
      check()


SHAPES = {
  'net': {'w': (3, 3, 5, 4), 'b': (4,)},  # 45 rows
  'projector/linear': {'w': (8, 6), 'b': (6,)},
  'predictor/linear': {'w': (6, 2), 'b': (2,)},  # too small
}
RATE = optax.linear_schedule(0.3, 0.1, 3)
OPTIMIZERS = {
  'lars': {'momentum': 0.9, 'trust_coefficient': 0.01},
  'clipped': {
    **{'momentum': 0.9, 'trust_coefficient': 0.5},
    'clip_trust_ratio': True,
  },
  **{'sgd': {'momentum': 0.9}, 'adamw': {}},
}


def draw_tree(seed):
  generator = np.random.default_rng(seed)
  return {
    module: {k: generator.normal(size=s).astype('f') for k, s in x.items()}
    for module, x in SHAPES.items()
  }


@pytest.mark.parametrize(
  'kind, devices', (('lars', 4), ('clipped', 7), ('sgd', 1), ('adamw', 4))
)
def test_a_sharded_optimizer_is_the_same_function(monkeypatch, kind, devices):
  """Between updates a device has its rows of the large arrays."""
  monkeypatch.setattr(parallel, '_SMALL', 12)
  optimizer = optimizers.make_optimizer(
    {'clipped': 'lars'}.get(kind, kind),
    *(RATE, {'predictor': 2.0}),
    **{'weight_decay': 0.1, **OPTIMIZERS[kind]},
  )
  sharded = parallel.shard_optimizer(optimizer)
  run = lambda function, *axes: jax.jit(
    jax.vmap(function, axes, axis_name=parallel.AXIS, axis_size=devices)
  )
  update = run(optimizer.update, None, None, None)
  update_parts = run(sharded.update, None, 0, None)
  params = draw_tree(0)
  state = sharded.init(params)
  parts = run(parallel.take_own_parts, None)(state)
  for step in range(3):
    grads = draw_tree(1 + step)
    expected = update(grads, state, params)
    updates, parts = update_parts(grads, parts, params)
    whole = run(parallel.gather_parts, 0)(parts)
    # Two programs: XLA may round a product before its sum, or not.
    chex.assert_trees_all_close((updates, whole), expected, atol=1e-6)
    updates, state = jax.tree.map(lambda x: x[0], expected)
    params = optax.apply_updates(params, updates)
  found = {x.shape for x in jax.tree.leaves(parts)}
  rows = {1: (45, 8), 4: (12, 2), 7: (7, 2)}[devices]
  assert {(devices, rows[0], 4), (devices, rows[1], 6)} <= found
  assert {(devices, 6, 2), (devices, 6)} <= found
  assert (devices, *SHAPES['net']['w']) not in found


def image_keys(devices, batch_size, step=5, seed=0):
  per_device = batch_size // devices
  keys = jax.vmap(
    lambda _: parallel.make_image_keys(
      jax.random.PRNGKey(seed), jnp.int32(step), per_device
    ),
    axis_name=parallel.AXIS,
  )(jnp.zeros(devices))
  return np.asarray(keys).reshape(batch_size, 2)


def test_keys_depend_on_place_step_and_seed_and_on_nothing_else():
  for devices in (2, 4, 12):
    np.testing.assert_array_equal(image_keys(1, 12), image_keys(devices, 12))
  np.testing.assert_array_equal(image_keys(1, 8), image_keys(2, 16)[:8])
  keys = [
    image_keys(2, 64, step, seed) for step in (0, 1, 2) for seed in (0, 1)
  ]
  assert len(np.unique(np.concatenate(keys), axis=0)) == 6 * 64


def test_one_device_is_an_axis_of_size_one():
  def function(x):
    return {'index': jax.lax.axis_index(parallel.AXIS), 'x': parallel.total(x)}

  out = parallel.on_one_device(function)(jnp.arange(3.0))
  assert out['index'] == 0
  np.testing.assert_array_equal(out['x'], np.arange(3.0))


# A step that is not finite changes nothing, on any device.
DEVICES = 4
BATCH_SIZE = 8


@pytest.fixture(scope='module')
def step():
  """(update of four devices as a vmapped axis, state after two steps)."""
  rate, tau = tiny_run.warmup()
  _, _, optimizer, update = tiny_run.make_experiment(rate=rate, tau=tau)
  update = jax.jit(jax.vmap(update, axis_name=parallel.AXIS))
  state = tiny_run.random_state(optimizer)
  state = jax.tree.map(lambda x: np.stack([x] * DEVICES), state)
  for number in range(2):
    state, scalars = update(state, batch(number))
    assert not np.any(scalars[parallel.SKIPPED])
  return update, jax.tree.map(np.asarray, state)


def batch(number):
  whole = tiny_run.make_batch(number, batch_size=BATCH_SIZE, size=32)
  return tiny_run.divided(whole, DEVICES)


def counts(name):
  """Whether a leaf advances: the step and the optimizer's count."""
  return name == '.step' or (
    name.startswith('.opt_state') and name.endswith('.count')
  )


# 3e38 is finite itself; its square, in a variance, is not.
@pytest.mark.parametrize('device, value', [(0, np.nan), (3, np.inf), (1, 3e38)])
def test_one_bad_value_on_one_device_changes_no_bit_on_any(step, device, value):
  update, state = step
  poisoned = batch(2)
  poisoned['view2'] = poisoned['view2'].copy()
  poisoned['view2'][device, 0, 3, 4, 1] = value
  found, scalars = update(state, poisoned)
  np.testing.assert_array_equal(scalars[parallel.SKIPPED], np.ones(DEVICES))
  before, after = tiny_run.flat(state), tiny_run.flat(found)
  for name, x in before.items():
    if counts(name):
      np.testing.assert_array_equal(after[name], x + 1)
    else:
      assert after[name].tobytes() == x.tobytes(), name
  assert sum(map(counts, before)) == 2


@pytest.mark.parametrize(
  'field', ('online_params', 'online_state', 'target_state')
)
def test_a_bad_state_is_found_wherever_it_is(step, field):
  """Every part of the state is checked, whatever the images do to it.

  Except the target's parameters, a mixture of two trees that are checked, and
  'average', which is derived from 'hidden'. Every seventh leaf is enough.
  """
  update, state = step
  names = [
    name
    for name, x in tiny_run.flat(getattr(state, field)).items()
    if np.issubdtype(x.dtype, np.floating) and 'average' not in name
  ][::7]
  assert len(names) >= 2
  for name in names:
    poisoned = jax.tree.map(np.copy, state)
    tiny_run.flat(getattr(poisoned, field))[name].flat[0] = np.nan
    found, scalars = update(poisoned, batch(2))
    assert np.all(scalars[parallel.SKIPPED] == 1), name
    kept = tiny_run.flat(found.opt_state)
    for key, x in tiny_run.flat(state.opt_state).items():
      assert counts(f'.opt_state{key}') or np.array_equal(kept[key], x)


def test_after_a_skipped_step_rate_and_tau_follow_the_step(step):
  update, state = step
  poisoned = batch(2)
  poisoned['view1'] = np.full_like(poisoned['view1'], np.nan)
  skipped, _ = update(state, poisoned)
  _, scalars = update(skipped, batch(3))
  rate, tau = tiny_run.warmup()
  np.testing.assert_allclose(scalars['learning_rate'][0], rate(3), rtol=1e-6)
  np.testing.assert_allclose(scalars['tau'][0], tau(3), rtol=1e-6)
  count = [x for name, x in tiny_run.flat(skipped).items() if counts(name)]
  assert all((x == 3).all() for x in count)
