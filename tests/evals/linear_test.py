"""The linear protocol on points whose answer is known."""

import jax
import numpy as np
import pytest

from byol_jax import errors
from byol_jax.evals import features, linear, probe
from configs.evals import linear as configuration
from tests.helpers import fakes

NUM_CLASSES = 6


def make_config(**overrides):
  config = configuration.get_config()
  config.update(
    {
      'batch_size': 16,
      'epochs': 8.0,
      'rates': (0.03, 3.0, 0.3),
      'features': 'cached',
    }
    | overrides
  )
  return config


def make_sets(noise=0.6, **changes):
  sizes = {'fit': 12, 'valid': 9, 'test': 8}
  return {
    name: fakes.ImageSet(
      *fakes.clusters(seed, size, NUM_CLASSES, noise=noise),
      **({'num_classes': NUM_CLASSES} | changes),
    )
    for seed, (name, size) in enumerate(sizes.items())
  }


def run(sets, note=lambda text: None, **overrides):
  return linear.run(
    make_config(**overrides), fakes.pixels(12), sets.__getitem__, note
  )


@pytest.mark.parametrize('way', ('cached', 'augmented'))
def test_both_ways_learn_separable_points_and_repeat_exactly(way):
  results = run(make_sets(), features=way)
  assert results['top1'] > 0.9
  assert results['top1'] <= results['top5'] <= 1
  assert results['steps'] == 8 * 72 // 16
  assert (results['fit'], results['valid'], results['test']) == (72, 54, 48)
  assert results == run(make_sets(), features=way)
  assert results != run(make_sets(), features=way, seed=1)


def test_shuffled_labels_are_not_learned():
  sets = make_sets()
  for seed, split in enumerate(sets.values()):
    np.random.default_rng(seed).shuffle(split.labels)
  # Chance is 1/6 with a deviation of 0.054.
  assert run(sets)['top1'] < 1 / 6 + 0.2


def test_the_rate_is_the_best_on_valid_and_test_has_no_say():
  sets = make_sets(noise=1.5)
  lines = []
  results = run(sets, lines.append)
  by_rate = {r: results[f'valid_top1_rate{r:g}'] for r in (0.03, 0.3, 3.0)}
  best = max(by_rate.values())
  assert len(set(by_rate.values())) > 1
  assert results['rate'] == min(r for r, top in by_rate.items() if top == best)
  assert results['valid_top1'] == best
  assert all(value * 54 == round(value * 54) for value in by_rate.values())
  # Other test labels: nothing changes but the result on test.
  np.random.default_rng(0).shuffle(sets['test'].labels)
  other = run(sets)
  changed = {key for key in results if results[key] != other[key]}
  assert changed <= {'top1', 'top5'} and 'top1' in changed
  assert 1 < sum('step' in line for line in lines) <= probe.NOTES


def test_each_split_is_encoded_once_and_the_test_split_last():
  sets = make_sets()
  lines = []
  run(sets, lines.append)
  assert [split.reads for split in sets.values()] == [1, 1, 1]
  encoded = [line.split()[2] for line in lines if 'encoding' in line]
  assert encoded == ['fit,', 'valid,', 'test,']
  sets = make_sets()
  run(sets, features='augmented')
  # Training takes random crops.
  assert [split.reads for split in sets.values()] == [0, 1, 1]


def chosen(correct, finite=(True, True, True)):
  progress = probe.Progress([0.1, 0.2, 0.4], 10, lambda text: None)
  progress.losses, progress.finite = np.zeros(3), np.array(finite)
  found = features.Features(np.zeros((9, 1)), np.zeros(9), np.arange(9))
  return linear.choose(progress.rates, np.array(correct), found, progress)


def test_of_equal_rates_the_smaller_and_never_a_diverged_one_is_chosen():
  assert chosen([3, 7, 7])['rate'] == 0.2
  assert chosen([3, 7, 8])['rate'] == 0.4
  assert chosen([0, 7, 8], (True, False, False))['rate'] == 0.1
  assert chosen([0, 7, 8], (True, False, False))['diverged'] == 2


def test_the_order_in_which_rates_are_given_does_not_matter():
  for rates in ((3.0, 0.3, 1.0), (0.3, 1.0, 3.0)):
    results = run(make_sets(noise=0.1), rates=rates)
    assert results['valid_top1_rate3'] == results['valid_top1_rate0.3'] == 1
    assert results['rate'] == 0.3


