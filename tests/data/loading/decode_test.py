import numpy as np
from PIL import Image
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
  # TensorFlow drops alpha.
  options = decode.PixelOptions(background=None)
  found = decode.decode_rgb(data, options)
  assert found.dtype == np.uint8
  if name.startswith('jpeg'):
    expected = tf.io.decode_jpeg(data, 3, dct_method='INTEGER_ACCURATE')
    np.testing.assert_array_equal(found, expected.numpy())
  elif name not in ('bmp palette', 'gif small first frame'):
    # Those two TensorFlow reads another way, so it is not asked (tf_engine).
    expected = tf.io.decode_image(data, 3, expand_animations=False)
    np.testing.assert_array_equal(found, expected.numpy())
  image, is_plain = tf.constant(data), decode.is_plain_jpeg(data, options)
  assert is_plain == name.startswith('jpeg')
  streamed = tf_engine.decode_image(image, is_plain, options)
  np.testing.assert_array_equal(streamed, found)
  if is_plain:
    assert tf_engine.read_sides(image).numpy().tolist() == [37, 53]
    part = tf_engine.decode_window(image, tf.constant([3, 8, 9, 7]))
    # Outer columns may differ (promise 4).
    np.testing.assert_array_equal(part[:, 1:-1], found[3:12, 9:14])
  assert decode.read_header(data)[:3] == (name.split()[0].upper(), 37, 53)


def turned(kind, value, **options):
  """An encoded picture that asks to be turned."""
  exif = Image.Exif()
  exif[0x0112] = value
  return encode(PIXELS, kind, exif=exif, **options)


# EXIF orientation -> the upright picture, of what is stored.
UPRIGHT = {
  1: lambda x: x,
  2: lambda x: x[:, ::-1],
  3: lambda x: x[::-1, ::-1],
  4: lambda x: x[::-1],
  5: lambda x: x.swapaxes(0, 1),
  6: lambda x: np.rot90(x, -1),
  7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
  8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize('value', [*UPRIGHT, 0, 9])
@pytest.mark.parametrize(
  'kind, options',
  [('JPEG', {}), ('PNG', {}), ('WEBP', {'lossless': True}), ('TIFF', {})],
)
def test_a_picture_is_upright(kind, options, value):
  data = turned(kind, value, **options)
  ignoring = decode.PixelOptions(exif=False)
  # TIFF's orientation is no EXIF: it is a part of the format.
  stored = decode.decode_rgb(encode(PIXELS, kind, **options))
  found = decode.decode_rgb(data)
  expected = UPRIGHT.get(value, UPRIGHT[1])(stored)
  np.testing.assert_array_equal(found, expected)
  ignored = expected if kind == 'TIFF' else stored
  np.testing.assert_array_equal(decode.decode_rgb(data, ignoring), ignored)
  assert decode.read_sides(data) == found.shape[:2]
  assert decode.read_sides(data, ignoring) == ignored.shape[:2]
  is_plain = kind == 'JPEG' and value in (0, 1, 9)
  assert decode.is_plain_jpeg(data, decode.PixelOptions()) == is_plain
  assert decode.is_plain_jpeg(data, ignoring) == (kind == 'JPEG')


@pytest.mark.parametrize('kind', ['JPEG', 'WEBP'])
def test_xmp_turns_a_picture_without_exif(kind):
  xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
  plain, data = encode(PIXELS, kind), encode(PIXELS, kind, xmp=xmp)
  found, stored = map(decode.decode_rgb, (data, plain))
  np.testing.assert_array_equal(found, np.rot90(stored, -1))
  assert decode.read_sides(data) == (53, 37)
  options = decode.PixelOptions()
  assert not decode.is_plain_jpeg(data, options)
  assert decode.is_plain_jpeg(plain, options) == (kind == 'JPEG')


@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
def test_broken_exif_turns_nothing():
  data = turned('JPEG', 6)
  start = data.index(b'Exif')
  for length in range(0, 40, 3):
    cut = data[: start + 6 + length] + bytes(80) + data[start + 86 :]
    options = decode.PixelOptions()
    is_plain = decode.is_plain_jpeg(cut, options)
    sides = decode.read_sides(cut, options)
    assert sides == ((37, 53) if is_plain else (53, 37))
  for end in range(len(data)):
    decode.is_plain_jpeg(data[:end], options)


@pytest.mark.parametrize('background', decode.BACKGROUNDS)
def test_transparent_pixels_show_the_background(background):
  pixels = np.full((2, 2, 4), (200, 100, 0, 51), np.uint8)
  colour = decode.BACKGROUNDS[background]
  found = decode.decode_rgb(
    encode(pixels, 'PNG'), decode.PixelOptions(background=colour)
  )
  expected = np.array([200, 100, 0])
  if colour is not None:
    expected = 0.2 * expected + 0.8 * np.array(colour)
  np.testing.assert_allclose(found[0, 0], expected, atol=1)  # bytes


@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
def test_a_range_keeps_the_levels_of_twelve_bits(kind):
  values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
  found = {}
  for high in (65535, 4095, 100):
    options = decode.PixelOptions(grey_range=(0, high))
    found[high] = decode.decode_rgb(encode(values, kind), options)[..., 0]
  np.testing.assert_array_equal(found[65535], values >> 8)
  np.testing.assert_array_equal(found[4095], values >> 4)
  assert len(np.unique(found[4095])) == 256
  assert (found[100].ravel()[101:] == 255).all()
  floats = (values / 4095).astype(np.float32)
  options = decode.PixelOptions(grey_range=(0, 1))
  shown = decode.decode_rgb(encode(floats, 'TIFF'), options)[..., 0]
  assert len(np.unique(shown)) == 256 and (np.diff(shown.ravel()) >= 0).all()


@pytest.mark.parametrize(
  'data, reason',
  [
    (b'', 'is empty'),
    (b'<html>', 'is none of'),
    (encode(PIXELS)[:300], 'has a broken header'),
    (b'\0\0\0\x18ftypheic', "pip install 'byol_jax\\[heif]'"),
  ],
)
def test_what_is_no_image_is_refused_by_its_header(data, reason):
  for function in (decode.read_header, decode.decode_rgb):
    with pytest.raises(decode.Unusable, match=reason):
      function(data)
  with pytest.raises((tf.errors.OpError, decode.Unusable)):
    tf_engine.decode_image(tf.constant(data), False)


def test_a_cut_image_has_a_header_but_no_pixels():
  data = encode(PIXELS, quality=95)[:-20]
  assert decode.read_header(data)[1:3] == (37, 53)
  with pytest.raises(decode.Unusable, match='cannot be decoded'):
    decode.decode_rgb(data)
