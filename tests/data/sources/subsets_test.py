"""Parts with few labels: balance, nesting, and the published lists."""

import itertools

import numpy as np
import pytest

from byol_jax import configuration, errors
from byol_jax.data import catalog, from_config
from byol_jax.data.sources import arrays, subsets
from tests.helpers.made import list_examples, opened, prepare


def make_labels(*counts):
  labels = np.repeat(np.arange(len(counts)), counts)
  return np.random.default_rng(0).permutation(labels)


def count(labels, fraction, seed=0):
  ids = subsets.choose_balanced(labels, fraction, seed)
  assert len(set(ids.tolist())) == len(ids) and (np.diff(ids) > 0).all()
  return np.bincount(labels[ids], minlength=labels.max() + 1)


def test_every_class_has_as_many_images_as_any_other():
  labels = make_labels(*[100] * 7)
  for fraction in (0.01, 0.1, 0.5, 0.997):
    found = count(labels, fraction)
    assert found.sum() == max(7, round(700 * fraction))
    assert found.max() - found.min() <= 1
  # Which classes have one more depends on the seed.
  extra = {tuple(count(labels, 0.013, seed)) for seed in range(8)}
  assert len(extra) > 1


def test_a_class_with_too_few_images_gives_all_it_has():
  labels = make_labels(2, 50, 48)
  np.testing.assert_array_equal(count(labels, 0.3), [2, 14, 14])
  np.testing.assert_array_equal(count(labels, 1.0), [2, 50, 48])
  np.testing.assert_array_equal(count(labels, 1e-6), [1, 1, 1])


def test_a_part_is_a_function_of_the_seed_and_contains_the_smaller_ones():
  labels = make_labels(30, 40, 50, 60)
  parts = [subsets.choose_balanced(labels, x, 3) for x in (0.02, 0.1, 0.35, 1)]
  for small, large in itertools.pairwise(parts):
    assert np.isin(small, large).all()
  np.testing.assert_array_equal(
    parts[1], subsets.choose_balanced(labels, 0.1, 3)
  )
  assert len(np.setdiff1d(parts[1], subsets.choose_balanced(labels, 0.1, 4)))


def test_images_without_a_label_and_those_that_cannot_be_read_are_left_out():
  class Broken(arrays.ArraySource):
    labels = property(lambda self: None, lambda self, value: None)

    def read(self, index):
      if index % 5 == 0:
        raise OSError('the disk is gone')
      return np.zeros((2, 2, 3), np.uint8), -1 if index % 5 == 1 else index % 2

  source = Broken(np.zeros((50, 2, 2, 3), np.uint8))
  source.num_classes = 2
  part = subsets.draw_balanced(source, 1.0, 0)
  assert len(part) == 30
  assert [part.read(i)[1] for i in range(30)] == part.labels.tolist()


@pytest.mark.parametrize(
  'labels, words',
  (
    (None, 'no labels, which a part'),
    ([0, 0, 2, 2, 3], r"no training image of 1 of 4 classes \('1'\)"),
  ),
)
def test_a_set_without_labels_or_without_a_class_is_refused(labels, words):
  images = np.zeros((5, 2, 2, 3), np.uint8)
  source = arrays.ArraySource(images, labels and np.array(labels))
  with pytest.raises(errors.DataError, match=words):
    subsets.draw_balanced(source, 0.5, 0)


def test_no_part_has_an_image_of_the_hold_out_or_the_test_set():
  config = configuration.load('shapes', {'image_size': 8})
  fit, valid = (from_config.open_split(config, x) for x in ('fit', 'valid'))
  part = from_config.make_image_set(config, 'fit', fraction=0.1)
  names = lambda x: {
    x.file_name(i) for i in range(getattr(x, 'num_examples', 0) or len(x))
  }
  assert names(part) <= names(fit)
  assert not names(part) & names(valid)
  np.testing.assert_array_equal(np.bincount(part.labels), [36] * 10)
  other = from_config.make_image_set(
    configuration.load('shapes', {'image_size': 8, 'seed': 1}),
    *('fit',),
    fraction=0.1,
  )
  assert part.fingerprint != other.fingerprint


LISTED = (0, 1, 5, 14, 20, 29, 30, 33)


@pytest.fixture(scope='module')
def published(tmp_path_factory):
  """A folder of ImageNet's sets as TFDS prepares them, 40 images and 8."""
  folder = str(tmp_path_factory.mktemp('sets'))
  for name, config, ids in (
    ('imagenet2012', (), range(40)),
    ('imagenet2012_subset', ('1pct',), LISTED),
  ):
    features, train = list_examples(ids, 'ab')
    splits = {'train': train, 'validation': list_examples(range(4), 'ab')[1]}
    prepare(folder, features, splits, called=name, config=config)
  return folder


def test_of_imagenet_the_published_part_without_held_out_images(
  published, monkeypatch
):
  monkeypatch.setattr(catalog, 'HOLDOUTS', {'paper': ('last', 10)})
  values = {'dataset': 'imagenet2012', 'data_dir': published, 'image_size': 8}
  config = configuration.load('shapes', values)
  valid = opened('imagenet2012', 'valid', data_dir=published)
  held = {valid.file_name(i) for i in range(len(valid))}

  def names(**options):
    part = from_config.make_image_set(config, 'fit', **options)
    found = [part.file_name(i) for i in range(part.num_examples)]
    labels = [int(name[5:-4]) % 2 for name in found]
    np.testing.assert_array_equal(part.labels, labels)
    return {*found}

  listed = {f'image{i}.jpg' for i in LISTED}
  assert listed & held
  assert names(fraction=0.01, lists='published') == listed - held
  own = names(fraction=0.1, lists='own')
  assert len(own) == 3 and not own & held
  assert len(names(fraction=0.2, lists='published')) == 6
  with pytest.raises(errors.DataError, match='imagenet2012_subset/10pct'):
    names(fraction=0.1, lists='published')
