"""Views made on the device against those of tf.data."""

import jax
import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.loading import decode, resident
from byol_jax.data.sampling import crops
from tests.helpers.listed import Listed
from tests.helpers.made import BATCHES, CROP_RANGE, encode, image_set, smooth

# The bound is 1e-3; 5e-7 seen: the weights are TensorFlow's, to the last bits,
# so only the order of sums differs.
TOLERANCE = 4e-6
SMALL = crops.CropRange((0.01, 0.4), (1 / 3, 3))
STANDARD = BATCHES | {'crop_ranges': (CROP_RANGE, SMALL), 'max_bad_share': 0.0}


def resident_set(source, gib=1.0, **options):
  return resident.ResidentImageSet(source, gib=gib, **(STANDARD | options))


def noise(seed, height, width):
  """The hardest for an interpolation."""
  generator = np.random.default_rng(seed)
  return generator.integers(0, 256, (height, width, 3)).astype(np.uint8)


def made(data, batch_size, start, steps):
  """Batches [P, ...], as one device makes them."""
  views = jax.jit(data.views)
  store = data.store()
  for plan in data.plans(batch_size, start, steps):
    yield views(store, {name: array[0] for name, array in plan.items()})


def check_views(data, expected, start, steps):
  """Compares views and labels with those of the streamed set."""
  for found, batch in zip(
    made(data, 12, start, steps),
    expected.view_batches(12, start, steps),
    strict=True,
  ):
    np.testing.assert_array_equal(found['labels'], batch['labels'][0])
    for name in ('view1', 'view2'):
      assert found[name].dtype == np.float32
      np.testing.assert_allclose(
        found[name], batch[name][0], rtol=0, atol=TOLERANCE
      )


SIZES = (
  (1, 1),
  (1, 40),
  (41, 1),
  (2, 2),
  (3, 50),
  (33, 47),
  (64, 31),
  (90, 99),
)


@pytest.mark.parametrize('image_size', (8, 29, 224))
def test_promise_8_views_and_labels_are_those_of_tf_data(image_size):
  """Images of any size, of pixels or files; padding is never looked at."""
  images = [noise(i, *size) for i, size in enumerate(SIZES)]
  images += [encode(noise(10 + i, *size)) for i, size in enumerate(SIZES)]
  images[12] = encode(smooth(3, 20, 10), 'PNG')
  source = Listed(images)
  options = STANDARD | {'image_size': image_size}
  expected = image_set(source, **options)
  data = resident_set(source, **options)
  # What lies beside a smaller image may be anything.
  for image, (h, w) in zip(data.decoded.images, data.decoded.sizes):
    image[h:], image[:, w:] = 255, 255
  check_views(data, expected, 1, 6)


def test_a_plan_is_a_function_of_the_step_and_divided_among_processes():
  source = Listed([noise(i, *size) for i, size in enumerate(SIZES)])
  whole = list(resident_set(source).plans(12, 0, 5))
  (late,) = resident_set(source, num_threads=7).plans(12, 4, 1)
  parts = []
  for i in range(2):
    options = {'local_devices': 3, 'process_index': i, 'process_count': 2}
    parts += resident_set(source, **options).plans(12, 4, 1)
  for name, array in whole[4].items():
    assert array.dtype == np.int32
    np.testing.assert_array_equal(late[name], array)
    found = np.concatenate([part[name] for part in parts])
    assert found.shape[:2] == (6, 2)
    np.testing.assert_array_equal(found.reshape(array.shape), array)
  with pytest.raises(errors.ConfigError, match=r'8 .* 6 devices'):
    resident_set(source, local_devices=3, process_count=2).plans(8, 0, 1)


def test_a_broken_image_is_replaced_as_by_tf_data(caplog):
  images = [encode(smooth(i, 20 + i, 30)) for i in range(12)]
  images[3], images[4], images[11] = b'<html>', images[4][:100], None
  source = Listed(images)
  data = resident_set(source)
  found = data.decoded
  expected = [0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10, 0]
  np.testing.assert_array_equal(found.labels, expected)
  np.testing.assert_array_equal(found.sizes[:, 0], np.add(expected, 20))
  assert data.num_failures == 3
  messages = [record.message for record in caplog.records]
  for name in ('file3', 'file4', 'file11'):
    assert sum(f" '{name}' " in line for line in messages) == 1
  check_views(data, image_set(source, **STANDARD), 0, 2)


def test_without_labels_there_are_none():
  data = resident_set(Listed([noise(0, 9, 9)] * 4, None))
  (batch,) = made(data, 4, 0, 1)
  assert sorted(batch) == ['view1', 'view2']


def test_too_many_broken_images_end_it():
  images = [encode(smooth(0, 9, 9))] * 20 + [b'broken'] * 11
  with pytest.raises(errors.DataError, match=r'11 images .* allowed are 10'):
    _ = resident_set(Listed(images)).decoded
  with pytest.raises(errors.DataError, match='no image can be used'):
    _ = resident_set(Listed([b'broken'] * 4)).decoded


def test_a_set_that_does_not_fit_is_refused_by_headers(monkeypatch):
  """In one line, by a sample where that shows it; nothing is decoded."""
  monkeypatch.delattr(decode, 'decode_rgb')
  wide, high = encode(smooth(0, 10, 100)), encode(smooth(0, 200, 10))
  size = 1000 * 200 * 100 * 3 / 2**30

  class Counted(Listed):
    asked = 0

    def read(self, index):
      self.asked += 1
      return super().read(index)

  assert resident_set(Listed([wide, high] * 500), 1.01 * size).extent == (
    *(200, 100),
  )
  source = Listed([wide] * 999 + [high])
  words = r'^input\.resident_gib: .* 1,000 .* 200 x 100 .* 0\.0559 .* 0\.0553'
  with pytest.raises(errors.ConfigError, match=words) as caught:
    _ = resident_set(source, 0.99 * size).extent
  assert '\n' not in str(caught.value)
  source = Counted([high] * 1000)
  with pytest.raises(errors.ConfigError):
    _ = resident_set(source, 0.01 * size).decoded
  assert source.asked <= 200
