import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.sources import arrays
from tests.helpers.made import opened, refused


def test_arrays_are_a_source():
  images = np.arange(4 * 2 * 3 * 3, dtype=np.uint8).reshape(4, 2, 3, 3)
  source = arrays.ArraySource(images, np.array([2, 0, 1, 2]))
  pixels, label = source.read(3)
  np.testing.assert_array_equal(pixels, images[3])
  assert (label, source.num_classes, len(source)) == (2, 3, 4)
  unlabelled = arrays.ArraySource(images)
  assert unlabelled.num_classes is None and unlabelled.read(0)[1] == -1
  assert unlabelled.fingerprint != source.fingerprint
  for bad in (images.astype(float), images[0], images[:0]):
    with pytest.raises(errors.DataError):
      arrays.ArraySource(bad)
  with pytest.raises(errors.DataError):
    arrays.ArraySource(images, np.zeros(3, int))


def saved(folder, **held):
  path = folder / 'set.npz'
  np.savez(path, **held)
  return path


def test_a_file_of_arrays_is_a_set(tmp_path):
  images = np.arange(30 * 48, dtype=np.uint8).reshape(30, 4, 4, 3)
  labels = np.arange(30) % 3
  path = saved(
    tmp_path,
    images=images[:20],
    labels=labels[:20],
    test_images=images[20:],
    test_labels=labels[20:],
  )
  train, test, everything = (opened(path, s) for s in ('train', 'test', 'all'))
  assert (len(train), len(test), len(everything)) == (20, 10, 30)
  assert train.num_classes == test.num_classes == 3
  for index in (0, 19, 20, 29):
    pixels, label = everything.read(index)
    np.testing.assert_array_equal(pixels, images[index])
    assert label == labels[index]
  fit, valid = opened(path, 'fit'), opened(path, 'valid')
  assert (len(fit), len(valid)) == (16, 4)


def test_files_that_are_no_sets_are_refused(tmp_path):
  images = np.zeros((4, 5, 5, 3), np.uint8)
  path = saved(tmp_path, pictures=images)
  assert "found ['pictures']" in refused(path)
  path = saved(tmp_path, images=images.astype(np.float32))
  assert 'expected images uint8' in refused(path)
  path = saved(tmp_path, images=images)
  assert 'test_images' in refused(path, 'test')
  assert opened(path).num_classes is None
  saved(tmp_path, images=np.array([{}], object))
  assert 'no readable .npz file' in refused(path)
  path.write_bytes(b'junk')
  assert 'no readable .npz file' in refused(path)
