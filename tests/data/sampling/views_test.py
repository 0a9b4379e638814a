import numpy as np

from byol_jax.data.sampling import crops, resize, views
from tests.helpers.made import CROP_RANGE, smooth


def drawn(seed):
  uniforms = np.random.default_rng(seed).uniform(size=(1, 1, 4))
  return crops.draw(uniforms, [CROP_RANGE])[0, 0]


def picture(image, place, size):
  out = np.empty((size, size, 3), np.float32)
  resize.resample(image, place, out)
  return out


def test_a_random_crop_is_the_window_that_was_drawn():
  view = views.random_crop(CROP_RANGE, 12)
  for seed in range(20):
    numbers = drawn(seed)
    place = view.place(40, 60, numbers)
    assert place.window == crops.window(40.0, 60.0, numbers)
    assert len(place.rows.indices) == len(place.columns.indices) == 12


def test_a_flip_is_decided_by_the_fifth_number():
  image, plain = smooth(3, 30, 40), views.random_crop(CROP_RANGE, 16)
  view = views.flipped(plain)
  numbers = drawn(1)
  expected = picture(image, plain.place(30, 40, numbers), 16)
  for fifth, step in ((0.0, -1), (0.499, -1), (0.5, 1), (0.999, 1)):
    place = view.place(30, 40, np.append(numbers, fifth))
    found = picture(image, place, 16)
    np.testing.assert_array_equal(found, expected[:, ::step])


def test_an_evaluation_draws_nothing():
  view = views.evaluation('whole', 16)
  assert view.law is None
  image = smooth(3, 30, 40)
  found = picture(image, view.place(30, 40, np.zeros(4)), 16)
  expected = resize.evaluation_crop(image, 16, 'whole')
  np.testing.assert_array_equal(found, expected)
