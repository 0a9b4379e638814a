"""Labels of every kind, as users have them."""

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.sources import arrays, base, labels
from tests.helpers.made import opened, refused

IMAGES = np.zeros((6, 5, 5, 3), np.uint8)


@pytest.mark.parametrize(
  'found, words',
  [
    (np.eye(6), '[6, 6]'),
    (np.zeros((6, 5), int), '[6, 5]'),
    (np.int64(3), 'shape []'),
    (np.arange(5), '[5]'),
    (np.array(list('abcabc')), "found <U1, as 'a'"),
    (np.array([0, 1, np.nan, 0, 1, 2]), 'found nan at row 2'),
    (np.array([0, 1, 2, 0, 1.5, 2]), 'found 1.5 at row 4'),
    (np.array([0, -2, 2, 0, 1, 2]), 'found -2 at row 1'),
    (np.array([0, 1, 2, 0, 1, 2**40]), f'found {2**40} at row 5'),
    (np.array([0, 1, 2, 0, 1, 2**63], np.uint64), f'found {2**63} at row 5'),
    (np.array([0, 1, 2, 0, 1, np.inf]), 'found inf at row 5'),
    (np.zeros(6, complex), 'found complex128'),
  ],
)
def test_labels_of_another_kind_are_refused_when_a_set_is_opened(
  tmp_path, found, words
):
  path = tmp_path / 'set.npz'
  for key in ('labels', 'test_labels'):
    good = {'labels': np.arange(6), 'test_labels': np.arange(6)}
    np.savez(path, images=IMAGES, test_images=IMAGES, **(good | {key: found}))
    text = refused(path)
    assert f'{path}: {key}: ' in text and words in text
  with pytest.raises(errors.DataError, match='mine: labels: '):
    arrays.ArraySource(IMAGES, found, name='mine')


@pytest.mark.parametrize(
  'found',
  [
    np.array([[0], [1], [2], [-1], [1], [0]]),  # a column
    np.array([0.0, 1.0, 2.0, -1.0, 1.0, 0.0]),
    np.array([0, 1, 2, -1, 1, 0], np.int8),
  ],
)
def test_whole_numbers_of_any_type_are_labels(found):
  source = arrays.ArraySource(IMAGES, found)
  assert [source.read(i)[1] for i in range(6)] == [0, 1, 2, -1, 1, 0]
  assert source.num_classes == 3 and base.is_partly_labelled(source)
  kept = base.keep_labelled(source)
  assert [kept.read(i)[1] for i in range(len(kept))] == [0, 1, 2, 1, 0]
  assert not base.is_partly_labelled(kept)
  np.testing.assert_array_equal(
    labels.check_labels(np.array([True, False]), 2, ''), [1, 0]
  )


def test_a_set_without_any_label_is_unlabelled():
  source = arrays.ArraySource(IMAGES, np.full(6, -1))
  assert source.num_classes is None and source.labels is None
  assert base.keep_labelled(source) is source
  whole = arrays.ArraySource(IMAGES, np.array([0, 1, 2, -1, -1, -1]))
  with pytest.raises(errors.DataError, match='none of 3 images has a label'):
    base.keep_labelled(base.Subset(whole, np.arange(3, 6)))


@pytest.mark.parametrize('test', [[0, 0], [1, 2], [-1, 1]])
def test_a_test_split_may_lack_classes(tmp_path, test):
  path = tmp_path / 'set.npz'
  images = {'images': IMAGES, 'test_images': IMAGES[:2]}
  np.savez(path, labels=np.arange(6) % 3, test_labels=test, **images)
  found = [opened(path, split) for split in ('train', 'fit', 'valid', 'test')]
  assert {source.num_classes for source in found} == {3}
  assert found[-1].read(1)[1] == test[1]


@pytest.mark.parametrize('unknown', [3, 1])  # beyond the highest, and between
def test_a_class_of_the_test_split_alone_is_refused(tmp_path, unknown):
  path = tmp_path / 'set.npz'
  images = {'images': IMAGES, 'test_images': IMAGES[:2]}
  np.savez(path, labels=[0, 2] * 3, test_labels=[0, unknown], **images)
  for split in ('train', 'test'):
    text = refused(path, split)
    assert f'{path}: test_labels: 1 class ' in text and f': {unknown};' in text
