"""Nearest neighbours against float64 numpy."""

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.evals import knn
from configs.evals import knn as configuration
from tests.helpers import fakes

NUM_CLASSES = 5


def reference(bank, labels, queries, k, temperature):
  """Votes [Q, C]: every row's cosine, sorted, in float64."""
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  cosines = unit(queries.astype('f8')) @ unit(bank.astype('f8')).T
  votes = np.zeros((len(queries), NUM_CLASSES))
  for query, row in enumerate(cosines):
    for i in sorted(range(len(row)), key=lambda i: -row[i])[:k]:
      votes[query, labels[i]] += np.exp(row[i] / temperature)
  return votes


def noise(seed, count, dim=6):
  generator = np.random.default_rng(seed)
  # Lengths differ by a factor of 100: only directions may matter.
  scale = 10 ** generator.uniform(-1, 1, (count, 1))
  points = generator.normal(size=(count, dim)) * scale
  return points.astype(np.float32), generator.integers(0, NUM_CLASSES, count)


@pytest.mark.parametrize(
  'k, temperature', ((1, 0.1), (7, 0.1), (20, 0.01), (20, 1.0), (83, 0.5))
)
@pytest.mark.parametrize('parts', ((256, 65536), (5, 9)))
def test_predictions_agree_with_the_definition(
  k, temperature, parts, monkeypatch
):
  monkeypatch.setattr(knn, 'QUERIES', parts[0])
  monkeypatch.setattr(knn, 'BANK', parts[1])
  bank, labels = noise(0, 83)
  queries, _ = noise(1, 22)
  votes = reference(bank, labels, queries, k, temperature)
  # No vote so close that float32 could turn it.
  first, second = np.sort(votes, axis=1)[:, [-1, -2]].T
  assert (first - second > 1e-3 * first).all()
  found = knn.predict(
    bank, labels, queries,
    k=k, temperature=temperature, num_classes=NUM_CLASSES,
  )  # fmt: skip
  assert found.dtype == np.int32
  np.testing.assert_array_equal(found, votes.argmax(axis=1))


def test_an_image_in_the_bank_is_its_own_nearest_neighbour():
  bank, labels = noise(2, 60)
  found = knn.predict(
    bank, labels, 3 * bank, k=1, temperature=0.1, num_classes=NUM_CLASSES
  )
  np.testing.assert_array_equal(found, labels)


def test_more_neighbours_than_the_bank_are_the_bank():
  bank, labels = noise(3, 12)
  queries, _ = noise(4, 30)
  settings = {'temperature': 0.3, 'num_classes': NUM_CLASSES}
  np.testing.assert_array_equal(
    knn.predict(bank, labels, queries, k=200, **settings),
    knn.predict(bank, labels, queries, k=12, **settings),
  )


def test_ties_go_to_the_earlier_row_and_the_lower_class(monkeypatch):
  monkeypatch.setattr(knn, 'BANK', 2)
  bank = np.tile(np.float32([[1, 0]]), (6, 1))
  labels = np.array([3, 1, 1, 3, 0, 2])
  queries = np.float32([[2, 0]])
  settings = {'temperature': 0.1, 'num_classes': NUM_CLASSES}
  for k, expected in ((1, 3), (2, 1), (3, 1), (4, 1), (6, 1)):
    assert knn.predict(bank, labels, queries, k=k, **settings) == expected


def make_load(train, test, **changes):
  sets = {
    name: fakes.ImageSet(*data, **({'num_classes': NUM_CLASSES} | changes))
    for name, data in (('train', train), ('test', test))
  }
  return sets, sets.__getitem__


def make_config(**overrides):
  config = configuration.get_config()
  config.update({'batch_size': 8} | overrides)
  return config


def test_run_counts_every_query_once_and_reports_a_clipped_k():
  train = fakes.clusters(0, 6, NUM_CLASSES, noise=1.5)
  test = fakes.clusters(1, 5, NUM_CLASSES, noise=1.5)
  _, load = make_load(train, test)
  lines = []
  results = knn.run(make_config(), fakes.pixels(12), load, lines.append)
  flat = [images.reshape(len(images), -1) for images, _ in (train, test)]
  for k in (1, 20, 200):
    votes = reference(flat[0], train[1], flat[1], k, 0.1)
    hits = int((votes.argmax(axis=1) == test[1]).sum())
    assert results[f'knn_k{k}'] == hits / 25
    assert 5 < hits < 25
  assert results['bank'] == 30
  assert results['queries'] == 25
  assert results['largest_k'] == 30
  assert results['num_classes'] == NUM_CLASSES
  assert any('30 images' in line and 'k=200' in line for line in lines)


def test_labels_that_are_absent_or_do_not_fit_are_data_errors():
  train = fakes.clusters(0, 2, NUM_CLASSES, noise=0.1)
  test = fakes.clusters(1, 2, NUM_CLASSES, noise=0.1)
  run = lambda load: knn.run(make_config(), fakes.pixels(12), load)
  _, load = make_load(train, test, num_classes=None)
  with pytest.raises(errors.DataError, match="'train' has no labels"):
    run(load)
  sets, load = make_load(train, test)
  sets['test'].num_classes = 7
  with pytest.raises(errors.DataError, match='7 classes'):
    run(load)
  sets, load = make_load(train, test, class_names=('a', 'b', 'c', 'd', 'e'))
  sets['test'].class_names = ('a', 'b', 'c', 'd', 'f')
  with pytest.raises(errors.DataError, match='class names'):
    run(load)
  for label in (-1, NUM_CLASSES):
    sets, load = make_load(train, test)
    sets['test'].labels[3] = label
    with pytest.raises(errors.DataError, match=f'found {label}'):
      run(load)


@pytest.mark.parametrize(
  'overrides, key',
  (({'ks': (0,)}, 'ks'), ({'temperature': 0.0}, 'temperature'),
   ({'batch_size': 0}, 'batch_size')),
)  # fmt: skip
def test_values_that_cannot_be_used_are_named(overrides, key):
  with pytest.raises(errors.ConfigError, match=f'^{key}:'):
    knn.run(make_config(**overrides), fakes.pixels(12), None)
