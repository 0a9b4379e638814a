import logging

import numba
import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.loading import decode
from byol_jax.data.sampling import crops, order, resize
from byol_jax.data.sources import arrays as arrays_lib
from tests.helpers.listed import Listed
from tests.helpers.made import CROP_RANGE, digests, encode, image_set, smooth


def grey(level):
  """An image that tells who it is after any crop."""
  return encode(np.full((20, 24, 3), level, np.uint8))


@pytest.fixture(scope='module')
def varied():
  images = [encode(smooth(i, 20 + i, 43 - i)) for i in range(23)]
  images[4] = encode(smooth(4, 30, 30), 'PNG')
  return Listed(images)


def test_a_batch_has_the_shapes_of_the_contract(varied):
  data = image_set(varied, local_devices=2)
  (batch,) = data.view_batches(8, 0, 1)
  assert sorted(batch) == ['labels', 'view1', 'view2']
  for view in (batch['view1'], batch['view2']):
    assert view.shape == (2, 4, 16, 16, 3) and view.dtype == np.float32
    assert view.min() >= 0 and view.max() <= 1
  assert batch['labels'].shape == (2, 4) and batch['labels'].dtype == np.int32
  assert np.abs(batch['view1'] - batch['view2']).mean() > 0.01
  (batch,) = data.crop_batches(8, 0, 1)
  assert sorted(batch) == ['images', 'labels']
  (batch,) = image_set(Listed([grey(9)] * 4, None)).view_batches(4, 0, 1)
  assert sorted(batch) == ['view1', 'view2']


@pytest.mark.parametrize(
  ('num_classes', 'is_partly_labelled'),
  [(100, False), (100, True), (None, False)],
)
def test_blank_views_are_like_a_batch(
  monkeypatch, num_classes, is_partly_labelled
):
  monkeypatch.setattr(Listed, 'is_partly_labelled', is_partly_labelled)
  source = Listed([grey(9)] * 4, num_classes)
  data = image_set(source, local_devices=2, transfer='uint8')
  (batch,) = data.view_batches(4, 0, 1)
  blank = data.make_blank_views(4)
  assert {k: (x.shape, x.dtype) for k, x in blank.items()} == {
    k: (x.shape, x.dtype) for k, x in batch.items()
  }


@pytest.mark.parametrize('transfer', ('float32', 'uint8'))
def test_code_that_is_loaded_is_that_of_a_view(monkeypatch, transfer):
  """Numba compiles by the types of the arguments."""
  calls = []
  resample = resize.resample

  def record(image, window, out):
    resample(image, window, out)
    arguments = (image, *window.window, out)
    calls.append([numba.typeof(x) for x in arguments])

  monkeypatch.setattr(resize, 'resample', record)
  data = image_set(Listed([grey(9)] * 4), transfer=transfer)
  data.load_code()
  next(iter(data.view_batches(4, 0, 1)))
  assert calls[0] == calls[1]


def test_crops_change_with_the_epoch_and_the_view_but_not_with_the_batch(
  varied,
):
  data = image_set(varied)
  by_id = [{}, {}]
  for epoch in range(2):
    for batch in data.view_batches(1, 23 * epoch, 23):
      by_id[epoch][int(batch['labels'][0, 0])] = (
        batch['view1'][0, 0],
        batch['view2'][0, 0],
      )
  for i in range(23):
    (a, b), (c, _) = by_id[0][i], by_id[1][i]
    assert (a != b).any() and (a != c).any()
  (large,) = data.view_batches(23, 0, 1)
  for label, view in zip(large['labels'][0], large['view2'][0]):
    np.testing.assert_array_equal(view, by_id[0][int(label)][1])


