"""Nearest neighbours against float64 numpy."""

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.evals import features, knn
from tests.helpers import fakes

NUM_CLASSES = 5
OPTIONS = knn.Options(batch_size=8, ks=(1, 20, 200), temperatures=(0.07, 0.1))


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


def classify(bank, labels, queries, ks, temperatures=(0.1,)):
  bank = features.Features(bank, labels.astype(np.int32), np.arange(len(bank)))
  options = knn.Options(batch_size=8, ks=ks, temperatures=temperatures)
  return knn.classify(bank, queries, NUM_CLASSES, options)


@pytest.fixture
def small_parts(monkeypatch):
  """Queries in parts of 5, the bank in parts of 9, votes of 7."""
  for name, rows in (('QUERIES', 5), ('BANK', 9), ('VOTES', 7)):
    monkeypatch.setattr(knn, name, rows)


@pytest.mark.parametrize('parts', ('small', 'large'))
def test_classes_agree_with_the_definition(parts, request):
  if parts == 'small':
    request.getfixturevalue('small_parts')
  bank, labels = noise(0, 83)
  queries, _ = noise(1, 22)
  ks, temperatures = (1, 7, 20, 83), (0.01, 0.1, 0.5)
  found = classify(bank, labels, queries, ks, temperatures)
  assert list(found) == [(k, t) for k in ks for t in temperatures]
  for (k, temperature), classes in found.items():
    votes = reference(bank, labels, queries, k, temperature)
    # No vote so close that float32 could turn it.
    first, second = np.sort(votes, axis=1)[:, [-1, -2]].T
    assert (first - second > 1e-3 * first).all()
    assert classes.dtype == np.int32
    np.testing.assert_array_equal(classes, votes.argmax(axis=1))


def test_ties_go_to_the_earlier_row_and_the_lower_class(monkeypatch):
  monkeypatch.setattr(knn, 'BANK', 2)
  bank = np.tile(np.float32([[1, 0]]), (6, 1))
  labels = np.array([3, 1, 1, 3, 0, 2])
  found = classify(bank, labels, np.float32([[2, 0]]), (1, 2, 3, 4, 6))
  expected = {1: 3, 2: 1, 3: 1, 4: 1, 6: 1}
  assert found == {(k, 0.1): [label] for k, label in expected.items()}


def neighbours_of_noise():
  """Cosines and labels of more queries than a device has rows."""
  bank, labels = noise(2, 300)
  bank = features.Features(bank, labels.astype(np.int32), np.arange(300))
  queries, _ = noise(3, knn.QUERIES + 40)
  found = knn.find_neighbours(bank, queries, 30, lambda text: None)
  return dict(zip(('cosines', 'labels'), found))


def make_sets(noise=0.1, **changes):
  return {
    name: fakes.ImageSet(
      *fakes.clusters(seed, size, NUM_CLASSES, noise=noise),
      **({'num_classes': NUM_CLASSES} | changes),
    )
    for seed, (name, size) in enumerate((('train', 6), ('test', 5)))
  }


def measure(sets, log=lambda text: None, options=OPTIONS):
  return knn.measure_accuracy(options, fakes.pixels(12), sets.__getitem__, log)


def test_every_query_counts_once_and_a_larger_k_is_left_out():
  sets, lines = make_sets(noise=1.5), []
  results = measure(sets, lines.append)
  flat = {n: s.images.reshape(len(s.images), -1) for n, s in sets.items()}
  facts = {
    'ks': [1, 20], 'temperatures': [0.07, 0.1], 'left_out': [200],
    'bank': 30, 'queries': 25, 'num_classes': NUM_CLASSES, 'test_in_train': 0,
  }  # fmt: skip
  for k in (1, 20):
    for t in (0.07, 0.1):
      votes = reference(flat['train'], sets['train'].labels, flat['test'], k, t)
      hits = int((votes.argmax(axis=1) == sets['test'].labels).sum())
      assert 5 < hits < 25
      facts[f'knn_k{k}_t{t}'] = hits / 25
  assert results == facts
  assert 'knn: k = 200 left out: the bank has 30 images' in lines
  found = knn.list_headlines(results)
  assert len(found) == 4
  value = results['knn_k20_t0.07']
  assert found[2] == ('knn k=20, T=0.07', value, 25, None)


def test_a_bank_smaller_than_every_k_is_refused_before_the_work():
  sets = make_sets()
  options = knn.Options(batch_size=8, ks=(31, 200), temperatures=(0.1,))
  with pytest.raises(
    errors.ConfigError, match=r'^ks: \[31, 200\] .* 30 images'
  ):
    measure(sets, options=options)
  assert sets['train'].reads == 0
  # Counted are the images that can be read.
  sets['train'].unreadable = (4,)
  options = knn.Options(batch_size=8, ks=(30,), temperatures=(0.1,))
  with pytest.raises(errors.ConfigError, match='more than the 29 images'):
    measure(sets, options=options)


def test_a_test_split_that_is_in_the_training_split_is_refused():
  sets = make_sets()
  sets['test'].images[:15] = sets['train'].images[10:25]
  with pytest.raises(errors.DataError, match="15 images of split 'test' are"):
    measure(sets)


def test_labels_that_do_not_fit_are_refused():
  sets = make_sets()
  sets['train'].labels[:] = NUM_CLASSES
  with pytest.raises(errors.DataError, match="'train': expected labels in"):
    measure(sets)
