"""The tf.data engine; what every engine must do is in image_set_test."""

import gc
import itertools
import weakref

import numpy as np
import pytest

from tests.helpers.listed import Listed
from tests.helpers.made import encode, image_set, smooth


def noisy(count, **options):
  generator = np.random.default_rng(0)
  pictures = []
  for i in range(count):
    pixels = smooth(i, 60 + i, 80 - i)
    noise = generator.normal(0, 8, pixels.shape)
    noisy = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    pictures.append(encode(noisy, **options))
  return Listed(pictures)


def batches(source, decoding):
  return list(image_set(source, decoding=decoding).view_batches(8, 1, 4))


def test_crops_are_the_same_where_chroma_is_whole():
  source = noisy(12, subsampling=0)
  for a, b in zip(batches(source, 'once'), batches(source, 'crops')):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


def test_crops_differ_little_where_chroma_is_interpolated():
  source = noisy(12, subsampling=2)
  worst = 0
  for a, b in zip(batches(source, 'once'), batches(source, 'crops')):
    np.testing.assert_array_equal(a['labels'], b['labels'])
    for name in ('view1', 'view2'):
      difference = np.abs(a[name] - b[name])
      assert difference.mean() < 0.2 / 255
      worst = max(worst, difference.max())
  assert 0 < worst < 16 / 255


def test_a_cut_image_is_used_by_crops_that_end_above_the_cut():
  source = noisy(4, quality=95)
  cut = source.read(1)[0]
  images = [source.read(i)[0] for i in range(4)]
  images[1] = cut[: len(cut) * 9 // 10]
  found = {}
  for decoding in ('once', 'crops'):
    labels = [
      label
      for batch in image_set(Listed(images), decoding=decoding).view_batches(
        4, 0, 40
      )
      for label in batch['labels'].ravel()
    ]
    found[decoding] = labels.count(1)
  assert found['once'] == 0 < found['crops'] < 40


@pytest.mark.parametrize('threads', [1, 9])
def test_pixels_and_files_may_be_broken_alike(threads):
  """A source of pixels whose third image cannot be read."""
  images = [smooth(i, 20 + i, 30) for i in range(6)]
  images[2] = None
  data = image_set(Listed(images), num_threads=threads)
  labels = np.concatenate([b['labels'][0] for b in data.view_batches(6, 0, 2)])
  counts = np.bincount(labels, minlength=6)
  assert counts.tolist() == [2, 2, 0, 4, 2, 2] and data.num_failures == 1


@pytest.mark.parametrize('to_the_end', [True, False])
@pytest.mark.parametrize('encoded', [True, False])
def test_a_stream_that_ended_holds_nothing(encoded, to_the_end):
  """TensorFlow keeps the functions of a graph; they must not keep the set."""
  images = [smooth(i, 20, 30) for i in range(8)]
  source = Listed([encode(i) for i in images] if encoded else images)
  data = image_set(source)
  batches = data.view_batches(8, 0, 3 if to_the_end else 1000)
  taken = sum(1 for _ in itertools.islice(batches, 3))
  assert taken == 3
  if to_the_end:
    assert next(batches, None) is None
  dead = weakref.ref(source), weakref.ref(data)
  del source, data, batches
  gc.collect()
  assert [ref() for ref in dead] == [None, None]
