"""The transfer protocol on points whose answer is known."""

import dataclasses
import itertools

import numpy as np
import pytest

from byol_jax import errors, metrics
from byol_jax.evals import headlines, logistic, transfer
from tests.helpers import fakes, wiring

NUM_CLASSES = 4
OPTIONS = transfer.Options(
  datasets='flowers,dtd,own/set',
  batch_size=16,
  eval_crop='whole',
  min_lambda=1e-2,
  max_lambda=1e4,
  num_lambdas=7,
  max_iterations=200,
  seed=0,
)


def make_set(noise=1.2, **changes):
  sizes = {'fit': 12, 'valid': 9, 'test': 30}
  return {
    split: fakes.ImageSet(
      *fakes.clusters(seed, size, NUM_CLASSES, noise=noise),
      **({'num_classes': NUM_CLASSES} | changes),
    )
    for seed, (split, size) in enumerate(sizes.items())
  }


def make_several(**changes):
  """Sets of images with several classes: those of their pixels' signs."""
  sets = make_set(num_classes=None, **changes)
  for found in sets.values():
    found.targets = (found.images.reshape(-1, 12)[:, :3] > 0.3).astype(np.int8)
    found.targets[::7, 0] = -1
    found.labels[:] = -1
  return sets


def measure(sets, log=lambda text: None, **changes):
  def load(split, dataset, eval_crop):
    assert eval_crop == 'whole'
    if dataset not in sets:
      raise errors.DataError(f'{dataset}: not there')
    return sets[dataset][split]

  options = dataclasses.replace(OPTIONS, **changes)
  return transfer.measure_accuracy(options, fakes.pixels(12), load, log)


def test_sets_are_measured_by_their_metrics_and_the_missing_one_is_named():
  own, lines = make_set(), []
  sets = {'oxford_flowers102': make_set(), 'own/set': own}
  results = measure(sets, lines.append)
  assert results['missing'] == {'dtd': 'dtd: not there'}
  assert 'transfer: dtd is left out: dtd: not there' in lines
  flowers, found = (results['sets'][name] for name in ('flowers', 'own/set'))
  assert [flowers['metric'], found['metric']] == ['mean_per_class', 'top1']
  assert results['average'] == (flowers['value'] + found['value']) / 2
  assert [found[split] for split in transfer.SPLITS] == [48, 36, 120]
  assert 0.7 < found['value'] < 1
  # Each split is encoded once.
  assert [split.reads for split in own.values()] == [1, 1, 1]
  order = [line for line in lines if line.startswith('transfer set')]
  assert '7 of 7 penalties' in order[-2]
  texts = [*map(headlines.format_headline, transfer.list_headlines(results))]
  assert texts[1].startswith('transfer set top-1 ') and texts[1] == order[-1]
  assert texts[2].startswith('transfer average of 2 of 3 sets ')
  average = transfer.list_headlines(results)[2]
  widths = [found['half_width'], flowers['half_width']]
  # Of independent values: 1.96 times the deviation of their mean.
  np.testing.assert_allclose(average.half_width, np.hypot(*widths) / 2)
  assert results == measure(sets)


def test_the_penalty_is_the_best_on_valid_and_the_last_fit_has_both(
  monkeypatch,
):
  sets = make_set(noise=2.5)
  fits = wiring.spy(monkeypatch, logistic.Regression, 'fit')
  made = wiring.spy(monkeypatch, logistic, 'Regression')
  found = measure({'x': sets}, datasets='x')['sets']['x']
  lambdas = np.geomspace(1e-2, 1e4, 7)
  values = dict(zip(lambdas, found['valid_values'], strict=True))
  assert len({*values.values()}) > 2
  best = max(values.values())
  assert found['valid_value'] == best
  np.testing.assert_allclose(
    found['lambda'], max(x for x, value in values.items() if value == best)
  )
  # Warm starts, from the strongest penalty on.
  penalties = [call.arguments['penalty'] for call in fits]
  np.testing.assert_allclose(penalties, [*lambdas[::-1], found['lambda']])
  for before, after in itertools.pairwise(fits[:-1]):
    assert after.arguments['start'] is before.result[0]
  sizes = [len(call.arguments['targets']) for call in made]
  assert sizes == [48, 48 + 36]
  images = sets['test'].images.reshape(-1, 12)
  predicted = np.argmax(fits[-1].result[0].score(images), axis=1)
  assert found['value'] == np.mean(predicted == sets['test'].labels)
  # Other test labels change nothing but the result on test.
  np.random.default_rng(0).shuffle(sets['test'].labels)
  other = measure({'x': sets}, datasets='x')['sets']['x']
  changed = {key for key in found if found[key] != other[key]}
  assert 'value' in changed and changed <= {'value', 'half_width'}


