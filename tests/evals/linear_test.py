"""The linear protocol on points whose answer is known."""

import dataclasses

import jax
import numpy as np
import pytest

from byol_jax import errors, losses
from byol_jax.evals import linear, probe, supervised
from byol_jax.training import train
from tests.helpers import fakes, wiring

NUM_CLASSES = 6
OPTIONS = linear.Options(
  seed=0,
  batch_size=16,
  epochs=8.0,
  rates=(0.03, 3.0, 0.3),
  momentum=0.9,
  logit_clip=0.0,
  logit_penalty=0.0,
  features='cached',
  augmentation='crop_flip',
)


def make_sets(noise=0.6, num_classes=NUM_CLASSES, fit=12):
  sizes = {'fit': fit, 'valid': 9, 'test': 8}
  return {
    name: fakes.ImageSet(
      *fakes.clusters(seed, size, num_classes, noise=noise),
      num_classes=num_classes,
    )
    for seed, (name, size) in enumerate(sizes.items())
  }


def measure(sets, log=lambda text: None, augment=None, **changes):
  options = dataclasses.replace(OPTIONS, **changes)
  return linear.measure_accuracy(
    options,
    fakes.pixels(12),
    sets.__getitem__,
    train.train_in_memory,
    log,
    augment,
  )


@pytest.mark.parametrize('way', ('cached', 'augmented'))
def test_both_ways_learn_separable_points_and_repeat_exactly(way):
  sets, lines = make_sets(), []
  results = measure(sets, lines.append, features=way)
  assert results['top1'] > 0.9
  assert results['top1'] <= results['top5'] <= 1
  assert results['steps'] == 8 * 72 // 16
  assert (results['fit'], results['valid'], results['test']) == (72, 54, 48)
  # Each split is encoded once, the test split last; crops are not cached.
  encoded = [line.split()[1] for line in lines if 'encoding' in line]
  assert encoded == ['fit,', 'valid,', 'test,'][way == 'augmented' :]
  assert [s.reads for s in sets.values()] == [way == 'cached', 1, 1]
  assert 1 <= sum('step' in line for line in lines) <= probe.PROGRESS_LINES
  assert results == measure(make_sets(), features=way)
  assert results != measure(make_sets(), features=way, seed=1)


def test_the_best_five_count_where_there_are_more_than_five_classes():
  for num_classes, ks in ((5, [1]), (6, [1, 5])):
    results = measure(make_sets(num_classes=num_classes))
    found = linear.list_headlines(results)
    assert [headline.name for headline in found] == [
      f'linear top-{k}' for k in ks
    ]
    for k, headline in zip(ks, found):
      assert headline.value == results[f'top{k}']
      assert headline.num_images == 8 * num_classes
    assert ('top5' in results) == (5 in ks)


def test_shuffled_labels_are_not_learned():
  sets = make_sets()
  for seed, split in enumerate(sets.values()):
    np.random.default_rng(seed).shuffle(split.labels)
  # Chance is 1/6 with a deviation of 0.054.
  assert measure(sets)['top1'] < 1 / 6 + 0.2


def test_the_rate_is_the_best_on_valid_and_test_does_not_matter():
  sets = make_sets(noise=1.5)
  results = measure(sets)
  by_rate = {r: results[f'valid_top1_rate{r:g}'] for r in (0.03, 0.3, 3.0)}
  best = max(by_rate.values())
  assert len(set(by_rate.values())) > 1
  assert results['rate'] == min(r for r, top in by_rate.items() if top == best)
  assert results['valid_top1'] == best
  assert all(value * 54 == round(value * 54) for value in by_rate.values())
  # Other test labels: nothing changes but the result on test.
  np.random.default_rng(0).shuffle(sets['test'].labels)
  other = measure(sets)
  changed = {key for key in results if results[key] != other[key]}
  assert changed <= {'top1', 'top5'} and 'top1' in changed


@pytest.mark.parametrize(
  'correct, finite, best',
  (
    ((3, 7, 7), (True, True, True), 1),
    ((3, 7, 8), (True, True, True), 2),
    ((0, 7, 8), (True, False, False), 0),
  ),
)
def test_of_equal_rates_the_lower_and_never_a_diverged_one_is_selected(
  correct, finite, best
):
  progress = probe.Progress([0.1, 0.2, 0.4], 10, lambda text: None)
  progress.finite = np.array(finite)
  index, results = linear.select_rate(np.array(correct), 9, progress)
  assert index == best
  assert results['rate'] == progress.rates[best]
  assert results['valid_top1'] == correct[best] / 9
  assert results['diverged'] == 3 - sum(finite)


