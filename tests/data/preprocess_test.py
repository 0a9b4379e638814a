import io

from made import encode, smooth
import numpy as np
from PIL import Image
import pytest

from byol_jax.data import preprocess
from byol_jax.data.preprocess import tf

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def window(height, width, uniform, area=AREA, ratio=RATIO):
  view = preprocess.random_crop(area, ratio, 8)
  return view.window(tf.constant(height), tf.constant(width), uniform).numpy()


def reference_window(height, width, uniform):
  """The law of spec 3.2, as an independent sampler writes it."""
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


def reference_bicubic(pixels, height, width):
  """Keys' cubic, a = -0.5, half-pixel centres, no antialiasing, float64.

  Weights beyond the border are left out and the others made to sum to 1.
  """

  def weights(count, out):
    place = (np.arange(out) + 0.5) * count / out - 0.5
    x = np.abs(place[:, None] - np.arange(count))
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    found = np.where(x <= 1, near, np.where(x < 2, far, 0))
    return found / found.sum(1, keepdims=True)

  rows, columns = (
    weights(pixels.shape[0], height),
    weights(pixels.shape[1], width),
  )
  return np.einsum('yr,rcd,xc->yxd', rows, pixels.astype(float), columns)


def rendered(image, view, uniform=(0.0,) * 4):
  chance = tf.constant([uniform], tf.float64)
  return preprocess.render(image, [view], chance)[0].numpy()


@pytest.mark.parametrize(
  'height, width', [(1, 1), (1, 500), (500, 1), (2, 2), (37, 53), (375, 500)]
)
def test_windows_follow_the_reference(height, width):
  for uniform in np.random.default_rng(0).uniform(size=(60, 4)):
    found = window(height, width, uniform)
    np.testing.assert_array_equal(
      found, reference_window(height, width, uniform)
    )
    y, x, h, w = found
    assert h >= 1 and w >= 1 and y + h <= height and x + w <= width


def test_extreme_chances_stay_inside_the_image():
  most = 1 - 2.0**-52
  for uniform in np.stack(np.meshgrid(*[[0.0, most]] * 4), -1).reshape(-1, 4):
    for height, width in ((1, 1), (5, 3000), (32, 32)):
      y, x, h, w = window(height, width, uniform)
      assert 0 <= y <= height - h and 0 <= x <= width - w and min(h, w) >= 1


def test_an_area_of_one_with_a_square_ratio_is_the_whole_square():
  found = window(40, 40, np.full(4, 0.3), (1.0, 1.0), (1.0, 1.0))
  np.testing.assert_array_equal(found, [0, 0, 40, 40])


@pytest.mark.parametrize('shape', [(7, 9), (40, 25), (16, 16), (1, 3)])
def test_bicubic_is_keys_without_antialiasing(shape):
  pixels = smooth(3, *shape)
  found = preprocess.bicubic(tf.constant(pixels), 16, 16).numpy()
  # TensorFlow looks its weights up in a table of 1024 places a pixel:
  # 255 * the steepest slope / 2048.
  np.testing.assert_allclose(found, reference_bicubic(pixels, 16, 16), atol=0.2)
  public = tf.image.resize(pixels, (16, 16), 'bicubic').numpy()
  np.testing.assert_array_equal(found, public)


def test_overshoot_is_clipped():
  pixels = np.zeros((8, 8, 3), np.uint8)
  pixels[:, 4:] = 255
  found = rendered(tf.constant(pixels), preprocess.eval_crop('whole', 32))
  assert found.min() == 0 and found.max() == 1


