import io

import numpy as np
from PIL import Image
import pytest

from byol_jax.data.loading import decode, preprocess
from byol_jax.data.loading.preprocess import tf
from byol_jax.data.sampling import crops
from tests.helpers.made import CROP_RANGE, encode, smooth


def draws(count, seed=1):
  """What is drawn for `count` crops, float64 [count, 4]."""
  uniforms = np.random.default_rng(seed).uniform(size=(count, 1, 4))
  return crops.draw_crops(uniforms, [CROP_RANGE])[:, 0]


def window(height, width, drawn):
  return [int(n) for n in crops.crop_window(float(height), float(width), drawn)]


@pytest.mark.parametrize('subsampling', [0, 1, 2])
@pytest.mark.parametrize('height, width', [(64, 96), (61, 83), (17, 200)])
def test_promise_4_decoding_once_changes_outer_columns(
  subsampling, height, width
):
  """Compared before resizing, where columns still are columns."""
  generator = np.random.default_rng(0)
  noise = generator.normal(0, 8, (height, width, 3))
  pixels = np.clip(smooth(4, height, width) + noise, 0, 255).astype(np.uint8)
  data = tf.constant(encode(pixels, subsampling=subsampling, quality=90))
  whole = preprocess.decoded(data).numpy().astype(int)
  means = []
  for drawn in draws(30):
    y, x, h, w = window(height, width, drawn)
    crop = preprocess.decoded_window(data, tf.constant([y, x, h, w]))
    difference = np.abs(whole[y : y + h, x : x + w] - crop.numpy())
    # Of DATA/imagenet_sample the first column differed by up to 7, the last
    # by up to 11, crops by 0.0001 in the mean and 0.005 at most.
    assert difference[:, 1:-1].max(initial=0) == 0
    assert difference.max() <= (0 if subsampling == 0 else 16)
    means.append(difference.mean())
  assert np.mean(means) <= 0.2


def formats():
  pixels = smooth(5, 24, 24)
  alpha = np.concatenate([pixels, 255 - pixels[..., :1]], axis=-1)
  grey = np.repeat(pixels[..., :1], 3, -1)
  yield pytest.param(encode(pixels, 'PNG'), pixels, 0, id='png')
  yield pytest.param(encode(pixels, 'BMP'), pixels, 0, id='bmp')
  # The alpha channel is dropped, not blended.
  yield pytest.param(encode(alpha, 'PNG'), pixels, 0, id='alpha')
  webp = encode(pixels, 'WEBP', lossless=True)
  yield pytest.param(webp, pixels, 0, id='webp')
  yield pytest.param(encode(grey[..., 0], 'PNG'), grey, 0, id='grey png')
  yield pytest.param(encode(grey[..., 0]), grey, 4, id='grey jpeg')
  yield pytest.param(encode(grey[..., 0], 'GIF'), grey, 4, id='grey gif')
  buffer = io.BytesIO()
  Image.fromarray(pixels).convert('CMYK').save(buffer, 'JPEG', quality=95)
  yield pytest.param(buffer.getvalue(), pixels, 12, id='cmyk')


@pytest.mark.parametrize('data, expected, atol', list(formats()))
def test_every_format_and_mode_gives_three_channels(data, expected, atol):
  found = preprocess.decoded(tf.constant(data)).numpy()
  assert found.dtype == np.uint8
  np.testing.assert_allclose(found.astype(int), expected, rtol=0, atol=atol)
  assert preprocess.sides(tf.constant(data)).numpy().tolist() == [24, 24]
  part = preprocess.decoded_window(tf.constant(data), tf.constant([3, 8, 9, 7]))
  inside = part.numpy()[:, 1:-1]
  np.testing.assert_array_equal(inside, found[3:12, 9:14])


@pytest.mark.parametrize(
  'data', [b'', b'x', b'<html>', encode(smooth(0, 9, 9))[:99]]
)
def test_what_is_no_image_raises(data):
  with pytest.raises((tf.errors.OpError, decode.Unusable)):
    preprocess.decoded(tf.constant(data))


@pytest.mark.parametrize('function', ['decoded', 'sides'])
def test_a_header_that_claims_too_much_raises_before_decoding(function):
  data = bytearray(encode(smooth(0, 16, 16)))
  frame = data.index(b'\xff\xc0')
  data[frame + 5 : frame + 9] = b'\xff\x00\xff\x00'  # 65,280 x 65,280
  with pytest.raises(tf.errors.InvalidArgumentError, match='did not hold'):
    getattr(preprocess, function)(tf.constant(bytes(data)))


def test_tensorflow_sees_no_accelerator():
  assert not tf.config.get_visible_devices('GPU')
  assert not tf.config.get_visible_devices('TPU')