@pytest.mark.filterwarnings('ignore:overflow')
@pytest.mark.parametrize('way', ('cached', 'augmented'))
def test_a_diverged_rate_loses_and_all_of_them_end_the_run(way):
  lines = []
  results = measure(make_sets(), lines.append, features=way, rates=(1e39, 0.3))
  assert results['rate'] == 0.3
  assert results['diverged'] == 1
  assert results['top1'] > 0.9
  assert any('1e+39 diverged' in line for line in lines)
  with pytest.raises(errors.DivergedError, match='rates'):
    measure(make_sets(), features=way, rates=(1e39, 1e40))


def test_every_option_arrives_in_the_training(monkeypatch):
  spied = ((supervised, 'nesterov'), (supervised, 'init'), (probe, 'draw_rows'))
  optimizer, start, rows = (wiring.spy(monkeypatch, *names) for names in spied)
  loss = wiring.spy(monkeypatch, losses, 'regularized_cross_entropy')
  changes = {'momentum': 0.25, 'logit_clip': 5.0, 'logit_penalty': 0.125}
  measure(make_sets(), batch_size=64, epochs=4.0, seed=3, **changes)
  assert loss[0].arguments['clip'] == 5.0
  assert loss[0].arguments['penalty'] == 0.125
  assert optimizer[0].arguments == {
    'peak_rates': [0.03 / 4, 0.3 / 4, 3.0 / 4],
    'momentum': 0.25,
    'num_steps': 4 * 72 // 64,
  }
  rng = start[0].arguments['rng']
  np.testing.assert_array_equal(rng, jax.random.PRNGKey(3))
  assert rows[0].arguments['seed'] == 3


def test_full_batches_reach_the_optimum_of_scikit_learn():
  linear_model = pytest.importorskip('sklearn.linear_model')
  sets = make_sets(noise=2.0, fit=60)
  rows = {n: s.images.reshape(len(s.images), -1) for n, s in sets.items()}
  count = len(rows['fit'])
  results = measure(sets, rates=(1.0,), batch_size=count, epochs=400.0)
  # 1 / C is the weight of the penalty, which the protocol does not have.
  reference = linear_model.LogisticRegression(C=1e6, max_iter=10_000, tol=1e-6)
  reference.fit(rows['fit'], sets['fit'].labels)
  chances = reference.predict_proba(rows['fit'])
  loss = -np.log(chances[np.arange(count), sets['fit'].labels]).mean()
  assert 0.2 < loss < 1.5  # there is an optimum: the classes overlap
  # 400 steps of gradient descent come this near.
  assert results['fit_loss'] == pytest.approx(loss, rel=0.01)
  for name, key in (('valid', 'valid_top1'), ('test', 'top1')):
    expected = reference.score(rows[name], sets[name].labels)
    # Two images on the border between two classes.
    assert abs(results[key] - expected) <= 2 / len(rows[name])


def test_the_augmentation_of_the_pretraining_comes_after_the_crop():
  settings = {'features': 'augmented', 'epochs': 4.0}
  plain = measure(make_sets(), **settings)
  settings['augmentation'] = 'pretraining'
  assert measure(make_sets(), augment=lambda x, keys: x, **settings) == plain
  keys_of = []

  def shuffle_classes(images, keys):
    """Adds another number of deviation 10 to each image."""
    keys_of.append(keys.shape)
    drawn = jax.vmap(lambda key: jax.random.normal(key))(keys)
    return images + 10 * drawn[:, None, None, None]

  noisy = measure(make_sets(), augment=shuffle_classes, **settings)
  assert noisy['fit_loss'] > 2 * plain['fit_loss']
  assert keys_of[0] == (16, 2)


@pytest.mark.parametrize('way', ('cached', 'augmented'))
def test_a_test_split_that_overlaps_is_refused_before_the_training(way):
  sets, lines = make_sets(), []
  sets['test'].images[:] = sets['valid'].images[:48]
  with pytest.raises(errors.DataError, match="'test' are in 'valid' too"):
    measure(sets, lines.append, features=way)
  assert not any('step' in line for line in lines)


def test_a_batch_may_be_larger_than_the_set():
  results = measure(make_sets(), batch_size=100, epochs=20.0)
  assert results['steps'] == 14
  assert results['top1'] > 0.9


def test_labels_that_do_not_fit_are_refused():
  sets = make_sets()
  sets['fit'].labels[:] = NUM_CLASSES
  with pytest.raises(errors.DataError, match="'fit': expected labels in"):
    measure(sets, features='augmented')


@pytest.mark.parametrize(
  'changes, key',
  (
    ({'epochs': 0.1}, 'epochs'),
    ({'batch_size': 0}, 'batch_size'),
    ({'augmentation': 'pretraining'}, 'augmentation'),
  ),
)
def test_values_that_cannot_be_used_are_named(changes, key):
  with pytest.raises(errors.ConfigError, match=f'^{key}:'):
    measure(make_sets(), **changes)
