"""Where the values of a configuration arrive in the method."""

import math
import re

import jax
from ml_collections import config_dict
import numpy as np
import pytest

from byol_jax import (
  augment,
  byol,
  configuration,
  errors,
  experiment,
  gradients,
  losses,
  modules,
  networks,
  optimizers,
  parallel,
  resnet,
  schedules,
)
from tests.helpers import wiring

NUM_EXAMPLES, NUM_CLASSES = 192, 4
NORM = ('axis_name', 'decay', 'epsilon')


def pick(arguments, *names):
  return {name: arguments[name] for name in names}


def trace_update(built, state, batch_size=4):
  """Returns the shapes of the state and the scalars after a step."""
  size = (batch_size, built.image_size, built.image_size, 3)
  view = jax.ShapeDtypeStruct(size, 'float32')
  labels = jax.ShapeDtypeStruct((batch_size,), 'int32')
  return jax.eval_shape(
    parallel.on_one_device(built.update),
    *(state, {'view1': view, 'view2': view, 'labels': labels}),
  )


def test_every_key_of_the_preset_is_changed_and_has_a_reader():
  """A new key fails here, then in the test of who should read it."""
  preset = configuration.flatten(configuration.read_preset('pretrain'))
  assert wiring.CHANGED.keys() == preset.keys()
  same = [key for key, value in preset.items() if value == wiring.CHANGED[key]]
  assert not same


def test_every_value_of_the_method_arrives(monkeypatch):
  seen = {
    name: wiring.spy(monkeypatch, owner, name)
    for owner, name in (
      *((augment, 'make_augment'), (losses, 'make_objective')),
      *((networks, 'make_forward'), (optimizers, 'make_optimizer')),
      *((schedules, 'make_learning_rate'), (byol, 'make_target')),
      *((networks, 'scale_initial_weights'),),
      *((byol, 'make_loss'), (byol, 'make_update'), (byol, 'init')),
      (byol, 'make_monitor'),
      *((gradients, 'make_gradients'), (parallel, 'list_groups')),
      (parallel, 'shard_optimizer'),
      *((resnet, 'ResNet'), (networks, 'MLP'), (modules, 'BatchNorm')),
    )
  }
  in_epochs = experiment.build(
    wiring.load(monkeypatch, steps=0), NUM_EXAMPLES, NUM_CLASSES
  )
  for calls in seen.values():
    calls.clear()
  config = wiring.load(monkeypatch)
  built = experiment.build(config, NUM_EXAMPLES, NUM_CLASSES)
  state = jax.eval_shape(built.initial_state)
  trace_update(built, state)
  (update,), (loss,) = seen['make_update'], seen['make_loss']
  assert built.update is update.result
  division = wiring.find_call(
    seen['make_gradients'], update.arguments['compute_gradients']
  )
  assert division['loss_fn'] is loss.result
  # It sees what the loss sees.
  (monitor,) = (call.arguments for call in seen['make_monitor'])
  shared = ('forward', 'augments', 'get_target_params')
  assert all(monitor[name] is loss.arguments[name] for name in shared)
  assert monitor['accumulate'] == division['accumulate']
  (groups,) = {tuple(x.arguments.values()) for x in seen['list_groups']}
  assert groups == (1, division['bn_group'])
  sharded = update.arguments['optimizer']
  whole_state = wiring.find_call(seen['shard_optimizer'], sharded)
  assert whole_state == {'optimizer': built.optimizer}
  whole, in_training = (
    wiring.find_call(seen['make_forward'], forward)
    for forward in (built.forward, loss.arguments['forward'])
  )
  precision = in_training.pop('precision')
  recompute_blocks = in_training.pop('recompute_blocks')
  assert in_training.pop('one_pass')  # of a small encoder on a CPU
  assert not in_training.pop('stem_of_blocks')
  assert not in_training.pop('fold_norms')
  assert whole == in_training
  optimizer = wiring.find_call(seen['make_optimizer'], built.optimizer)
  rate = update.arguments['learning_rate']
  assert optimizer.pop('learning_rate') is rate
  head_rates = optimizer.pop('head_rates')
  (learning_rate,) = (
    call.arguments
    for call in seen['make_learning_rate']
    if call.result.schedule is rate
  )
  (made,) = seen['make_target']
  target = made.arguments
  assert update.arguments['tau'] is made.result.tau
  assert loss.arguments['get_target_params'] is made.result.get_params
  total_steps = target.pop('total_steps')
  assert learning_rate['total_steps'] == total_steps == built.num_steps
  assert learning_rate['num_examples'] == NUM_EXAMPLES
  assert learning_rate['batch_size'] == built.batch_size
  views = [
    wiring.find_call(seen['make_augment'], view)
    for view in loss.arguments['augments']
  ]
  heads = {
    call.arguments['name']: call.arguments['sizes'] for call in seen['MLP']
  }
  (head_norm,) = {call.arguments['norm'] for call in seen['MLP']}
  (init_scale,) = {
    call.arguments['scale'] for call in seen['scale_initial_weights']
  }
  encoder = seen['ResNet'][0].arguments
  norms = [tuple(pick(x.arguments, *NORM).values()) for x in seen['BatchNorm']]
  # The initial state is of one device.
  assert {axis for axis, *_ in norms} == {None, parallel.AXIS}
  (norm,) = {tuple(settings) for _, *settings in norms}
  assert state.online_params['classifier']['w'].shape[1] == NUM_CLASSES
  preset = re.search(
    r'preset (\S+): .* (\S+) epochs at batch (\S+):', built.derived[0]
  )
  (start,) = {call.arguments['start'] for call in seen['init']}
  assert start == target['start']
  objective = wiring.find_call(
    seen['make_objective'], loss.arguments['objective']
  )
  assert objective.pop('devices') is parallel
  arrived = {
    'preset': preset[1],
    'preset_epochs': int(preset[2]),
    'preset_batch_size': int(preset[3]),
    'seed': built.seed,
    'image_size': built.image_size,
    'epochs': in_epochs.num_steps * in_epochs.batch_size / NUM_EXAMPLES,
    'steps': built.num_steps,
    'batch_size': built.batch_size,
    'precision': precision,
    'shard_optimizer': built.shard_optimizer,
    'recompute_blocks': recompute_blocks,
    'batch': pick(division, 'accumulate'),
    'network': {
      'encoder': encoder['encoder'],
      **pick(encoder, 'width', 'version', 'gamma_init', 'stem', 'padding'),
      **heads,
      'bn_decay': norm[0],
      'bn_epsilon': norm[1],
      'head_norm': head_norm,
      'init_scale': init_scale,
      'bn_group': groups[1],
    },
    'augment': {'view1': views[0], 'view2': views[1]},
    'target': target,
    'objective': objective,
    'optimizer': optimizer,
    'schedule': pick(
      learning_rate,
      *('base_rate', 'warmup_epochs', 'max_warmup_share', 'scale_with_batch'),
    )
    | {f'{head}_rate': rate for head, rate in head_rates.items()},
  }
  expected = {key: wiring.CHANGED[key] for key in wiring.METHOD}
  assert configuration.flatten(config_dict.ConfigDict(arrived)) == expected


