import io
import zipfile

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
    (b'junk', 'train', 'no readable .npz file'),
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
