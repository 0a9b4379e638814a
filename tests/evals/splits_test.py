"""Splits of an evaluation: opened together, encoded, their labels checked."""

import functools

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.evals import features, splits
from tests.helpers import fakes

NAMES = tuple('abcde')


def make_sets(**changes):
  """12 images for training and 9 for a test, of five classes."""
  options = {'num_classes': 5, 'class_names': NAMES} | changes
  generator = np.random.default_rng(0)
  return {
    name: fakes.ImageSet(
      generator.random((count, 1, 4, 3)), np.arange(count) % 5, **options
    )
    for name, count in (('train', 12), ('test', 9))
  }


def open_both(sets):
  return splits.open_splits(sets.__getitem__, ('train', 'test'))


def test_splits_are_opened_by_name_in_their_order():
  sets = make_sets()
  named, num_classes = open_both(sets)
  assert list(named.items()) == list(sets.items()) and num_classes == 5


@pytest.mark.parametrize(
  'split, attribute, value, words',
  [
    ('train', 'num_classes', None, "'train' has no labels"),
    ('test', 'num_classes', None, "'test' has no labels"),
    ('test', 'num_classes', 7, "'test' has 7 classes, 'train' has 5"),
    ('test', 'class_names', tuple('abcdf'), 'class names'),
  ],
)
def test_splits_without_the_same_classes_are_refused(
  split, attribute, value, words
):
  sets = make_sets()
  setattr(sets[split], attribute, value)
  with pytest.raises(errors.DataError, match=words):
    open_both(sets)


def test_a_long_encoding_says_every_ten_seconds_how_far_it_is(monkeypatch):
  sets, lines, now = make_sets(), [], 0.0

  def clock():  # two seconds a batch of two images
    nonlocal now
    now += 2
    return now

  make = functools.partial(splits.make_progress, clock=clock)
  monkeypatch.setattr(splits, 'make_progress', make)
  splits.encode_split(fakes.pixels(12), sets, 2, lines.append, 'train')
  assert lines == [
    'encoding train, 12 images',
    'encoding train: 10 of 12 images',
  ]


@pytest.mark.parametrize('batch_size', [4, 9, 32])
def test_a_split_is_encoded_in_the_order_of_its_images(batch_size):
  sets, lines = make_sets(), []
  sets['test'].unreadable = (3,)
  found = splits.encode_split(
    fakes.pixels(12), sets, batch_size, lines.append, 'test'
  )
  kept = [i for i in range(9) if i != 3]
  assert found.ids.tolist() == kept
  assert found.labels.tolist() == [i % 5 for i in kept]
  expected = sets['test'].images.reshape(9, 12)[kept]
  np.testing.assert_array_equal(found.values, expected)
  assert lines == ['encoding test, 9 images']


def encode_both(sets):
  encode = lambda name: splits.encode_split(
    fakes.pixels(12), sets, 4, lambda text: None, name
  )
  return encode('train'), encode('test')


def test_images_in_both_splits_are_counted_and_many_are_refused():
  sets, lines = make_sets(), []
  train, test = encode_both(sets)
  assert splits.check_test(test, {'train': train}, 5, lines.append) == 0
  assert not lines
  # Of small splits a tenth is no image; these are large.
  rows = lambda found, times: features.Features(
    *(np.concatenate([column] * times) for column in found)
  )
  large = rows(test, 4)
  sets['train'].images[5] = sets['test'].images[2]
  train, _ = encode_both(sets)
  one = large._replace(digests=np.arange(36, dtype=np.uint64))
  one.digests[7] = train.digests[5]
  big = rows(train, 2)
  assert splits.check_test(one, {'train': big}, 5, lines.append) == 1
  assert lines == ['1 of 36 test images are among the images of train too']
  # One of nine; all four copies of it, of 36 and 12.
  for found in (test, large):
    with pytest.raises(
      errors.DataError, match="of split 'test' are in 'train'"
    ):
      splits.check_test(found, {'train': train}, 5, lines.append)


