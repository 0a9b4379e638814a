import numpy as np
import pytest
import tensorflow as tf

from byol_jax.data.sampling import crops

CROP_RANGE = crops.CropRange((0.08, 1.0), (3 / 4, 4 / 3))
SIZES = [(1, 1), (1, 500), (500, 1), (2, 2), (37, 53), (375, 500)]


def draw(
  count, seed=0, stream=crops.PRETRAIN_STREAM, epoch=0, first=0, views=2
):
  ids = np.arange(first, first + count)
  epochs = np.full(count, epoch)
  return crops.draw_uniform(seed, stream, epochs, ids, views)


def windows(height, width, uniforms, crop_range=CROP_RANGE):
  """int64 [N, 4] of the first view."""
  numbers = crops.draw_crops(uniforms, [crop_range] * uniforms.shape[1])[:, 0].T
  found = crops.compute_window(float(height), float(width), numbers)
  return np.stack(np.broadcast_arrays(*found), -1).astype(np.int64)


def reference_window(height, width, uniform):
  """The crop of method.md 3.2, written independently."""
  area = (0.08 + 0.92 * uniform[0]) * height * width
  ratio = (3 / 4) * (16 / 9) ** uniform[1]
  w = min(max(round(float(np.sqrt(area * ratio))), 1), width)
  h = min(max(round(float(np.sqrt(area / ratio))), 1), height)
  return (
    int(uniform[2] * (height - h + 1)),
    int(uniform[3] * (width - w + 1)),
    h,
    w,
  )


def test_numbers_are_those_of_tensorflow_bit_for_bit():
  generator = np.random.default_rng(0)
  for seed in (0, 1, 2**32 - 1, 2**62 + 5):
    ids = generator.integers(0, 2**40, 6)
    epochs = generator.integers(0, 2**20, 6)
    found = crops.draw_uniform(seed, crops.SUPERVISED_STREAM, epochs, ids, 3)
    word = (2 * seed + crops.SUPERVISED_STREAM) % 2**64
    word -= 2**64 * (word >= 2**63)
    for i in range(6):
      key = [word, (int(epochs[i]) << 40) + int(ids[i])]
      expected = tf.random.stateless_uniform(
        [3, 4], tf.constant(key, tf.int64), dtype=tf.float64, alg='philox'
      )
      np.testing.assert_array_equal(found[i], expected.numpy())


def test_numbers_depend_on_each_argument_and_on_nothing_else():
  first = draw(1)
  np.testing.assert_array_equal(draw(5)[:1], first)
  np.testing.assert_array_equal(draw(1, views=3)[:, :2], first)
  others = [
    draw(1, seed=2),
    draw(1, seed=-1),
    draw(1, seed=2**70),
    draw(1, stream=crops.SUPERVISED_STREAM),
    draw(1, first=1),
    draw(1, epoch=1),
    draw(1, first=1, epoch=1),
  ]
  # 2^70 is the seed 0 again: a key has 64 bits.
  assert len({array.tobytes() for array in (first, *others)}) == 7


@pytest.mark.parametrize('height, width', [*SIZES, (5, 3000)])
def test_promise_4_windows_follow_the_paper_and_stay_inside(height, width):
  most = 1 - 2.0**-52
  extreme = np.stack(np.meshgrid(*[[0.0, most]] * 4), -1).reshape(-1, 1, 4)
  uniforms = np.random.default_rng(0).uniform(size=(200, 1, 4))
  uniforms = np.concatenate([uniforms, extreme])
  for uniform, found in zip(uniforms, windows(height, width, uniforms)):
    y, x, h, w = found
    assert tuple(found) == reference_window(height, width, uniform[0])
    assert 1 <= h <= height - y and 1 <= w <= width - x and min(x, y) >= 0


def test_ranges_of_one_value_and_none():
  square = crops.CropRange((1.0, 1.0), (1.0, 1.0))
  found = windows(40, 40, np.full((1, 1, 4), 0.3), square)
  np.testing.assert_array_equal(found, [[0, 0, 40, 40]])
  uniforms = draw(3)
  scaled = crops.draw_crops(uniforms, [CROP_RANGE, None])
  np.testing.assert_array_equal(scaled[:, 1], uniforms[:, 1])
  assert scaled[:, 0, 0].min() >= 0.08