def test_of_equal_penalties_the_strongest_is_chosen():
  fit, valid = (
    transfer.Part(images.reshape(-1, 12), labels)
    for images, labels in (
      fakes.clusters(seed, 12, NUM_CLASSES, noise=0.1) for seed in (0, 1)
    )
  )
  options = dataclasses.replace(OPTIONS, num_lambdas=3, max_lambda=1.0)
  chosen = transfer.choose_penalty(
    'top1', fit, valid, NUM_CLASSES, options, lambda text: None
  )
  assert chosen.values == [1.0] * 3 and chosen.penalty == 1.0


def test_several_classes_an_image_have_one_penalty_and_a_mean_precision():
  sets = make_several()
  found = measure({'voc/2007': sets}, datasets='voc2007')['sets']['voc2007']
  assert (found['metric'], found['num_classes']) == ('map', 3)
  assert 0.9 < found['value'] <= 1
  assert 0 < found['half_width'] < 0.1
  for split in sets.values():
    np.random.default_rng(0).shuffle(split.targets)
  chance = measure({'voc/2007': sets}, datasets='voc2007')['sets']['voc2007']
  assert chance['value'] < 0.7
  # An image that cannot be read has no row.
  sets['test'].unreadable = (3, 4)
  assert (
    measure({'voc/2007': sets}, datasets='voc2007')['sets']['voc2007']['test']
    == 118
  )


def test_intervals_are_those_of_the_metrics():
  scores = np.random.default_rng(0).normal(size=(300, NUM_CLASSES))
  labels = np.arange(300) % NUM_CLASSES
  hits = np.argmax(scores, axis=1) == labels
  widths = [
    transfer.compute_half_width(metric, scores, labels, 0)
    for metric in ('top1', 'mean_per_class')
  ]
  assert widths[0] == headlines.compute_half_width(np.mean(hits), 300)
  assert widths[1] == metrics.mean_per_class(hits, labels)[1]
  targets = (np.eye(NUM_CLASSES)[labels]).astype(np.int8)
  scores += 2 * targets
  width = transfer.compute_half_width('map', scores, targets, 0)
  found = []
  for seed in range(60):  # other images of the same kind
    other = np.random.default_rng(1 + seed).normal(size=scores.shape)
    found.append(metrics.mean_average_precision(other + 2 * targets, targets))
  np.testing.assert_allclose(width, 1.96 * np.std(found), rtol=0.5)


def test_sets_that_cannot_be_used_are_left_out():
  sets = {'a': make_set(num_classes=None), 'b': make_set(), 'c': make_set()}
  for split in sets['b'].values():
    split.labels[:] = 0
  for split in sets['c'].values():
    split.images[:] = 0.5
  results = measure(sets | {'x': make_set()}, datasets='a,b,c,x')
  assert list(results['sets']) == ['x']
  missing = results['missing']
  assert 'no labels' in missing['a']
  assert 'at least two classes of 4, found 1' in missing['b']
  assert "are in 'fit' too" in missing['c']
  with pytest.raises(errors.DataError, match=r'none of 3 sets.*no labels'):
    measure(sets, datasets='a,b,c')


def test_names_of_sets():
  assert len(transfer.list_names('paper')) == 12
  assert transfer.list_names(' cars, data/own') == ['cars', 'data/own']
  for text in ('', ',', 'cars,cars'):
    with pytest.raises(errors.ConfigError, match="expected 'paper'"):
      transfer.list_names(text)
  for name, short in {
    'voc2007': 'voc2007',
    'imagenette/160px-v2': 'imagenette/160px-v2',
    '/data/imagenette128/1.0.0': 'imagenette128',
    'own': 'own',
  }.items():
    assert transfer.shorten_name(name) == short
