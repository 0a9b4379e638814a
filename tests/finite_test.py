"""Tests that a step that is not finite changes nothing, on any device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import finite, parallel
from tests.helpers import tiny_run

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
    assert not np.any(scalars[finite.SKIPPED])
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
  np.testing.assert_array_equal(scalars[finite.SKIPPED], np.ones(DEVICES))
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
    assert np.all(scalars[finite.SKIPPED] == 1), name
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


def program_lines(leaves):
  """Lines of the compiled step of one device with this many leaves."""

  def step(state, grads):
    new = jax.tree.map(lambda x, y: x + 2 * y, state, grads)
    is_finite = finite.is_finite((grads, state), new)
    return jax.tree.map(lambda x, y: jnp.where(is_finite, x, y), new, state)

  tree = {str(size): jnp.ones(size) for size in range(1, leaves + 1)}
  program = parallel.on_one_device(step).lower(tree, tree).compile()
  return len(program.as_text().splitlines())


def test_a_program_grows_no_faster_than_its_leaves():
  # 4.3 was measured; with a chain of logical ands as the flag, 10.3.
  assert program_lines(40) < 7 * program_lines(10)
