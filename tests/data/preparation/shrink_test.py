import io

import numpy as np
from PIL import Image, JpegImagePlugin
import pytest

from byol_jax.data.loading import decode
from byol_jax.data.preparation import shrink
from tests.helpers.made import encode, smooth


def shrunk(data, side, quality=95):
  return shrink.smaller(data, shrink.Change(side, quality))


@pytest.mark.parametrize(
  'size, side, expected',
  [
    ((40, 60), 20, (20, 30)),
    ((60, 40), 20, (30, 20)),
    ((30, 30), 29, (29, 29)),
    ((33, 100), 10, (10, 30)),
    ((4, 400), 2, (2, 200)),
    ((400, 3), 1, (133, 1)),
  ],
)
def test_the_shorter_side_is_as_said_and_the_ratio_stays(size, side, expected):
  data = shrunk(encode(smooth(0, *size), 'PNG'), side)
  assert decode.header(data) == ('JPEG', *expected)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
@pytest.mark.parametrize('side', [20, 21, 500])
def test_nothing_is_enlarged_or_saved_twice(kind, side):
  data = encode(smooth(0, 20, 30), kind)
  assert shrunk(data, side) == data


def test_pixels_are_averages():
  # A chequerboard of single pixels is grey; without antialiasing, black.
  board = np.indices((64, 64)).sum(0) % 2 * 255
  pixels = np.repeat(board[..., None], 3, axis=-1).astype(np.uint8)
  found = decode.rgb(shrunk(encode(pixels, 'PNG'), 16))
  np.testing.assert_allclose(found[2:-2, 2:-2], 127.5, atol=4)
  # And a smooth picture is what a coarser camera sees.
  picture = smooth(1, 80, 120)
  means = picture.reshape(20, 4, 30, 4, 3).mean((1, 3))
  found = decode.rgb(shrunk(encode(picture, 'PNG'), 20, 100))
  assert np.abs(found - means).mean() < 2


def test_quality_and_chroma_are_as_promised():
  data = encode(smooth(0, 60, 60), 'PNG')
  sizes = [len(shrunk(data, 40, quality)) for quality in (30, 80, 95)]
  assert sizes == sorted(sizes) and len(set(sizes)) == 3
  with Image.open(io.BytesIO(shrunk(data, 40))) as image:
    assert JpegImagePlugin.get_sampling(image) == 2  # 4:2:0
    again = io.BytesIO()
    Image.new('RGB', (8, 8)).save(again, 'JPEG', quality=95)
    with Image.open(again) as other:
      assert image.quantization == other.quantization


def test_what_cannot_be_decoded_says_so():
  data = encode(smooth(0, 60, 60))
  for broken in (b'', b'no image', data[:-200]):
    with pytest.raises(decode.Unusable):
      shrunk(broken, 20)
