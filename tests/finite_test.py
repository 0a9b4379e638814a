"""A step that is not finite leaves no trace, on any device."""

from typing import NamedTuple

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
  """One step of four devices, as an axis; and a state after two steps."""
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
  """The leaves that go on: the step and the optimiser's own count."""
  return name == '.step' or (
    name.startswith('.opt_state') and name.endswith('.count')
  )


@pytest.mark.parametrize('device', range(DEVICES))
@pytest.mark.parametrize('value', (np.nan, np.inf, 3e38))
def test_one_bad_value_on_one_device_changes_no_bit_on_any(step, device, value):
  """3e38 is finite itself: its square, in a variance, is not."""
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
def test_a_bad_state_is_seen_wherever_it_is(step, field):
  """Not by what the images did: every part of the state is looked at.

  But for the target's parameters, which mix two that were looked at.
  """
  update, state = step
  tree = getattr(state, field)
  leaves, structure = jax.tree.flatten(tree)
  seen = 0
  for number, leaf in enumerate(leaves):
    if not np.issubdtype(leaf.dtype, np.floating):
      continue
    name = jax.tree_util.tree_leaves_with_path(tree)[number][0]
    if name[-1].key == 'average' or number % 7:
      continue  # made anew from 'hidden'; and a part of the rest is enough
    bad = leaf.copy()
    bad.reshape(-1)[0] = np.nan
    changed = [*leaves[:number], bad, *leaves[number + 1 :]]
    poisoned = state._replace(**{field: structure.unflatten(changed)})
    found, scalars = update(poisoned, batch(2))
    np.testing.assert_array_equal(scalars[finite.SKIPPED], np.ones(DEVICES))
    seen += 1
    kept = tiny_run.flat(found.opt_state)
    for key, x in tiny_run.flat(state.opt_state).items():
      assert counts(f'.opt_state{key}') or np.array_equal(kept[key], x)
  assert seen >= 2


def test_after_a_skipped_step_the_rate_is_that_of_the_step(step):
  """Data, tau and the rate follow the step; none of them falls behind."""
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


def test_a_sound_step_is_taken_as_it_is():
  old = State(jnp.int32(1), jnp.ones(3), {'count': jnp.int32(1)})
  new = State(jnp.int32(2), jnp.full(3, 2.0), {'count': jnp.int32(2)})
  kept = finite.select(jnp.bool_(True), new, old)
  for found, expected in zip(jax.tree.leaves(kept), jax.tree.leaves(new)):
    np.testing.assert_array_equal(found, expected)


class State(NamedTuple):
  """The fields that matter."""

  step: jax.Array
  params: jax.Array
  opt_state: dict


def program_lines(leaves):
  """Of a compiled step of one device with this many leaves."""

  def step(state, grads):
    new = jax.tree.map(lambda x, y: x + 2 * y, state, grads)
    is_finite = finite.is_finite((grads, state), new)
    return jax.tree.map(lambda x, y: jnp.where(is_finite, x, y), new, state)

  tree = {str(size): jnp.ones(size) for size in range(1, leaves + 1)}
  program = parallel.on_one_device(step).lower(tree, tree).compile()
  return len(program.as_text().splitlines())


def test_a_program_grows_no_faster_than_its_leaves():
  """Five times for four; were the flag made in each leaf's loop, twelve."""
  assert program_lines(80) < 7 * program_lines(20)
