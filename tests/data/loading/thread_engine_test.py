"""Batches without TensorFlow are those of tf.data, bit for bit."""

import threading
import time

import numpy as np
from PIL import Image
import pytest

from byol_jax.data.loading import decode, thread_engine
from tests.helpers.listed import Listed
from tests.helpers.made import CROP_RANGE, encode, image_set, smooth


def both(source, **options):
  """The set without TensorFlow, and the streamed one."""
  return (
    image_set(source, engine=thread_engine.decode_into, **options),
    image_set(source, **options),
  )


def same(found, expected):
  for a, b in zip(found, expected, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      assert a[name].dtype == b[name].dtype
      np.testing.assert_array_equal(a[name], b[name])


@pytest.fixture(scope='module')
def varied():
  """Every kind of image, of which three cannot be used."""
  images = [encode(smooth(i, 20 + i, 43 - i)) for i in range(23)]
  images[4] = encode(smooth(4, 30, 30), 'PNG')
  images[5] = encode(smooth(5, 1, 1), 'PNG')
  images[6] = encode(smooth(6, 3, 90)[..., 0], 'PNG')
  images[7], images[8], images[22] = b'', None, images[22][:200]
  exif = Image.Exif()
  exif[0x0112] = 6
  images[9] = encode(smooth(9, 30, 20), exif=exif)
  images[10] = encode(smooth(10, 30, 20), 'TIFF')
  images[11] = encode(smooth(11, 30, 20), 'PNG', 'RGBA', exif=exif)
  images[12] = encode(smooth(12, 30, 20)[..., 0].astype(np.uint16), 'PNG')
  return Listed(images)


@pytest.mark.parametrize('rule', ('resize', 'crop', 'whole'))
def test_evaluation_batches_are_those_of_tf_data(varied, rule):
  options = {'local_devices': 2, 'process_count': 2, 'eval_crop': rule}
  for index, failures in enumerate((0, 3)):
    mine, other = both(varied, process_index=index, **options)
    same(mine.eval_batches(12), other.eval_batches(12))
    assert mine.num_failures == other.num_failures == failures


@pytest.mark.parametrize(
  'crop_ranges', ((CROP_RANGE, CROP_RANGE), (None, None))
)
def test_supervised_batches_are_those_of_tf_data(varied, crop_ranges):
  mine, other = both(varied, crop_ranges=crop_ranges)
  same(mine.crop_batches(12, 3, 4), other.crop_batches(12, 3, 4))
  (batch,) = both(Listed([smooth(0, 9, 9)] * 4, None))[0].crop_batches(4, 0, 1)
  assert sorted(batch) == ['images']


@pytest.mark.parametrize('transfer', ('float32', 'uint8'))
def test_views_are_those_of_tf_data(varied, transfer):
  mine, other = both(varied, transfer=transfer)
  same(mine.view_batches(12, 3, 4), other.view_batches(12, 3, 4))


@pytest.mark.parametrize('suits_threads', (True, False))
def test_files_of_few_pixels_are_decoded_once(monkeypatch, suits_threads):
  files = [encode(smooth(i, 20, 30)) for i in range(8)]
  expected = list(image_set(Listed(files)).view_batches(8, 0, 5))
  decode_rgb, decoded = decode.decode_rgb, []

  def record(data, options):
    decoded.append(files.index(data))
    return decode_rgb(data, options)

  monkeypatch.setattr(decode, 'decode_rgb', record)
  source = Listed(files)
  source.suits_threads = suits_threads
  mine, _ = both(source, num_threads=1)
  same(mine.view_batches(8, 0, 5), expected)
  counts = np.bincount(decoded)
  counts[0] -= 1  # a set is refused at once if it has no usable image
  assert list(counts) == [1 if suits_threads else 5] * 8


@pytest.mark.parametrize('decoding', ('once', 'crops'))
def test_crops_are_drawn_on_the_turned_picture(decoding):
  exif = Image.Exif()
  exif[0x0112] = 6
  images = [encode(smooth(i, 20, 50), exif=exif) for i in range(4)]
  images += [encode(smooth(i, 20, 50), 'PNG', exif=exif) for i in range(4)]
  upright = [
    np.ascontiguousarray(
      np.rot90(decode.decode_rgb(x, decode.PixelOptions(exif=False)), -1)
    )
    for x in images
  ]
  for options in (
    {'decoding': decoding},
    {'engine': thread_engine.decode_into},
  ):
    found = image_set(Listed(images), **options)
    expected = image_set(Listed(upright))
    same(found.view_batches(8, 0, 2), expected.view_batches(8, 0, 2))
    same(found.eval_batches(8), expected.eval_batches(8))


@pytest.mark.parametrize('count', [1, 3])
def test_results_come_in_the_order_of_the_items(count):
  def slow_at_first(item):
    time.sleep(0.01 if item < 3 else 0)
    return item * item

  found = list(thread_engine.map_in_order(slow_at_first, range(40), count))
  assert found == [item * item for item in range(40)]


def test_only_a_few_items_are_taken_ahead():
  taken = []

  def items():
    for item in range(1000):
      taken.append(item)
      yield item

  results = thread_engine.map_in_order(lambda item: item, items(), 2)
  assert next(results) == 0
  assert len(taken) < 50
  results.close()
  assert len(taken) < 50


def test_an_error_is_raised_in_its_place():
  def work(item):
    return 1 // (item - 2)

  results = thread_engine.map_in_order(work, range(100), 2)
  assert [next(results), next(results)] == [-1, -1]
  with pytest.raises(ZeroDivisionError):
    next(results)
  assert not [t for t in threading.enumerate() if 'ThreadPool' in t.name]