def test_crop_batches_flip_half_of_the_images():
  ramp = np.tile(np.arange(0, 240, 10, np.uint8)[None, :, None], (24, 1, 3))
  data = image_set(Listed([encode(ramp)] * 50))
  flips = []
  for batch in data.crop_batches(50, 0, 12):
    images = batch['images'][0]
    flips += list(images[:, :, 0].mean((1, 2)) > images[:, :, -1].mean((1, 2)))
  assert abs(np.mean(flips) - 0.5) < 0.082  # 4 deviations of 600 flips
  for batch in data.view_batches(50, 0, 2):  # flipped on the device instead
    views = batch['view1'][0]
    assert (views[:, :, 0].mean((1, 2)) < views[:, :, -1].mean((1, 2))).all()


def test_each_view_has_the_range_of_its_own_crop(varied):
  first, second = CROP_RANGE, crops.CropRange((0.01, 0.4), (1 / 3, 3))
  (both,), (one,), (other,) = (
    image_set(varied, crop_ranges=ranges).view_batches(23, 0, 1)
    for ranges in ((first, second), (first, first), (second, second))
  )
  np.testing.assert_array_equal(both['view1'], one['view1'])
  np.testing.assert_array_equal(both['view2'], other['view2'])
  assert (both['view1'] != other['view1']).any()
  assert (both['view2'] != one['view2']).any()


@pytest.mark.parametrize('rule', resize.METHODS)
def test_an_evaluation_has_the_crop_that_is_asked_for(varied, rule):
  (batch,) = image_set(varied, eval_crop=rule).eval_batches(23)
  for index, image in zip(batch['ids'][0], batch['images'][0]):
    pixels = decode.to_pixels(varied.read(index)[0])
    expected = resize.crop_for_evaluation(pixels, 16, rule)
    np.testing.assert_array_equal(image, expected)


def test_without_a_crop_a_view_is_the_picture_of_the_evaluation(varied):
  data = image_set(varied, crop_ranges=(None, CROP_RANGE))
  (evaluated,) = data.eval_batches(23)
  (batch,) = data.view_batches(23, 0, 1)
  for label, view in zip(batch['labels'][0], batch['view1'][0]):
    np.testing.assert_array_equal(view, evaluated['images'][0, label])


@pytest.mark.parametrize(
  'method', ['view_batches', 'crop_batches', 'eval_batches']
)
def test_an_uneven_batch_is_refused_before_the_first_step(varied, method):
  data = image_set(varied, local_devices=3, process_count=2)
  arguments = (8,) if method == 'eval_batches' else (8, 0, 1)
  with pytest.raises(errors.ConfigError, match=r'batch_size: 8 .* 6 devices'):
    getattr(data, method)(*arguments)


