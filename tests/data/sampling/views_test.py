import numpy as np

from byol_jax.data.sampling import crops, resize, views
from tests.helpers.made import CROP_RANGE, smooth


def draw(seed):
  uniforms = np.random.default_rng(seed).uniform(size=(1, 1, 4))
  return crops.draw_crops(uniforms, [CROP_RANGE])[0, 0]


def render(view, image, numbers, size=16):
  out = np.empty((size, size, 3), np.float32)
  height, width, _ = image.shape
  resize.resample(image, view.resample_window(height, width, numbers), out)
  return out


def test_a_random_crop_is_the_window_that_was_drawn():
  view = views.View(12, 'whole', CROP_RANGE)
  for seed in range(20):
    found = view.resample_window(40, 60, draw(seed))
    assert found.window == crops.compute_window(40.0, 60.0, draw(seed))
    assert len(found.rows.indices) == len(found.columns.indices) == 12


def test_a_fifth_number_decides_the_flip():
  image, plain = smooth(3, 30, 40), views.View(16, 'whole', CROP_RANGE)
  expected = render(plain, image, draw(1))
  for fifth, step in ((0.0, -1), (0.499, -1), (0.5, 1), (0.999, 1)):
    numbers = np.append(draw(1), fifth)
    found = render(plain._replace(has_flip=True), image, numbers)
    np.testing.assert_array_equal(found, expected[:, ::step])


def test_an_evaluation_draws_nothing():
  view = views.View(16, 'whole')
  image = smooth(3, 30, 40)
  np.testing.assert_array_equal(
    render(view, image, np.zeros(4)),
    resize.crop_for_evaluation(image, 16, 'whole'),
  )
