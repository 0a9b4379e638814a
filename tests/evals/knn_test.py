"""Nearest neighbours against float64 numpy."""

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.evals import features, knn
from tests.helpers import fakes

NUM_CLASSES = 5
OPTIONS = knn.Options(batch_size=8, ks=(1, 20, 200), temperature=0.1)


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


def classify(bank, labels, queries, ks, temperature=0.1):
  bank = features.Features(bank, labels.astype(np.int32), np.arange(len(bank)))
  options = knn.Options(batch_size=8, ks=ks, temperature=temperature)
  return knn.classify(bank, queries, NUM_CLASSES, options)


@pytest.mark.parametrize(
  'ks, temperature', (((1, 7), 0.1), ((20,), 0.01), ((20, 83, 200), 0.5))
)
@pytest.mark.parametrize('parts', ((256, 65536), (5, 9)))
def test_classes_agree_with_the_definition(ks, temperature, parts, monkeypatch):
  monkeypatch.setattr(knn, 'QUERIES', parts[0])
  monkeypatch.setattr(knn, 'BANK', parts[1])
  bank, labels = noise(0, 83)
  queries, _ = noise(1, 22)
  found = classify(bank, labels, queries, ks, temperature)
  assert list(found) == list(ks)
  for k in ks:  # more than the bank are the bank
    votes = reference(bank, labels, queries, k, temperature)
    # No vote so close that float32 could turn it.
    first, second = np.sort(votes, axis=1)[:, [-1, -2]].T
    assert (first - second > 1e-3 * first).all()
    assert found[k].dtype == np.int32
    np.testing.assert_array_equal(found[k], votes.argmax(axis=1))


def test_ties_go_to_the_earlier_row_and_the_lower_class(monkeypatch):
  monkeypatch.setattr(knn, 'BANK', 2)
  bank = np.tile(np.float32([[1, 0]]), (6, 1))
  labels = np.array([3, 1, 1, 3, 0, 2])
  found = classify(bank, labels, np.float32([[2, 0]]), (1, 2, 3, 4, 6))
  assert found == {1: 3, 2: 1, 3: 1, 4: 1, 6: 1}


def make_sets(noise=0.1, **changes):
  return {
    name: fakes.ImageSet(
      *fakes.clusters(seed, size, NUM_CLASSES, noise=noise),
      **({'num_classes': NUM_CLASSES} | changes),
    )
    for seed, (name, size) in enumerate((('train', 6), ('test', 5)))
  }


def measure(sets, log=lambda text: None):
  return knn.measure_accuracy(OPTIONS, fakes.pixels(12), sets.__getitem__, log)


def test_every_query_counts_once_and_a_clipped_k_is_reported():
  sets, lines = make_sets(noise=1.5), []
  results = measure(sets, lines.append)
  flat = {n: s.images.reshape(len(s.images), -1) for n, s in sets.items()}
  for k in (1, 20, 200):
    votes = reference(flat['train'], sets['train'].labels, flat['test'], k, 0.1)
    hits = int((votes.argmax(axis=1) == sets['test'].labels).sum())
    assert results[f'knn_k{k}'] == hits / 25
    assert 5 < hits < 25
  facts = {key: results[key] for key in ('bank', 'queries', 'largest_k')}
  assert facts == {'bank': 30, 'queries': 25, 'largest_k': 30}
  assert results['num_classes'] == NUM_CLASSES
  assert any('30 images' in line and 'k=200' in line for line in lines)


def test_labels_that_do_not_fit_are_refused():
  sets = make_sets()
  sets['train'].labels[:] = NUM_CLASSES
  with pytest.raises(errors.DataError, match="'train': expected labels in"):
    measure(sets)