def list_forms(parts=0, one_pass=True, stem_of_blocks=False, fold_norms=False):
  return parts, one_pass, stem_of_blocks, fold_norms


@pytest.mark.parametrize(
  'changes, platform, expected',
  [
    *(({}, 'tpu', list_forms(2)), ({'image_size': 225}, 'tpu', list_forms())),
    ({'precision': 'bfloat16'}, 'tpu', list_forms(2)),
    ({'network.width': 2.0}, 'tpu', list_forms()),
    ({'network.stem': 'small'}, 'tpu', list_forms()),
    *(({}, None, list_forms(0, False)), ({}, 'cpu', list_forms(0, False))),
    ({'network.encoder': 'TinyResNet'}, 'cpu', list_forms()),
    (
      {'network.encoder': 'TinyResNet', 'network.width': 2.0},
      *('cpu', list_forms(0, False)),
    ),
    *(({}, name, list_forms(0, False, True, True)) for name in ('cuda', 'gpu')),
    ({'image_size': 225}, 'cuda', list_forms(0, False, False, True)),
    ({'network.encoder': 'ResNet18'}, 'cuda', list_forms(0, True, True)),
    ({'network.version': 2}, 'cuda', list_forms(0, True, True)),
    ({'network.stem': 'small'}, 'cuda', list_forms(0, False, False, True)),
  ],
)
def test_the_form_of_the_network_fits_the_platform(
  monkeypatch, changes, platform, expected
):
  calls = wiring.spy(monkeypatch, networks, 'make_forward')
  losses_made = wiring.spy(monkeypatch, byol, 'make_loss')
  config = configuration.load('pretrain:1000', changes)
  built = experiment.build(config, NUM_EXAMPLES * 100, 4, platform)
  whole, training = (
    wiring.find_call(calls, forward)
    for forward in (built.forward, losses_made[0].arguments['forward'])
  )
  found = training.get('parts_in_channels', 0), training.get('one_pass', True)
  found += tuple(
    training.get(x, False) for x in ('stem_of_blocks', 'fold_norms')
  )
  assert found == expected
  forms = {'parts_in_channels', 'one_pass', 'stem_of_blocks', 'fold_norms'}
  assert not forms & set(whole)


