"""Tests the update: what moves, what stays, what each part depends on."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byol_jax import (
  byol,
  gradients,
  losses,
  metrics,
  networks,
  optimizers,
  parallel,
)
from tests.helpers import tiny_run

SIZE = 8
BATCH_SIZE = 6
# Values by step; a test chooses them by its step.
RATES = (0.0, 0.3, 0.3, 0.3, 0.3)
TAUS = (0.99, 1.0, 0.0, 0.5, 0.9)


def table(values):
  return lambda step: jnp.asarray(values, jnp.float32)[step]


@functools.cache
def experiment():
  """(forward, loss_fn, update of one device, state), compiled once."""
  forward, loss_fn, optimizer, update = tiny_run.make_experiment(
    rate=table(RATES), tau=table(TAUS)
  )
  state = tiny_run.random_state(optimizer)
  return forward, loss_fn, parallel.on_one_device(update), state


def batch(seed=0):
  return tiny_run.make_batch(seed, batch_size=BATCH_SIZE, size=SIZE)


def step(number, data=None, state=None):
  """State and scalars of update `number` on a batch."""
  _, _, update, start = experiment()
  state = start if state is None else state
  opt_state = optax.tree_utils.tree_set(state.opt_state, count=np.int32(number))
  state = state._replace(step=np.int32(number), opt_state=opt_state)
  state, scalars = update(state, batch() if data is None else data)
  return jax.tree.map(np.asarray, (state, scalars))


def differing(a, b):
  """Paths of the leaves that differ in any bit."""
  a, b = tiny_run.flat(a), tiny_run.flat(b)
  assert a.keys() == b.keys()
  return {key for key in a if a[key].tobytes() != b[key].tobytes()}


def test_target_is_a_mixture_with_the_new_online_parameters():
  _, _, _, old = experiment()
  # Bit for bit at both ends of tau.
  assert not differing(step(1)[0].target_params, old.target_params)
  copied, _ = step(2)
  assert not differing(copied.target_params, copied.online_params)
  assert differing(copied.online_params, old.online_params)
  new, scalars = step(3)
  assert scalars['tau'] == 0.5
  target, mixed = map(tiny_run.flat, (old.target_params, new.target_params))
  for key, x in tiny_run.flat(new.online_params).items():
    expected = (x + np.float64(target[key])) / 2
    np.testing.assert_allclose(mixed[key], expected, atol=1e-6)


def test_schedules_see_the_step_before_the_update():
  _, _, _, old = experiment()
  for number in range(5):
    state, scalars = step(number)
    assert scalars['tau'] == np.float32(TAUS[number])
    assert scalars['learning_rate'] == np.float32(RATES[number])
    assert scalars[parallel.SKIPPED] == 0
    assert state.step == number + 1
    if number == 0:  # the rate is 0; the momentum is filled all the same
      assert not differing(state.online_params, old.online_params)
      mask = tiny_run.flat(optimizers.mask_kernels(old.online_params))
      trace = optax.tree_utils.tree_get(state.opt_state, 'trace')
      momentum = tiny_run.flat(trace)
      assert all(np.any(momentum[key]) for key, on in mask.items() if on)
  assert not differing(state.rng, old.rng)


def test_batch_norm_averages_move_twice_a_step_in_both_networks():
  state = None
  for number in range(2):
    state, _ = step(number, state=state)
    for net_state in (state.online_state, state.target_state):
      counters = {int(leaves['counter']) for leaves in net_state.values()}
      assert counters == {2 * (number + 1)}
  # The target's averages are its own, not copies of the online network's.
  assert differing(state.online_state, state.target_state)


@functools.cache
def passes(network):
  """(outputs, state) of a pass over view 1 alone, and over view 2 alone."""
  forward, _, _, start = experiment()
  apply = parallel.on_one_device(
    lambda params, images: forward.apply(
      params, start.online_state, images, True
    )
  )
  params = getattr(start, f'{network}_params')
  return [apply(params, batch()[view]) for view in ('view1', 'view2')]


def test_each_view_has_its_own_augmentation():
  """Of a network that averages pixels: 1 + 1 of view 1, 2 + 4 of view 2."""

  def apply(params, state, images, is_training):
    value = jnp.mean(images, (-3, -2))
    return networks.Outputs(value, value, value, None), state

  def read(online, target):
    places = zip((1000, 100, 10, 1), (*online, *target), strict=True)
    return sum(place * view.projection[:, 0] for place, view in places)

  augments = (lambda images, _: images + 1, lambda images, _: images + 4)
  loss_fn = byol.make_loss(networks.Forward(None, apply), augments, read)
  state = byol.ByolState(
    jnp.zeros((), jnp.int32), jax.random.PRNGKey(0), *[{}] * 5
  )
  loss = parallel.on_one_device(lambda images: loss_fn({}, state, images)[0])
  images = jnp.ones((2, 4, 4, 3))
  assert loss({'view1': images, 'view2': 2 * images}) == 2626


def test_scalars_are_those_of_separate_passes():
  """So view 1 alone trains the classifier."""
  online, target = ([x for x, _ in passes(n)] for n in ('online', 'target'))

  def cosine(a, b):
    a, b = np.float64(a), np.float64(b)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / norms

  byol_loss = 4 - 2 * np.mean(
    cosine(online[0].prediction, target[1].projection)
    + cosine(online[1].prediction, target[0].projection)
  )
  logits = np.float64(online[0].logits)
  # The label of each image has the rank:
  ranks = [0, 4, 5, 3, 0, 9]
  rows = np.arange(BATCH_SIZE)
  labels = np.argsort(-logits, axis=1)[rows, ranks].astype(np.int32)
  _, scalars = step(1, batch() | {'labels': labels})
  chosen = logits[rows, labels]
  classifier_loss = np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen)
  unit = np.float64(online[0].projection)
  unit /= np.linalg.norm(unit, axis=1, keepdims=True)
  expected = {
    'byol_loss': byol_loss,
    'classifier_loss': classifier_loss,
    'total_loss': byol_loss + classifier_loss,
    'top1_accuracy': 2 / 6,
    'top5_accuracy': 4 / 6,
    'projection_std': np.sqrt(unit.var(axis=0).sum()),
  }
  for name, value in expected.items():
    # Two float32 compilations of a dozen batch norms.
    np.testing.assert_allclose(scalars[name], value, rtol=1e-4, err_msg=name)


def test_the_monitor_sees_both_networks_as_they_are():
  """View 1 in the online network, view 2 in the target, in training mode."""
  forward, _, _, state = experiment()
  unchanged = lambda images, keys: images
  monitor = byol.make_monitor(forward, (unchanged, unchanged))
  found = parallel.on_one_device(monitor)(state, batch())
  (online, _), (target, _) = passes('online')[0], passes('target')[1]
  alone = lambda value: value
  own, pairs = metrics.cosines(online.prediction, target.projection, alone)
  norms = np.linalg.norm(online.prediction, axis=1)
  expected = {
    'effective_rank': metrics.effective_rank(online.projection, alone),
    'target_cosine': own,
    'target_margin': own - pairs,
    'prediction_norm': norms.mean(),
    'dead_units': np.mean(np.max(online.representation, axis=0) <= 0),
  }
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    # Two float32 compilations of a dozen batch norms.
    np.testing.assert_allclose(
      found[name], value, rtol=1e-4, atol=1e-5, err_msg=name
    )


def test_labels_influence_the_classifier_only():
  data = batch()
  swapped = data | {'labels': (data['labels'] + 3) % 10}
  state, other = None, None
  for number in (1, 2):
    state, _ = step(number, data, state)
    other, _ = step(number, swapped, other)
  changed = differing(state, other)
  assert changed and all("['classifier']" in key for key in changed)


def test_images_without_a_label_train_no_classifier():
  data = batch()
  known = data | {'is_labelled': np.ones(BATCH_SIZE, bool)}
  for name, value in step(1)[1].items():
    # The same sum, divided in two steps.
    np.testing.assert_allclose(step(1, known)[1][name], value, rtol=1e-6)
  is_labelled = np.arange(BATCH_SIZE) < 4
  partly = data | {'is_labelled': is_labelled}
  other = partly | {'labels': np.where(is_labelled, data['labels'], -1)}
  assert not differing(step(1, partly), step(1, other))
  none = data | {'is_labelled': np.zeros(BATCH_SIZE, bool)}
  state, scalars = step(1, none)
  assert scalars['labelled'] == scalars['classifier_loss'] == 0
  assert (
    scalars['total_loss'] == scalars['byol_loss'] and not scalars['skipped']
  )
  trace = optax.tree_utils.tree_get(state.opt_state, 'trace')
  assert not np.any(trace['classifier']['b'])


def test_each_labelled_image_counts_once_whatever_device_has_it():
  generator = np.random.default_rng(0)
  logits = generator.normal(size=(3, 4, 10)).astype(np.float32)
  labels = generator.integers(0, 10, (3, 4))
  is_labelled = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], bool)

  def score(logits, labels, is_labelled):
    data = {'labels': labels, 'is_labelled': is_labelled}
    return parallel.mean(byol._score_classifier(logits, data))

  found = jax.vmap(score, axis_name=parallel.AXIS)(logits, labels, is_labelled)
  rows = logits[is_labelled], labels[is_labelled]
  expected = {
    'classifier_loss': losses.cross_entropy(*rows).mean(),
    'top1_accuracy': metrics.in_top_k(*rows, 1).mean(),
    'top5_accuracy': metrics.in_top_k(*rows, 5).mean(),
    'labelled': 5 / 12,
  }
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], [value] * 3, rtol=1e-6)


def test_without_labels_there_is_no_classifier():
  forward, _, optimizer, update = tiny_run.make_experiment(
    rate=table(RATES), tau=table(TAUS), num_classes=None
  )
  data = batch()
  del data['labels']
  init = functools.partial(byol.init, forward, optimizer)
  state = jax.eval_shape(init, jax.random.PRNGKey(0), data['view1'])
  new, scalars = jax.eval_shape(parallel.on_one_device(update), state, data)
  assert jax.tree.structure(new) == jax.tree.structure(state)
  assert not any('classifier' in module for module in new.online_params)
  assert scalars.keys() == {
    'total_loss', 'byol_loss', 'projection_std', 'tau', 'learning_rate',
    'skipped',
  }  # fmt: skip


Seen = collections.namedtuple('Seen', ('projection', 'prediction', 'logits'))


def fake_forward():
  """Network whose state lists the views it was applied to, flattened."""

  def init(key, images, is_training):
    del images, is_training
    return {'net': {'w': jax.random.normal(key, (3, 2))}}, {'seen': {}}

  def apply(params, state, images, is_training):
    assert is_training
    flat = images.reshape(len(images), -1)
    out = flat[:, :3] @ params['net']['w']
    name = f'pass{len(state["seen"])}'
    return Seen(out, out, None), {'seen': state['seen'] | {name: flat}}

  return networks.Forward(init, networks.apply_in_turn(apply))


def shown(devices, number=0):
  """Views that both networks are applied to when augmentation is noise."""
  noise = jax.vmap(lambda _, key: jax.random.uniform(key, (2, 2, 3)))
  loss_fn = byol.make_loss(fake_forward(), (noise, noise), tiny_run.BYOL_LOSS)
  params = {'net': {'w': jnp.ones((3, 2))}}
  state = byol.ByolState(
    jnp.int32(number), jax.random.PRNGKey(0), params, params,
    {'seen': {}}, {'seen': {}}, (),
  )  # fmt: skip
  data = {name: jnp.zeros((8, 2, 2, 3)) for name in ('view1', 'view2')}
  mapped = jax.vmap(
    lambda part: loss_fn(state.online_params, state, part),
    axis_name=parallel.AXIS,
  )
  _, (states, _) = jax.jit(mapped)(tiny_run.divided(data, devices))
  return {
    net: [np.asarray(x).reshape(8, -1) for x in seen['seen'].values()]
    for net, seen in states.items()
  }


def test_every_image_view_and_step_has_its_own_randomness():
  one = shown(1)
  assert [len(views) for views in one.values()] == [2, 2]
  # Both networks see the same two views in order, on any number of devices.
  assert not differing(one['online_state'], one['target_state'])
  for devices in (2, 8):
    assert not differing(one, shown(devices))
  rows = np.concatenate([*one['online_state'], *shown(1, 1)['online_state']])
  assert len(np.unique(rows[:, 0])) == 2 * 2 * 8


def test_gradients_are_means_over_all_devices():
  """Compares SGD on a linear network with the mean computed by hand."""
  loss_fn = lambda params, state, data: (
    jnp.mean(data['view1'] @ params['net']['w']),
    ({}, {'loss': jnp.mean(data['view1'])}),
  )
  update = byol.make_update(
    *(gradients.make_gradients(loss_fn), optax.sgd(1.0)),
    *(lambda _: 0.0, lambda _: 1.0),
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


def test_the_networks_are_initialised_with_different_keys():
  init = lambda key: byol.init(
    fake_forward(), optax.sgd(1.0), key, jnp.zeros((1, 2, 2, 3))
  )
  state, other = (init(jax.random.PRNGKey(seed)) for seed in (0, 1))
  assert state.step == 0
  assert differing(state.online_params, state.target_params)
  assert differing(state.online_params, other.online_params)


def test_the_target_may_start_like_the_online_network():
  init = lambda start: byol.init(
    *(fake_forward(), optax.sgd(1.0), jax.random.PRNGKey(0)),
    *(jnp.zeros((1, 2, 2, 3)), start),
  )
  same, usual = init('online'), init('random')
  assert not differing(same.target_params, same.online_params)
  assert not differing(same.online_params, usual.online_params)


@pytest.mark.parametrize('parameters', byol.TARGET_PARAMS)
def test_the_target_has_the_parameters_that_are_chosen(parameters):
  """The loss is the sum of what the target makes of the images."""
  target = byol.make_target(
    parameters=parameters, start='random', base_tau=0.5, schedule='constant',
    total_steps=9,
  )  # fmt: skip
  unchanged = lambda images, keys: images
  loss_fn = byol.make_loss(
    *(fake_forward(), (unchanged, unchanged)),
    lambda online, target: jnp.sum(target[0].projection, axis=1),
    target.get_params,
  )
  online, average = ({'net': {'w': jnp.full((3, 2), x)}} for x in (2.0, 5.0))
  state = byol.ByolState(
    jnp.int32(0), jax.random.PRNGKey(0), online, average,
    {'seen': {}}, {'seen': {}}, (),
  )  # fmt: skip
  images = jnp.ones((4, 2, 2, 3))
  differentiate = jax.value_and_grad(
    lambda online, average: loss_fn(
      online,
      state._replace(target_params=average),
      {'view1': images, 'view2': images},
    )[0],
    (0, 1),
  )
  loss, (to_online, to_average) = parallel.on_one_device(differentiate)(
    online, average
  )
  assert loss == 6 * (5 if parameters == 'average' else 2)
  assert np.all(to_online['net']['w'] == (parameters == 'online'))
  assert not np.any(to_average['net']['w'])