@pytest.fixture
def damaged():
  """Twenty greys, of which three cannot be used."""
  images = [grey(10 * i + 20) for i in range(20)]
  images[3] = images[3][: len(images[3]) // 2]
  images[4] = b'<html>'
  images[11] = None
  return Listed(images)


def test_broken_images_are_replaced_without_shifting_the_others(
  damaged, caplog
):
  data = image_set(damaged)
  with caplog.at_level(logging.WARNING):
    batches = list(data.view_batches(8, 0, 10))
  ids, _ = order.find_examples(5, np.arange(80), 20)
  labels = np.concatenate([batch['labels'][0] for batch in batches])
  expected = np.array([{3: 5, 4: 5, 11: 12}.get(int(i), int(i)) for i in ids])
  np.testing.assert_array_equal(labels, expected)
  levels = np.concatenate([b['view1'][0].mean((1, 2, 3)) for b in batches])
  np.testing.assert_allclose(levels * 255, 10 * expected + 20, atol=2)
  assert data.num_failures == 3
  said = [r.message for r in caplog.records]
  assert len(said) == 3  # four epochs, each named once
  for name in ('file3', 'file4', 'file11'):
    assert sum(f" '{name}' " in line for line in said) == 1


def test_a_broken_image_is_as_if_its_file_were_the_next(varied):
  images = [varied.read(i)[0] for i in range(len(varied))]
  broken, copied = list(images), list(images)
  broken[7], copied[7] = b'broken', images[8]
  batches = image_set(Listed(broken)).view_batches(23, 0, 2)
  expected = image_set(Listed(copied)).view_batches(23, 0, 2)
  for batch, other in zip(batches, expected, strict=True):
    for name in ('view1', 'view2'):
      np.testing.assert_array_equal(batch[name], other[name])


def test_broken_images_are_left_out_of_the_evaluation(damaged):
  found = [
    list(batch['ids'][batch['mask']])
    for batch in image_set(damaged).eval_batches(8)
  ]
  good = [i for i in range(20) if i not in (3, 4, 11)]
  assert [i for ids in found for i in ids] == good
  assert [len(ids) for ids in found] == [6, 7, 4]


def test_arrays_follow_the_same_order_and_crops(varied):
  """As pixels or as PNG, an image gives the same views."""
  pixels = np.stack([smooth(i, 30, 25) for i in range(12)])
  arrays = arrays_lib.ArraySource(pixels, np.arange(12))
  files = Listed([encode(p, 'PNG') for p in pixels])
  for method in ('view_batches', 'crop_batches'):
    a = digests(getattr(image_set(arrays), method)(8, 0, 3))
    assert a == digests(getattr(image_set(files), method)(8, 0, 3))
  a = digests(image_set(arrays).eval_batches(8))
  assert a == digests(image_set(files).eval_batches(8))


@pytest.mark.parametrize('method', ['view_batches', 'crop_batches'])
def test_a_batch_depends_on_seed_and_step_and_not_on_threads(varied, method):
  expected = digests(getattr(image_set(varied), method)(8, 0, 7))
  assert len(set(expected)) == 7
  late = getattr(image_set(varied, num_threads=16), method)(8, 5, 2)
  assert digests(late) == expected[5:]
  other = getattr(image_set(varied, seed=6), method)(8, 0, 7)
  assert not set(digests(other)) & set(expected)


def test_promise_6_evaluation_counts_every_image_once(varied):
  found = []
  for batch_size, processes, devices in (
    *((5, 1, 1), (16, 1, 4), (8, 2, 2), (15, 3, 1), (7, 7, 1), (128, 2, 1)),
  ):
    pictures = {}
    for process in range(processes):
      data = image_set(
        varied,
        local_devices=devices,
        process_index=process,
        process_count=processes,
      )
      batches = list(data.eval_batches(batch_size))
      assert len(batches) == -(-23 // batch_size)
      for batch in batches:
        local = devices, batch_size // processes // devices
        assert batch['images'].shape == (*local, 16, 16, 3)
        for name, kind in (('labels', 'i4'), ('mask', '?'), ('ids', 'i8')):
          assert batch[name].shape == local and batch[name].dtype == kind
        mask = batch['mask']
        assert (batch['labels'][~mask] == -1).all()
        assert (batch['ids'][~mask] == -1).all()
        assert (batch['labels'][mask] == batch['ids'][mask]).all()
        for index, image in zip(batch['ids'][mask], batch['images'][mask]):
          assert index not in pictures
          pictures[int(index)] = image.tobytes()
    found.append(pictures)
  assert all(pictures == found[0] for pictures in found)
  assert sorted(found[0]) == list(range(23))


def test_too_many_broken_images_end_the_run_as_a_data_error():
  source = Listed([grey(50)] * 20 + [b'broken'] * 11)
  with pytest.raises(errors.DataError, match='11 images cannot be used'):
    list(image_set(source).view_batches(8, 0, 100))
  with pytest.raises(errors.DataError, match='allowed are 10'):
    list(image_set(source).eval_batches(8))
  # Ten million steps: it must not look for a good one in all of them.
  with pytest.raises(errors.DataError, match='used'):
    next(image_set(Listed([b'x'] * 5)).view_batches(8, 0, 10**7))
