"""Resizing with numba against `tf.image.resize`, and its invariants."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from byol_jax import errors
from byol_jax.data.sampling import resize

# Sums in another order, of numbers up to 255 there and up to 1 here.
TOLERANCE = 2e-6
SHAPES = (
  (32, 32),
  (33, 47),
  (64, 31),
  (7, 5),
  (100, 230),
  (3, 50),
  (1, 40),
  (41, 1),
  (1, 1),
)


def random_image(height, width):
  """Noise: the hardest for an interpolation."""
  generator = np.random.default_rng(height * 1000 + width)
  return generator.integers(0, 256, (height, width, 3)).astype(np.uint8)


def smooth_image(height, width):
  rows, columns = np.mgrid[:height, :width]
  wave = 0.5 + 0.4 * np.sin(rows / 60 + columns / 30)
  return np.round(255 * wave[..., None] * (1, 0.5, 0.2)).astype(np.uint8)


def evaluate_with_tensorflow(image, size, method):
  """The evaluation crop as the paper and the official code define it."""
  height, width, _ = image.shape
  if method == 'crop':
    side = max(1, int(0.875 * min(height, width)))
    y, x = (height - side + 1) // 2, (width - side + 1) // 2
    image = image[y : y + side, x : x + side]
    found = tf.image.resize(image, (size, size), 'bicubic').numpy()
  else:
    shorter = round(size * 256 / 224) if method == 'resize' else size
    scale = shorter / min(height, width)
    new = round(height * scale), round(width * scale)
    found = tf.image.resize(image, new, 'bicubic').numpy()
    y, x = ((side - size + 1) // 2 for side in new)
    found = found[y : y + size, x : x + size]
  return np.clip(found / 255, 0, 1)


@pytest.mark.parametrize('method', resize.METHODS)
@pytest.mark.parametrize('height, width', SHAPES)
def test_the_evaluation_crop_is_that_of_tensorflow(method, height, width):
  # Of a thin image only the middle is resized, so its length is rounded
  # differently, by a fraction of a pixel, which noise would amplify.
  thin = max(height, width) > 4 * min(height, width) and method != 'crop'
  image = (smooth_image if thin else random_image)(height, width)
  for size in (32, 29):
    found = resize.crop_for_evaluation(image, size, method)
    assert found.dtype == np.float32 and found.shape == (size, size, 3)
    expected = evaluate_with_tensorflow(image, size, method)
    atol = 0.01 if thin else TOLERANCE
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    floats = resize.crop_for_evaluation(
      resize.convert_image(image), size, method
    )
    np.testing.assert_allclose(floats, found, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
  'window',
  ((0, 0, 1, 1), (63, 46, 1, 1), (5, 7, 2, 2), (9, 0, 1, 47), (0, 3, 64, 1),
   (0, 0, 64, 47), (63, 0, 1, 47), (31, 20, 33, 27)),
)  # fmt: skip
@pytest.mark.parametrize('size', (8, 16, 129))
def test_a_window_is_resized_as_by_tensorflow(window, size):
  image = random_image(64, 47)
  y, x, h, w = window
  part = tf.image.resize(image[y : y + h, x : x + w], (size, size), 'bicubic')
  expected = np.clip(part.numpy() / 255, 0, 1)
  resampled = resize.make_square_window(window, size)
  found = np.empty((size, size, 3), np.float32)
  resize.resample(image, resampled, found)
  np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
  rounded = np.empty((size, size, 3), np.uint8)
  resize.resample(image, resampled, rounded)
  np.testing.assert_array_equal(rounded, np.rint(found * np.float32(255)))
  resize.resample(np.asfortranarray(image), resampled, found)  # any layout
  np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
  mirrored = np.empty_like(found)
  flip = resampled._replace(columns=resampled.columns.reversed())
  resize.resample(image, flip, mirrored)
  np.testing.assert_array_equal(mirrored, found[:, ::-1])


def test_the_same_size_is_the_identity_and_overshoot_is_clipped():
  image = resize.convert_image(random_image(16, 16))
  found = resize.crop_for_evaluation(image, 16, 'whole')
  np.testing.assert_allclose(found, image, rtol=0, atol=1e-6)
  image = np.zeros((8, 8, 3), np.float32)
  image[:, 4:] = 1
  raw = tf.image.resize(image, (32, 32), 'bicubic').numpy()
  assert raw.max() > 1.01
  found = resize.crop_for_evaluation(image, 32, 'whole')
  assert found.min() == 0 and found.max() == 1


@pytest.mark.parametrize('dtype', (np.float16, np.float64, ml_dtypes.bfloat16))
def test_floats_become_float32(dtype):
  found = resize.convert_image(np.full((4, 4, 3), 0.5, dtype))
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, 0.5)


@pytest.mark.parametrize(
  'image, words',
  (
    (np.zeros((4, 4), np.uint8), r'\[H, W, 3\], found \[4, 4\]'),
    (np.zeros((4, 4, 4), np.uint8), r'\[H, W, 3\], found \[4, 4, 4\]'),
    (np.zeros((0, 4, 3), np.uint8), r'\[0, 4, 3\]'),
    (np.zeros((4, 4, 3), np.int64), 'found int64'),
    (np.zeros((4, 4, 3), bool), 'found bool'),
    (np.full((4, 4, 3), 255.0), r'\[0, 1\], found \[255, 255\]'),
    (np.full((4, 4, 3), -0.1), r'found \[-0.1, -0.1\]'),
    (np.full((4, 4, 3), np.nan), 'found .nan, nan.'),
    (np.full((4, 4, 3), 'x'), 'found <U1'),
  ),
)
def test_an_array_that_is_no_image_is_refused(image, words):
  with pytest.raises(errors.DataError, match=words) as caught:
    resize.convert_image(image)
  assert '\n' not in str(caught.value)
