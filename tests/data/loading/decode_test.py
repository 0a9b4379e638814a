import numpy as np
import pytest

from byol_jax.data.loading import decode, tf_engine
from byol_jax.data.loading.tf_engine import tf
from tests.helpers.made import encode, smooth

PIXELS = smooth(1, 37, 53)


def small_first_frame():
  """A GIF whose first frame covers a part of its canvas."""
  data = bytearray(encode(PIXELS[:20, :40, 0], 'GIF'))
  data[6:10] = (53).to_bytes(2, 'little') + (37).to_bytes(2, 'little')
  return bytes(data)


IMAGES = {
  'jpeg': encode(PIXELS),
  'jpeg 444': encode(PIXELS, subsampling=0),
  'jpeg progressive': encode(PIXELS, progressive=True, quality=40),
  'jpeg grey': encode(PIXELS[..., 0]),
  'jpeg cmyk': encode(PIXELS, mode='CMYK'),
  'png': encode(PIXELS, 'PNG'),
  'png rgba': encode(PIXELS, 'PNG', 'RGBA'),
  'png palette': encode(PIXELS, 'PNG', 'P', transparency=3),
  'png 16 bits': encode(PIXELS[..., 0].astype(np.uint16) * 211, 'PNG'),
  'gif': encode(PIXELS, 'GIF', 'P'),
  'bmp': encode(PIXELS, 'BMP'),
  'bmp palette': encode(PIXELS, 'BMP', 'P'),
  'gif small first frame': small_first_frame(),
  'webp': encode(PIXELS, 'WEBP', lossless=True),
}


@pytest.mark.parametrize('name', IMAGES)
def test_pixels_equal_tensorflows(name):
  data = IMAGES[name]
  found = decode.decode_rgb(data)
  assert found.dtype == np.uint8
  if name.startswith('jpeg'):
    expected = tf.io.decode_jpeg(data, 3, dct_method='INTEGER_ACCURATE')
    np.testing.assert_array_equal(found, expected.numpy())
  elif name not in ('bmp palette', 'gif small first frame'):
    # Those two TensorFlow reads another way, so it is not asked (tf_engine).
    expected = tf.io.decode_image(data, 3, expand_animations=False)
    np.testing.assert_array_equal(found, expected.numpy())
  streamed = tf_engine.decode_image(tf.constant(data)).numpy()
  np.testing.assert_array_equal(streamed, found)
  assert tf_engine.read_sides(tf.constant(data)).numpy().tolist() == [37, 53]
  part = tf_engine.decode_window(tf.constant(data), tf.constant([3, 8, 9, 7]))
  # Outer columns of JPEG may differ (promise 4).
  np.testing.assert_array_equal(part[:, 1:-1], found[3:12, 9:14])
  kind, height, width = decode.read_header(data)
  assert (kind, height, width) == (name.split()[0].upper(), 37, 53)


@pytest.mark.parametrize(
  'data, reason',
  [
    (b'', 'is empty'),
    (b'<html>', 'is none of'),
    (encode(PIXELS)[:300], 'has a broken header'),
    (encode(PIXELS, 'TIFF'), 'is none of'),
  ],
)
def test_what_is_no_image_is_refused_by_its_header(data, reason):
  for function in (decode.read_header, decode.decode_rgb):
    with pytest.raises(decode.Unusable, match=reason):
      function(data)
  with pytest.raises((tf.errors.OpError, decode.Unusable)):
    tf_engine.decode_image(tf.constant(data))


def test_a_cut_image_has_a_header_but_no_pixels():
  data = encode(PIXELS, quality=95)[:-20]
  assert decode.read_header(data)[1:] == (37, 53)
  with pytest.raises(decode.Unusable, match='cannot be decoded'):
    decode.decode_rgb(data)