def make_features(digests):
  """Images that are known by numbers, all of one class."""
  ids = np.arange(len(digests))
  values = np.zeros((len(ids), 1), np.float32)
  return features.Features(values, 0 * ids, ids, np.uint64(digests))


def test_images_in_any_of_several_splits_count():
  lines, test = [], make_features(range(40))
  fit = make_features([3, 9, *range(100, 128)])
  valid = make_features([9, *range(200, 209)])
  others = {'fit': fit, 'valid': valid}
  assert splits.check_test(test, others, 1, lines.append) == 2
  assert lines == ['2 of 40 test images are among the images of fit, valid too']
  # More than a tenth of ten images, less than one of 40.
  others['valid'] = make_features([9, 10, *range(200, 208)])
  with pytest.raises(errors.DataError, match=r"2 images .* are in 'valid' too"):
    splits.check_test(test, others, 1, lines.append)


def test_classes_without_a_test_image_are_said_and_allowed():
  sets, lines = make_sets(), []
  sets['test'].labels[:] = 1
  _, test = encode_both(sets)
  assert splits.check_test(test, {}, 5, lines.append) == 0
  assert lines == ['test has no image of 4 of 5 classes']


@pytest.mark.parametrize('label', [-1, 5, 2**31 - 1])
def test_a_label_outside_of_the_classes_is_named(label):
  splits.check_labels(np.arange(5), 5, 'fit')
  words = rf"^split 'fit': expected labels in \[0, 5\), found {label}$"
  with pytest.raises(errors.DataError, match=words):
    splits.check_labels(np.array([[0, 4], [label, 9]]), 5, 'fit')
  sets = make_sets()
  sets['test'].labels[8] = label
  with pytest.raises(errors.DataError, match=f'found {label}'):
    splits.encode_split(fakes.pixels(12), sets, 4, lambda text: None, 'test')


def make_parts():
  """`train` of 12 images, which is `fit` and `valid`, and `test` of 9."""
  sets = make_sets()
  sets['train'].unreadable = (2, 7)
  for name, kept in (('fit', np.arange(12) % 4 < 3), ('valid', None)):
    rows = np.flatnonzero(np.arange(12) % 4 == 3 if kept is None else kept)
    part = fakes.ImageSet(
      sets['train'].images[rows], rows % 5, 5, NAMES, sets['train'], rows
    )
    part.unreadable = np.flatnonzero(np.isin(rows, (2, 7)))
    sets[name] = part
  return sets


@pytest.mark.parametrize(
  'order, encoded',
  (
    (('train', 'test', 'fit', 'valid', 'test'), {'train', 'test'}),
    (('fit', 'valid', 'test', 'train', 'test'), {'fit', 'valid', 'test'}),
    (('valid', 'train', 'fit', 'train', 'valid'), {'valid', 'train'}),
  ),
)
def test_an_image_is_encoded_once_and_found_in_other_splits(order, encoded):
  sets, lines = make_parts(), []
  encoder = fakes.pixels(12)._replace(store=features.FeatureStore())
  for name in order:
    found = splits.encode_split(encoder, sets, 4, lines.append, name)
    fresh = splits.encode_split(fakes.pixels(12), sets, 4, print, name)
    for column, expected in zip(found, fresh, strict=True):
      np.testing.assert_array_equal(column, expected)
      assert column.dtype == expected.dtype
  lines = [line for line in lines if line.startswith('encoding')]
  assert {line.split()[1].rstrip(',') for line in lines} == encoded
  assert len(lines) == len(encoded)


def test_only_the_features_of_one_evaluation_are_kept():
  sets, lines = make_parts(), []
  encoder = fakes.pixels(12)._replace(store=features.FeatureStore())
  encode = lambda named, name: splits.encode_split(
    encoder, named, 4, lines.append, name
  )
  encode(sets, 'train')
  other = {'test': sets['test']}
  encode(other, 'test')  # of a set without `train`
  encode(sets, 'train')
  assert [line.split()[0] for line in lines] == ['encoding'] * 3
  encode(sets, 'fit')
  assert lines[-1] == 'fit, 9 images: encoded before'
