"""The update: what moves, what does not, and who sees what."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byol_jax import byol, losses, networks, optimizers, parallel
from tests.helpers import tiny_run

SIZE = 8
BATCH_SIZE = 6
# By step; a test picks its values by the step it starts from.
RATES = (0.0, 0.3, 0.3, 0.3, 0.3)
TAUS = (0.99, 1.0, 0.0, 0.5, 0.9)


def table(values):
  return lambda step: jnp.asarray(values, jnp.float32)[step]


@functools.cache
def experiment():
  """One compilation for most of this file: (forward, loss_fn, update, state).

  update and loss_fn see one device; loss_fn takes the online and the target
  parameters and gives the loss, the states and the scalars.
  """
  forward, loss_fn, optimizer, update = tiny_run.make_experiment(
    rate=table(RATES), tau=table(TAUS)
  )
  state = tiny_run.random_state(optimizer)
  return forward, loss_fn, parallel.on_one_device(update), state


def batch(seed=0):
  return tiny_run.make_batch(seed, batch_size=BATCH_SIZE, size=SIZE)


def step(number, data=None, state=None):
  """The state and the scalars of update `number` on a batch."""
  _, _, update, start = experiment()
  state = start if state is None else state
  momentum = optimizers.momentum_of(state.opt_state)
  state = state._replace(
    step=np.int32(number),
    opt_state=optimizers.with_momentum(state.opt_state, momentum, number),
  )
  state, scalars = update(state, batch() if data is None else data)
  return jax.tree.map(np.asarray, (state, scalars))


def assert_equal(a, b):
  a, b = tiny_run.flat(a), tiny_run.flat(b)
  assert a.keys() == b.keys()
  for key in a:
    np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def differs(a, b):
  a, b = tiny_run.flat(a), tiny_run.flat(b)
  return {key for key in a if np.any(a[key] != b[key])}


def test_target_is_bit_exact_at_both_ends_of_tau():
  _, _, _, old = experiment()
  fixed, _ = step(1)
  assert_equal(fixed.target_params, old.target_params)
  copied, _ = step(2)
  assert_equal(copied.target_params, copied.online_params)
  # The online network has moved: the copy is of the new parameters.
  assert differs(copied.online_params, old.online_params)


def test_target_moves_towards_the_new_online_parameters():
  _, _, _, old = experiment()
  new, scalars = step(3)
  assert scalars['tau'] == 0.5
  for key, x in tiny_run.flat(new.online_params).items():
    target = np.float64(tiny_run.flat(old.target_params)[key])
    np.testing.assert_allclose(
      tiny_run.flat(new.target_params)[key], (x + target) / 2, atol=1e-6
    )


def test_schedules_see_the_step_before_the_update():
  for number in range(5):
    state, scalars = step(number)
    assert scalars['tau'] == np.float32(TAUS[number])
    assert scalars['learning_rate'] == np.float32(RATES[number])
    assert state.step == number + 1
  _, _, _, old = experiment()
  assert_equal(state.rng, old.rng)


def test_first_step_fills_the_momentum_and_moves_nothing():
  _, _, _, old = experiment()
  state, _ = step(0)
  assert_equal(state.online_params, old.online_params)
  mask = tiny_run.flat(optimizers.kernels(old.online_params))
  momentum = tiny_run.flat(optimizers.momentum_of(state.opt_state))
  assert all(np.any(momentum[key]) for key, kernel in mask.items() if kernel)


def test_gradient_reaches_all_online_parts_and_no_target():
  _, loss_fn, _, state = experiment()

  def loss(online_params, target_params, data):
    return loss_fn(
      online_params, state._replace(target_params=target_params), data
    )[0]

  online, target = parallel.on_one_device(jax.grad(loss, (0, 1)))(
    state.online_params, state.target_params, batch()
  )
  assert not any(np.any(x) for x in jax.tree.leaves(target))
  for module, leaves in online.items():
    assert np.any(leaves.get('w', 1)), module


def test_batch_norm_averages_move_twice_a_step_in_both_networks():
  state = None
  for number in range(2):
    state, _ = step(number, state=state)
    for net_state in (state.online_state, state.target_state):
      counters = {int(leaves['counter']) for leaves in net_state.values()}
      assert counters == {2 * (number + 1)}
  # The target's are its own, not a moving copy of the online network's.
  assert differs(state.online_state, state.target_state)


def alone(forward, params, net_state, view):
  """Outputs and batch-norm state of a network that saw one view only."""
  return parallel.on_one_device(
    lambda images: forward.apply(params, net_state, images, True)
  )(view)


def test_views_never_share_batch_statistics():
  forward, _, _, start = experiment()
  state, _ = step(1)
  data = batch()
  for params, net_state in (
    (start.online_params, state.online_state),
    (start.target_params, state.target_state),
  ):
    first, second = (
      tiny_run.flat(alone(forward, params, start.online_state, data[view])[1])
      for view in ('view1', 'view2')
    )
    for key, x in tiny_run.flat(net_state).items():
      if key.endswith("['hidden']"):
        # Moments of view 1 alone, then of view 2 alone, each by 0.9 and 0.1.
        expected = 0.9 * np.float64(first[key]) + second[key]
        np.testing.assert_allclose(x, expected, rtol=1e-3, atol=1e-5)


def test_loss_is_that_of_separate_passes():
  forward, _, _, start = experiment()
  data = batch()
  _, scalars = step(1)
  online, target = (
    [
      alone(forward, params, start.online_state, data[view])[0]
      for view in ('view1', 'view2')
    ]
    for params in (start.online_params, start.target_params)
  )

  def cosine(a, b):
    a, b = np.float64(a), np.float64(b)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / norms

  repr_loss = 4 - 2 * np.mean(
    cosine(online[0].prediction, target[1].projection)
    + cosine(online[1].prediction, target[0].projection)
  )
  # Two float32 compilations of a dozen batch norms.
  np.testing.assert_allclose(scalars['repr_loss'], repr_loss, rtol=1e-4)
  logits = np.float64(online[0].logits)
  chosen = logits[np.arange(BATCH_SIZE), data['labels']]
  classif_loss = np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen)
  np.testing.assert_allclose(scalars['classif_loss'], classif_loss, rtol=1e-4)
  best = np.argsort(-logits, axis=1)
  hits = best == data['labels'][:, None]
  np.testing.assert_allclose(scalars['top1_accuracy'], hits[:, 0].mean())
  np.testing.assert_allclose(scalars['top5_accuracy'], hits[:, :5].sum() / 6)
  np.testing.assert_allclose(
    scalars['loss'], scalars['repr_loss'] + scalars['classif_loss'], rtol=1e-6
  )


def test_the_probe_sees_the_first_view_only():
  other = batch(1)
  _, scalars = step(1)
  _, changed = step(1, batch() | {'view2': other['view2']})
  assert changed['classif_loss'] == scalars['classif_loss']
  assert changed['projection_std'] == scalars['projection_std']
  assert changed['repr_loss'] != scalars['repr_loss']
  _, changed = step(1, batch() | {'view1': other['view1']})
  assert changed['classif_loss'] != scalars['classif_loss']


def test_labels_influence_the_classifier_only():
  data = batch()
  swapped = data | {'labels': (data['labels'] + 3) % 10}
  state, other = None, None
  for number in (1, 2):
    state, _ = step(number, data, state)
    other, _ = step(number, swapped, other)
  changed = differs(state, other)
  assert changed and all("['classifier']" in key for key in changed)


def test_no_labels_no_probe():
  forward, _, optimizer, update = tiny_run.make_experiment(
    rate=table(RATES), tau=table(TAUS), num_classes=None
  )
  data = tiny_run.make_batch(
    0, batch_size=BATCH_SIZE, size=SIZE, labelled=False
  )
  init = parallel.on_one_device(
    lambda key: byol.init(forward, optimizer, key, data['view1'])
  )
  state = jax.eval_shape(init, jax.random.PRNGKey(0))
  new, scalars = jax.eval_shape(parallel.on_one_device(update), state, data)
  assert jax.tree.structure(new) == jax.tree.structure(state)
  assert not any('classifier' in module for module in new.online_params)
  assert scalars.keys() == {
    'loss', 'repr_loss', 'projection_std', 'tau', 'learning_rate', 'skipped',
  }  # fmt: skip


def test_the_update_is_a_function():
  assert_equal(step(1), step(1))


def test_the_loss_falls():
  state, losses_seen = None, []
  for _ in range(12):
    state, scalars = step(4, state=state)
    losses_seen.append(float(scalars['repr_loss']))
  assert np.isfinite(losses_seen).all()
  assert losses_seen[-1] < losses_seen[0] - 0.5


class Seen(NamedTuple):
  """Outputs of a network that remembers what it was shown."""

  projection: jax.Array
  prediction: jax.Array
  logits: None = None


def fake_forward():
  """Its state is the list of the views it saw, flattened."""

  def init(key, images, is_training):
    del images, is_training
    return {'net': {'w': jax.random.normal(key, (3, 2))}}, {'seen': {}}

  def apply(params, state, images, is_training):
    assert is_training
    flat = images.reshape(len(images), -1)
    out = flat[:, :3] @ params['net']['w']
    name = f'pass{len(state["seen"])}'
    return Seen(out, out), {'seen': state['seen'] | {name: flat}}

  return networks.Forward(init, apply)


def shown(devices, number=0):
  """What both networks see in four passes when augmentation is noise."""
  noise = jax.vmap(lambda _, key: jax.random.uniform(key, (2, 2, 3)))
  loss_fn = byol.make_loss(fake_forward(), (noise, noise), losses.regression)
  params = {'net': {'w': jnp.ones((3, 2))}}
  state = byol.ByolState(
    jnp.int32(number), jax.random.PRNGKey(0), params, params,
    {'seen': {}}, {'seen': {}}, (),
  )  # fmt: skip
  data = {name: jnp.zeros((8, 2, 2, 3)) for name in ('view1', 'view2')}
  _, (states, _) = jax.vmap(
    lambda part: loss_fn(state.online_params, state, part),
    axis_name=parallel.AXIS,
  )(tiny_run.divided(data, devices))
  return {
    net: [np.asarray(x).reshape(8, -1) for x in seen['seen'].values()]
    for net, seen in states.items()
  }


def test_both_networks_see_the_same_two_views_in_order():
  seen = shown(1)
  assert [len(views) for views in seen.values()] == [2, 2]
  assert_equal(seen['online_state'], seen['target_state'])


def test_every_image_view_and_step_has_randomness_of_its_own():
  rows = np.concatenate(
    [x for n in (0, 1) for x in shown(1, n)['online_state']]
  )
  assert len(np.unique(rows[:, 0])) == 2 * 2 * 8


@pytest.mark.parametrize('devices', [2, 4, 8])
def test_randomness_does_not_depend_on_the_devices(devices):
  assert_equal(shown(1), shown(devices))


def test_gradients_are_means_over_all_devices():
  """Plain SGD on a linear network, whose update is the mean by hand."""
  loss_fn = lambda params, state, data: (
    jnp.mean(data['view1'] @ params['net']['w']),
    ({}, {'loss': jnp.mean(data['view1'])}),
  )
  update = byol.make_update(
    loss_fn, optax.sgd(1.0), lambda _: 0.0, lambda _: 1.0
  )
  params = {'net': {'w': jnp.ones(3)}}
  state = byol.ByolState(
    jnp.int32(0), jax.random.PRNGKey(0), params, params, {}, {},
    optax.sgd(1.0).init(params),
  )  # fmt: skip
  x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
  new, scalars = jax.vmap(update, (None, 0), axis_name=parallel.AXIS)(
    state, {'view1': x}
  )
  expected = 1 - x.reshape(20, 3).mean(axis=0)
  for device in range(4):
    w = new.online_params['net']['w'][device]
    np.testing.assert_allclose(w, expected, atol=1e-6)
    np.testing.assert_allclose(scalars['loss'][device], x.mean(), atol=1e-6)


def test_the_networks_start_apart():
  init = lambda key: byol.init(
    fake_forward(), optax.sgd(1.0), key, jnp.zeros((1, 2, 2, 3))
  )
  state = init(jax.random.PRNGKey(0))
  assert state.step == 0
  assert differs(state.online_params, state.target_params)
  assert differs(state.online_params, init(jax.random.PRNGKey(1)).online_params)
