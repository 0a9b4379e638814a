"""The search over a grid: what is trained, selected and tested."""

import dataclasses

import jax
import numpy as np
import pytest

from byol_jax import configuration, errors, networks
from byol_jax.data import from_config
from byol_jax.evals import features, finetune, tuning
from byol_jax.training import train
from tests.helpers import tiny_run, wiring
from tests.helpers.tiny_config import FLIP_ONLY
from tests.helpers.trainings import (
  OPTIONS,
  SIZES,
  Trainings,
  make_encoder,
  make_sets,
)


def measure(monkeypatch, accuracy, sets=None, lines=None, **changes):
  sets = sets or make_sets()
  trainings = Trainings(monkeypatch, sets, accuracy)
  options = dataclasses.replace(OPTIONS, **changes)
  log = (lambda text: None) if lines is None else lines.append
  results = finetune.measure_accuracy(
    options, make_encoder(), sets.__getitem__, None, log
  )
  return results, trainings.asked


def test_the_best_on_valid_is_tested_once_at_the_end(monkeypatch):
  accuracy = {(0.1, 0): 0.5, (0.2, 0): 0.75, (0.4, 0): 0.75}
  results, asked = measure(monkeypatch, accuracy)
  expected = []
  for rate in (0.1, 0.2, 0.4):
    expected += [('train', 'fit', (rate, 0), 10), ('test', 'valid', (rate, 0))]
  # Of equal points the lower rate.
  assert asked == [*expected, ('test', 'test', (0.2, 0))]
  assert (results['rate'], results['valid_top1']) == (0.2, 0.75)
  assert [point['valid_top1'] for point in results['grid']] == [0.5, 0.75, 0.75]
  assert {k: results[k] for k in ('fit', 'valid', 'test')} == {
    k: SIZES[k] for k in ('fit', 'valid', 'test')
  }
  by_class, _ = measure(monkeypatch, accuracy, metric='mean_per_class')
  assert by_class['rate'] == 0.1


def test_weight_decays_are_divided_by_the_rate_and_fit_with_valid_trains_again(
  monkeypatch,
):
  decays = (1e-3, 0.0)
  accuracy = {
    (rate, decay): 0.5 + rate * (decay > 0)
    for rate in OPTIONS.rates
    for decay in decays
  }
  made = wiring.spy(monkeypatch, tuning, 'make_trainer')
  results, asked = measure(
    monkeypatch,
    accuracy,
    weight_decays=decays,
    lengths=(7.0,),
    length_unit='steps',
    bn_decay=0.0,
    refit=True,
  )
  trained = [x for x in asked if x[0] == 'train']
  assert len(trained) == 7 and {x[3] for x in trained} == {7}
  best = (0.4, 1e-3)
  assert asked[-2:] == [('train', 'fit+valid', best, 7), ('test', 'test', best)]
  assert (results['rate'], results['weight_decay']) == best
  decays = [call.arguments['bn_decay'] for call in made]
  # A step an epoch: 10 / s is above 0.1.
  assert decays == [0.9]


def test_the_averages_follow_the_steps_of_an_epoch(monkeypatch):
  monkeypatch.setitem(SIZES, 'fit', 300)
  made = wiring.spy(monkeypatch, tuning, 'make_trainer')
  rule = wiring.spy(
    *(monkeypatch, tuning, 'compute_bn_decay', lambda n, b: 1 - b / n)
  )
  accuracy = {(0.1, 0): 0.5}
  measure(monkeypatch, accuracy, rates=(0.1,), bn_decay=0.0, refit=True)
  found = [call.arguments['bn_decay'] for call in made]
  assert found == [1 - 64 / 300, 1 - 64 / 360]
  assert rule[0].arguments == {'num_images': 300, 'batch_size': 64}


def test_every_option_arrives_in_the_training(monkeypatch):
  made = wiring.spy(monkeypatch, tuning, 'make_trainer')
  began = wiring.spy(monkeypatch, tuning, 'init_state')
  changes = {'warmup_share': 0.25, 'label_smoothing': 0.125}
  measure(monkeypatch, {(0.1, 0): 0.5}, rates=(0.1,), **changes)
  (made,), (began,) = made, began
  assert made.arguments == {
    'network': tiny_run.NETWORK,
    **{'batch_norm': 'local', 'bn_decay': 0.75},
    **{'momentum': 0.5, 'encoder_rate': 0.25},
    **changes,
  }
  assert began.arguments['seed'] == 3


def test_a_point_that_diverged_is_out_and_all_of_them_end_it(monkeypatch):
  lines, nan = [], float('nan')
  accuracy = {(0.1, 0): 0.5, (0.2, 0): 0.5, (0.4, 0): nan}
  results, _ = measure(monkeypatch, accuracy, lines=lines)
  assert results['rate'] == 0.1
  assert results['grid'][2]['diverged'] and 'diverged' not in results['grid'][0]
  assert any('not finite; point 3 of 3 is out' in line for line in lines)
  with pytest.raises(errors.DivergedError, match=r'of all 3 points .*rates'):
    measure(monkeypatch, dict.fromkeys(accuracy, nan))


@pytest.mark.parametrize(
  'changes, words',
  (
    ({'lengths': (0.1,)}, r'^lengths: 0.1 epochs of 320 images make no step'),
    ({'batch_size': 0}, '^batch_size'),
  ),
)
def test_values_that_cannot_be_used_are_named(monkeypatch, changes, words):
  with pytest.raises(errors.ConfigError, match=words):
    measure(monkeypatch, {}, **changes)


def test_frozen_averages_are_those_of_some_batch():
  """Without, activations are divided by the root of batch norm's epsilon."""
  fresh = make_encoder()
  encoder = fresh._replace(state=jax.tree.map(np.ones_like, fresh.state))
  options = dataclasses.replace(OPTIONS, batch_norm='frozen')
  start = lambda x: finetune.Tuner(options, x, 3, lambda: None, print)
  start(encoder)
  with pytest.raises(errors.ConfigError, match=r'^batch_norm: .frozen'):
    start(fresh)


@pytest.mark.parametrize(
  'num_classes, words', ((None, 'has no labels'), (1, 'one class'))
)
def test_sets_without_classes_to_tell_apart_are_refused(
  monkeypatch, num_classes, words
):
  sets = make_sets(num_classes or 1)
  for split in sets.values():
    split.num_classes = num_classes
  with pytest.raises(errors.DataError, match=words):
    measure(monkeypatch, {}, sets)


def test_64_shapes_are_learned():
  """From scratch, by the loop and the crops of the protocol."""
  values = FLIP_ONLY | {'augment.view1.crop.area': (0.9, 1.0)}
  config = configuration.load('shapes', values)
  few = from_config.make_image_set(config, 'fit', fraction=64 / 3600)
  network = config.network.to_dict() | {'width': 0.5}
  forward = networks.make_forward(
    num_classes=None,
    axis_name=None,
    **network | {'projector': None, 'predictor': None},
  )
  params, state = tiny_run.random_network(forward)
  encoder = features.make_encoder(forward, params, state, 'tiny')
  encoder = encoder._replace(network=network)
  options = dataclasses.replace(
    OPTIONS,
    batch_size=32,
    rates=(0.8,),
    lengths=(60.0,),
    length_unit='steps',
    momentum=0.9,
    encoder_rate=1.0,
  )
  assert few.num_examples == 64
  tuner = finetune.Tuner(
    options, encoder, 10, train.train_in_memory, lambda text: None
  )
  _, _, results = tuner.search(few, few)
  # Chance is 0.1; crops of the training are not those of the test.
  assert results['valid_top1'] > 0.8
