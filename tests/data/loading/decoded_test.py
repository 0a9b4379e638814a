"""A whole set in one array, and what is refused before it is made."""

import logging

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.loading import batch_buffer, decode, decoded
from tests.helpers.listed import Listed
from tests.helpers.made import encode, smooth

THREADS = 3


def decode_all(source, max_bad_share=0.0):
  mender = batch_buffer.Mender(source, max_bad_share)
  extent = decoded.extent(source, 1.0, THREADS)
  return decoded.decode_all(source, mender, *extent, THREADS), mender


def test_images_of_every_size_and_kind_lie_at_the_top_left():
  pixels = [smooth(i, 9 + i, 20 - i) for i in range(9)]
  images = [encode(p, 'PNG') for p in pixels[:4]] + pixels[4:]
  found, _ = decode_all(Listed(images))
  assert found.images.shape == (9, 17, 20, 3)
  assert found.images.dtype == np.uint8
  for i, expected in enumerate(pixels):
    assert tuple(found.sizes[i]) == expected.shape[:2]
    h, w = expected.shape[:2]
    np.testing.assert_array_equal(found.images[i, :h, :w], expected)
    assert not found.images[i, h:].any() and not found.images[i, :, w:].any()
  np.testing.assert_array_equal(found.labels, np.arange(9))


def test_the_next_usable_image_stands_for_a_broken_one(caplog):
  images = [encode(smooth(i, 9, 9), 'PNG') for i in range(8)]
  images[2], images[3], images[7] = b'', images[3][:60], None
  with caplog.at_level(logging.WARNING):
    found, mender = decode_all(Listed(images))
  np.testing.assert_array_equal(found.labels, [0, 1, 4, 4, 4, 5, 6, 0])
  np.testing.assert_array_equal(found.images[2], smooth(4, 9, 9))
  np.testing.assert_array_equal(found.images[7], smooth(0, 9, 9))
  assert (found.sizes == 9).all()
  assert len(mender.failures) == 3
  said = [record.message for record in caplog.records]
  for name in ('file2', 'file3', 'file7'):
    assert sum(f' {name} ' in line for line in said) == 1


def test_too_many_broken_images_end_it():
  images = [encode(smooth(0, 9, 9))] * 20 + [b'broken'] * 11
  with pytest.raises(errors.DataError, match=r'11 images .* allowed are 10'):
    decode_all(Listed(images))
  with pytest.raises(errors.DataError, match='no image can be used'):
    decode_all(Listed([b'broken'] * 4))


def test_a_set_that_does_not_fit_is_refused_by_headers(monkeypatch):
  """In one line, by a sample where that shows it; nothing is decoded."""
  monkeypatch.delattr(decode, 'rgb')
  wide, high = encode(smooth(0, 10, 100)), encode(smooth(0, 200, 10))
  size = 1000 * 200 * 100 * 3 / 2**30

  class Counted(Listed):
    asked = 0

    def read(self, index):
      self.asked += 1
      return super().read(index)

  source = Counted([wide, high] * 500)
  assert decoded.extent(source, 1.01 * size, THREADS) == (200, 100)
  source = Counted([wide] * 999 + [high])
  words = r'^input\.resident_gib: .* 1,000 .* 200 x 100 .* 0\.0559 .* 0\.0553'
  with pytest.raises(errors.ConfigError, match=words) as caught:
    decoded.extent(source, 0.99 * size, THREADS)
  assert '\n' not in str(caught.value)
  source = Counted([high] * 1000)
  with pytest.raises(errors.ConfigError):
    decoded.extent(source, 0.01 * size, THREADS)
  assert source.asked <= 200