@pytest.mark.parametrize('rule', preprocess.EVAL_CROPS)
@pytest.mark.parametrize('height, width', [(48, 64), (91, 50), (33, 33)])
def test_evaluation_crops_are_what_they_say(rule, height, width):
  pixels, size = smooth(1, height, width), 28
  if rule == 'crop':
    side = int(0.875 * min(height, width))
    y, x = (height - side + 1) // 2, (width - side + 1) // 2
    expected = reference_bicubic(pixels[y : y + side, x : x + side], size, size)
  else:
    shorter = 32 if rule == 'resize' else size  # 28 * 256 / 224
    scale = shorter / min(height, width)
    whole = reference_bicubic(
      pixels, round(height * scale), round(width * scale)
    )
    y, x = ((side - size + 1) // 2 for side in whole.shape[:2])
    expected = whole[y : y + size, x : x + size]
  view = preprocess.eval_crop(rule, size)
  found = rendered(tf.constant(pixels), view)
  assert found.dtype == np.float32
  # The table of weights again, in units of 1.
  np.testing.assert_allclose(found, expected.clip(0, 255) / 255, atol=1e-3)
  png = rendered(tf.constant(encode(pixels, 'PNG')), view)
  np.testing.assert_array_equal(png, found)


@pytest.mark.parametrize('rule', preprocess.EVAL_CROPS)
@pytest.mark.parametrize('height, width', [(1, 500), (500, 1), (1, 1), (3, 2)])
def test_thin_images_are_evaluated(rule, height, width):
  """Of 1 x 500 pixels only the middle is enlarged, and it is the middle."""
  pixels = np.zeros((height, width, 3), np.uint8)
  pixels[height // 2, width // 2] = 255
  found = rendered(tf.constant(pixels), preprocess.eval_crop(rule, 32))
  assert found.shape == (32, 32, 3) and found[16, 16].min() > 0.3


def test_elongated_images_lose_nothing_that_the_crop_sees():
  pixels = smooth(2, 12, 90)
  view = preprocess.eval_crop('whole', 24)
  found = rendered(tf.constant(pixels), view)
  whole = reference_bicubic(pixels, 24, 180)
  np.testing.assert_allclose(found, whole[:, 78:102] / 255, atol=1e-3)


@pytest.mark.parametrize('options', [{}, {'subsampling': 0}, {'quality': 60}])
def test_jpeg_crops_agree_with_pillow(options):
  """Partial decoding is full decoding, but where chroma is interpolated."""
  data = encode(smooth(4, 61, 83), **options)
  pixels = np.asarray(Image.open(io.BytesIO(data)))
  view = preprocess.random_crop(AREA, RATIO, 20)
  for uniform in np.random.default_rng(1).uniform(size=(10, 4)):
    y, x, h, w = window(61, 83, uniform)
    expected = reference_bicubic(pixels[y : y + h, x : x + w], 20, 20) / 255
    found = rendered(tf.constant(data), view, uniform)
    difference = np.abs(found - expected.clip(0, 1))
    # Chroma at the border of the window: a few levels in its last column.
    assert difference[:, :-2].max() < 4 / 255 and difference.mean() < 1 / 255


def test_every_format_and_mode_gives_three_channels():
  pixels = smooth(5, 24, 24)
  grey = pixels[..., 0]
  view = preprocess.eval_crop('whole', 24)
  expected = pixels / np.float32(255)
  alpha = np.concatenate([pixels, 255 - pixels[..., :1]], axis=-1)
  for kind in ('PNG', 'BMP'):
    found = rendered(tf.constant(encode(pixels, kind)), view)
    np.testing.assert_allclose(found, expected, atol=1e-6)
  # The alpha channel is dropped, not blended.
  found = rendered(tf.constant(encode(alpha, 'PNG')), view)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  webp = rendered(tf.constant(encode(pixels, 'WEBP', lossless=True)), view)
  np.testing.assert_allclose(webp, expected, atol=1e-6)
  found = rendered(tf.constant(encode(grey, 'PNG')), view)
  np.testing.assert_allclose(
    found, np.repeat(grey[..., None], 3, -1) / 255, atol=1e-6
  )
  for data in (encode(grey), encode(grey, 'GIF')):
    found = rendered(tf.constant(data), view)
    np.testing.assert_allclose(found[..., 0], grey / 255, atol=4 / 255)
    np.testing.assert_array_equal(found[..., 0], found[..., 2])
  buffer = io.BytesIO()
  Image.fromarray(pixels).convert('CMYK').save(buffer, 'JPEG', quality=95)
  assert rendered(tf.constant(buffer.getvalue()), view).shape == (24, 24, 3)


@pytest.mark.parametrize(
  'data', [b'', b'x', b'<html>', encode(smooth(0, 9, 9))[:99]]
)
def test_what_is_no_image_raises(data):
  with pytest.raises(tf.errors.OpError):
    rendered(tf.constant(data), preprocess.eval_crop('whole', 8))


def test_a_header_that_claims_too_much_raises_before_decoding():
  data = bytearray(encode(smooth(0, 16, 16)))
  frame = data.index(b'\xff\xc0')
  data[frame + 5 : frame + 9] = b'\xff\x00\xff\x00'  # 65,280 x 65,280
  with pytest.raises(tf.errors.InvalidArgumentError):
    rendered(tf.constant(bytes(data)), preprocess.eval_crop('crop', 8))


def test_chance_depends_on_each_of_its_arguments():
  def draw(seed=1, stream=0, index=2, epoch=3, count=2):
    return preprocess.chance(
      seed, stream, np.int64(index), np.int64(epoch), count
    ).numpy()

  first = draw()
  np.testing.assert_array_equal(first, draw())
  others = [
    draw(seed=2),
    draw(seed=-1),
    draw(seed=2**70),
    draw(stream=1),
    draw(index=3),
    draw(epoch=2),
    draw(index=3, epoch=2),
  ]
  values = {array.tobytes() for array in (first, *others)}
  assert len(values) == 8


def test_chance_is_uniform_and_views_are_independent():
  call = tf.function(lambda i: preprocess.chance(0, 0, i, tf.zeros_like(i), 2))
  draws = np.stack([call(tf.constant(i, tf.int64)) for i in range(1500)])
  for column in draws.reshape(-1, 8).T:
    ecdf = np.abs(np.sort(column) - (np.arange(1500) + 0.5) / 1500).max()
    assert ecdf < 0.05  # Kolmogorov-Smirnov at p = 0.001, 1.95 / sqrt(1500)
  correlation = np.corrcoef(draws.reshape(-1, 8).T) - np.eye(8)
  assert np.abs(correlation).max() < 0.11  # 4 deviations of 1 / sqrt(1500)


def test_tensorflow_sees_no_accelerator():
  assert not tf.config.get_visible_devices('GPU')
  assert not tf.config.get_visible_devices('TPU')