@pytest.mark.parametrize('scale_with_batch', [True, False])
def test_rates_and_tau_are_those_of_the_configuration(
  monkeypatch, scale_with_batch
):
  """15 steps, 2 of warm-up; the peak is 3.0, times 96 / 256 if it is scaled."""
  updates = wiring.spy(monkeypatch, byol, 'make_update')
  tau = 'cosine' if scale_with_batch else 'constant'
  changes = {'schedule.scale_with_batch': scale_with_batch, 'steps': 0}
  config = wiring.load(monkeypatch, **changes, target__schedule=tau)
  experiment.build(config, NUM_EXAMPLES, None)
  found = updates[0].arguments
  peak = 3.0 * 96 / 256 if scale_with_batch else 3.0
  for step in range(16):
    falling = 0.5 * (1 + math.cos(math.pi * (step - 2) / 13))
    rate = peak * (step / 2 if step < 2 else falling)
    rising = 1 - 0.25 * 0.5 * (1 + math.cos(math.pi * step / 15))
    expected = rising if scale_with_batch else 0.75
    # A few times the rounding of float32.
    np.testing.assert_allclose(found['learning_rate'](step), rate, atol=1e-6)
    np.testing.assert_allclose(found['tau'](step), expected, atol=1e-6)


def test_the_state_before_step_0_is_that_of_the_seed(monkeypatch):
  calls = wiring.spy(monkeypatch, byol, 'init', lambda *arguments: None)
  config = wiring.load(monkeypatch)
  built = experiment.build(config, NUM_EXAMPLES, None)
  built.initial_state()
  arguments = calls[0].arguments
  np.testing.assert_array_equal(arguments['rng'], jax.random.PRNGKey(5))
  assert arguments['optimizer'] is built.optimizer
  assert arguments['images'].shape == (1, 24, 24, 3)


def test_bfloat16_leaves_state_and_scalars_in_float32():
  values = {'precision': 'bfloat16'}
  built = experiment.build(configuration.load('cifar10:cpu', values), 300, 10)
  state = jax.eval_shape(built.initial_state)
  after, scalars = trace_update(built, state)
  assert after == state  # names, shapes and dtypes
  assert {x.dtype.name for x in scalars.values()} == {'float32'}


def test_a_run_without_a_step_is_refused(monkeypatch):
  config = wiring.load(monkeypatch, steps=0)
  with pytest.raises(errors.ConfigError, match=r'^epochs: 7\.5 of 12 images'):
    experiment.build(config, 12, None)


@pytest.mark.parametrize('num_examples', [300, 7_999, 8_000, 8_002, 100_001])
def test_auto_is_half_the_number_of_images_and_at_least_4000(num_examples):
  config = configuration.load('folder:cpu')
  built = experiment.build(config, num_examples, None)
  assert built.num_steps == max(4_000, num_examples // 2)
  assert f': {built.num_steps:,} steps (auto), ' in built.derived[1]


@pytest.mark.parametrize('steps', [101, 4_000])
@pytest.mark.parametrize('share', [0.1, 0.25])
def test_a_run_in_steps_warms_up_for_a_share_of_them(monkeypatch, steps, share):
  rates = wiring.spy(monkeypatch, schedules, 'make_learning_rate')
  values = {'steps': steps, 'schedule.max_warmup_share': share}
  built = experiment.build(configuration.load('cifar10:cpu', values), 300, None)
  assert built.num_steps == steps
  assert rates[0].result.warmup_steps == int(share * steps)


def test_a_run_in_steps_has_at_least_one_batch_of_images():
  config = configuration.load('folder:cpu')
  with pytest.raises(errors.ConfigError, match=r'^batch_size: .* 40,.*=32$'):
    experiment.build(config, 40, None)
  config = configuration.load('folder:cpu', {'batch_size': 32})
  assert experiment.build(config, 40, None).num_steps == 4_000


@pytest.mark.parametrize(
  'length, warns',
  [({'epochs': 3.0}, True), ({'steps': 999}, True), ({'steps': 1_000}, False)],
)
def test_a_short_run_is_warned_of(length, warns):
  built = experiment.build(configuration.load('shapes', length), 9_000, 10)
  assert any('worse than a random one' in x for x in built.derived) == warns


@pytest.mark.parametrize('count, warns', [(299, True), (300, False)])
def test_few_images_are_warned_of(count, warns):
  built = experiment.build(configuration.load('folder:cpu'), count, None)
  assert len(built.derived) == 2 + warns
  assert (f'warning: {count} images: 300' in built.derived[-1]) == warns


@pytest.mark.parametrize('batch_size, warns', [(64, True), (65, False)])
def test_too_few_images_for_the_linear_predictor_are_warned_of(
  batch_size, warns
):
  values = {'batch_size': batch_size, 'objective.name': 'optimal_linear'}
  built = experiment.build(
    configuration.load('cifar10:cpu', values), 50_000, None
  )
  assert any('images of 64 numbers' in x for x in built.derived) == warns
