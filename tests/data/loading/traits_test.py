import numpy as np
import pytest

from byol_jax.data.loading import decode, traits
from tests.helpers.listed import Listed
from tests.helpers.made import encode, smooth

ORDINARY = encode(smooth(0, 9, 9))
FLAT = encode(np.full((9, 9, 3), 70, np.uint8), 'PNG')
DARK = encode(smooth(0, 9, 9)[..., 0].astype(np.uint16) * 16, 'PNG')


@pytest.mark.parametrize(
  'images, grey_range, words',
  [
    ([ORDINARY, FLAT, None], (0, 65535), None),
    ([FLAT, b'', FLAT[:30]], (0, 65535), 'each of one colour'),
    ([np.zeros((4, 4, 3), np.uint8)], (0, 65535), 'each of one colour'),
    ([DARK, ORDINARY], (0, 65535), 'set it to what the files use'),
    ([DARK, ORDINARY], (0, 4095), None),
    ([None], (0, 65535), None),
  ],
)
def test_a_run_warns_if_there_is_nothing_to_learn(
  caplog, images, grey_range, words
):
  options = decode.PixelOptions(grey_range=grey_range)
  traits.warn_of_traits(Listed(images), options)
  assert len(caplog.messages) == bool(words)
  assert not words or words in caplog.text