@pytest.mark.filterwarnings('ignore:overflow')
@pytest.mark.parametrize('way', ('cached', 'augmented'))
def test_a_diverged_rate_loses_and_all_of_them_end_the_run(way):
  lines = []
  results = run(make_sets(), lines.append, features=way, rates=(1e39, 0.3))
  assert results['rate'] == 0.3
  assert results['diverged'] == 1
  assert results['top1'] > 0.9
  assert any('1e+39 diverged' in line for line in lines)
  with pytest.raises(errors.DivergedError, match='rates'):
    run(make_sets(), features=way, rates=(1e39, 1e40))


def test_standardised_features_do_not_depend_on_scale_and_origin():
  sets, moved = make_sets(), make_sets()
  factor = 2.0 ** np.arange(-2, 2).reshape(1, 4, 1)
  for split in moved.values():
    split.images = (split.images * factor + 8).astype(np.float32)
    split.images[..., 0] = 5.0
  for split in sets.values():
    split.images[..., 0] = 5.0  # constant: no deviation to divide by
  first, second = (run(s, standardize=True) for s in (sets, moved))
  # float32 around 8 and around 0: the losses agree to its precision.
  assert first['fit_loss'] == pytest.approx(second['fit_loss'], rel=1e-3)
  assert first['top1'] == second['top1']
  assert run(sets)['fit_loss'] != pytest.approx(first['fit_loss'], rel=0.01)


def test_every_epoch_has_each_row_once_in_an_order_of_its_own():
  order = probe.orders(3, 40)
  epochs = [[next(order) for _ in range(40)] for _ in range(3)]
  assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 3
  again = probe.orders(3, 40)
  assert [next(again) for _ in range(40)] == epochs[0]


def test_a_batch_larger_than_the_set_is_used_as_asked():
  results = run(make_sets(), batch_size=100, epochs=20.0)
  assert results['steps'] == 14
  assert results['top1'] > 0.9


@pytest.mark.parametrize('rows', (7, 1024))
def test_counts_do_not_depend_on_the_parts(rows, monkeypatch):
  monkeypatch.setattr(probe, 'ROWS', rows)
  generator = np.random.default_rng(0)
  values = generator.normal(size=(31, 5)).astype(np.float32)
  labels = generator.integers(0, NUM_CLASSES, 31)
  w = generator.normal(size=(3, 5, NUM_CLASSES)).astype(np.float32)
  b = generator.normal(size=(3, NUM_CLASSES)).astype(np.float32)
  found = features.Features(values, labels, np.arange(31))
  for k in (1, 5):
    top = np.argsort(-(np.einsum('bd,rdc->rbc', values, w) + b[:, None]))
    expected = (top[..., :k] == labels[:, None]).any(-1).sum(-1)
    counts = probe.count({'linear': {'w': w, 'b': b}}, found, k)
    np.testing.assert_array_equal(counts, expected)
    jax.clear_caches()  # ROWS is no argument of what is compiled


def test_labels_that_are_absent_or_do_not_fit_are_data_errors():
  with pytest.raises(errors.DataError, match="'fit' has no labels"):
    run(make_sets(num_classes=None))
  for way in ('cached', 'augmented'):
    sets = make_sets()
    sets['fit'].labels[:] = NUM_CLASSES
    with pytest.raises(errors.DataError, match="'fit': expected labels in"):
      run(sets, features=way)
  sets = make_sets()
  sets['valid'].num_classes = 3
  with pytest.raises(errors.DataError, match='3 classes'):
    run(sets)


@pytest.mark.parametrize(
  'overrides, key',
  (
    ({'features': 'both'}, 'features'),
    ({'rates': ()}, 'rates'),
    ({'rates': (0.1, 0.1)}, 'rates'),
    ({'rates': (0.1, -1.0)}, 'rates'),
    ({'momentum': 1.0}, 'momentum'),
    ({'epochs': 0.1}, 'epochs'),
    ({'batch_size': 0}, 'batch_size'),
    ({'features': 'augmented', 'standardize': True}, 'standardize'),
  ),
)
def test_values_that_cannot_be_used_are_named(overrides, key):
  with pytest.raises(errors.ConfigError, match=f'^{key}:'):
    run(make_sets(), **overrides)


def test_the_default_is_the_papers_and_arguments_are_checked():
  config = configuration.get_config()
  assert config.rates == (0.4, 0.3, 0.2, 0.1, 0.05)
  assert (config.epochs, config.batch_size, config.momentum) == (80, 1024, 0.9)
  assert (config.features, config.standardize) == ('augmented', False)
  assert configuration.get_config('cpu').features == 'cached'
  with pytest.raises(ValueError, match='unknown argument'):
    configuration.get_config('gpu')
