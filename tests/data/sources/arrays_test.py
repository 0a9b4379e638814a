import io
import zipfile

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.sources import arrays, base
from tests.helpers.made import opened, refused


def test_arrays_are_a_source():
  images = np.arange(4 * 2 * 3 * 3, dtype=np.uint8).reshape(4, 2, 3, 3)
  source = arrays.ArraySource(images, np.array([2, 0, 1, 2]))
  pixels, label = source.read(3)
  np.testing.assert_array_equal(pixels, images[3])
  assert (label, source.num_classes, len(source)) == (2, 3, 4)
  unlabelled = arrays.ArraySource(images)
  assert unlabelled.num_classes is None and unlabelled.read(0)[1] == -1
  other = arrays.ArraySource(images[::-1], np.array([2, 0, 1, 2]))
  assert len({s.fingerprint for s in (source, unlabelled, other)}) == 3
  for bad in ((images.astype(float),), (images[0],), (images[:0],),
              (images, np.zeros(3, int))):  # fmt: skip
    with pytest.raises(errors.DataError):
      arrays.ArraySource(*bad)


@pytest.mark.parametrize('shape', [(4, 5, 6), (4, 5, 6, 1)])
def test_grey_images_have_three_equal_channels(shape):
  images = np.arange(120, dtype=np.uint8).reshape(shape)
  source = arrays.ArraySource(images)
  pixels, _ = source.read(2)
  assert pixels.shape == (5, 6, 3) and pixels.flags.c_contiguous
  for channel in range(3):
    np.testing.assert_array_equal(
      pixels[..., channel].ravel(), np.arange(60, 90)
    )


def test_a_file_of_arrays_is_a_set(tmp_path):
  images = np.arange(30 * 48, dtype=np.uint8).reshape(30, 4, 4, 3)
  labels = np.arange(30) % 3
  path = tmp_path / 'set.npz'
  np.savez(
    path,
    images=images[:20],
    labels=labels[:20],
    test_images=images[20:],
    test_labels=labels[20:],
  )
  split = {s: opened(path, s) for s in ('train', 'test', 'all', 'fit', 'valid')}
  assert [len(s) for s in split.values()] == [20, 10, 30, 16, 4]
  assert split['train'].num_classes == split['test'].num_classes == 3
  for index in (0, 19, 20, 29):
    pixels, label = split['all'].read(index)
    np.testing.assert_array_equal(pixels, images[index])
    assert label == labels[index]


def member(header):
  """An .npz whose array of images has a header of these bytes."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as file:
    header = header.ljust(117) + b'\n'
    size = len(header).to_bytes(2, 'little')
    file.writestr('images.npy', b'\x93NUMPY\x01\x00' + size + header)
  return buffer.getvalue()


IMAGES = np.zeros((4, 5, 5, 3), np.uint8)


@pytest.mark.parametrize(
  'content, split, words',
  [
    ({'pictures': IMAGES}, 'train', "found ['pictures']"),
    ({'images': IMAGES / 255}, 'train', 'expected images uint8'),
    ({'images': IMAGES}, 'test', 'test_images'),
    ({'images': np.array([{}], object)}, 'train', 'no readable .npz file'),
    (b'junk', 'train', 'expected an archive of arrays by numpy.savez'),
    ({'images': IMAGES[:, :0]}, 'train', 'at least one pixel'),
    ({'images': IMAGES[:0]}, 'train', 'at least one pixel'),
    (member(b'{'), 'train', 'no readable .npz file'),
    (
      member(b"{'descr': '|u1', 'fortran_order': 0, 'shape': (9" + b'9' * 40),
      'train',
      'no readable .npz file',
    ),
    (
      member(
        b"{'descr': '|u1', 'fortran_order': False, 'shape': "
        b'(1000000, 1000000, 99, 3)}'
      ),
      'train',
      'no readable .npz file',
    ),
  ],
)
def test_a_file_that_is_no_set_is_refused(tmp_path, content, split, words):
  path = tmp_path / 'set.npz'
  if isinstance(content, bytes):
    path.write_bytes(content)
  else:
    np.savez(path, **content)
  assert words in refused(path, split)


SIX = np.zeros((6, 5, 5, 3), np.uint8)


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
    np.savez(path, images=SIX, test_images=SIX, **(good | {key: found}))
    text = refused(path)
    assert f'{path}: {key}: ' in text and words in text
  with pytest.raises(errors.DataError, match='mine: labels: '):
    arrays.ArraySource(SIX, found, name='mine')


@pytest.mark.parametrize(
  'found',
  [
    np.array([[0], [1], [2], [-1], [1], [0]]),  # a column
    np.array([0.0, 1.0, 2.0, -1.0, 1.0, 0.0]),
    np.array([0, 1, 2, -1, 1, 0], np.int8),
  ],
)
def test_whole_numbers_of_any_type_are_labels(found):
  source = arrays.ArraySource(SIX, found)
  assert [source.read(i)[1] for i in range(6)] == [0, 1, 2, -1, 1, 0]
  assert source.num_classes == 3 and source.is_partly_labelled
  kept = base.keep_labelled(source)
  assert [kept.read(i)[1] for i in range(len(kept))] == [0, 1, 2, 1, 0]
  assert not kept.is_partly_labelled
  np.testing.assert_array_equal(
    arrays.check_labels(np.array([True, False]), 2, ''), [1, 0]
  )


def test_a_set_without_any_label_is_unlabelled():
  source = arrays.ArraySource(SIX, np.full(6, -1))
  assert source.num_classes is None and source.labels is None
  assert base.keep_labelled(source) is source
  whole = arrays.ArraySource(SIX, np.array([0, 1, 2, -1, -1, -1]))
  with pytest.raises(errors.DataError, match='none of 3 images has a label'):
    base.keep_labelled(base.Subset(whole, np.arange(3, 6)))


@pytest.mark.parametrize('test', [[0, 0], [1, 2], [-1, 1]])
def test_a_test_split_may_lack_classes(tmp_path, test):
  path = tmp_path / 'set.npz'
  images = {'images': SIX, 'test_images': SIX[:2]}
  np.savez(path, labels=np.arange(6) % 3, test_labels=test, **images)
  found = [opened(path, split) for split in ('train', 'fit', 'valid', 'test')]
  assert {source.num_classes for source in found} == {3}
  assert found[-1].read(1)[1] == test[1]


@pytest.mark.parametrize('unknown', [3, 1])  # beyond the highest, and between
def test_a_class_of_the_test_split_alone_is_refused(tmp_path, unknown):
  path = tmp_path / 'set.npz'
  images = {'images': SIX, 'test_images': SIX[:2]}
  np.savez(path, labels=[0, 2] * 3, test_labels=[0, unknown], **images)
  for split in ('train', 'test'):
    text = refused(path, split)
    assert f'{path}: test_labels: 1 class ' in text and f': {unknown};' in text
