"""Images made smaller once, so that they need not be decoded whole each time.

Pillow's bicubic filter with antialiasing; JPEG with 4:2:0 chroma, as most
photographs have. Never enlarged: what is no larger keeps its bytes.
"""

import io
from typing import NamedTuple

from PIL import Image

from byol_jax.data.loading import decode


class Change(NamedTuple):
  """Pixels of the shorter side, and the quality of the JPEGs, 1 to 100."""

  shorter_side: int
  quality: int


def smaller(data: bytes, change: Change) -> bytes:
  """An encoded image of that shorter side, or the same bytes.

  Raises:
    decode.Unusable: it cannot be decoded.
  """
  _, height, width = decode.header(data)
  shorter = min(height, width)
  if shorter <= change.shorter_side:
    return data
  height, width = (
    max(1, round(side * change.shorter_side / shorter))
    for side in (height, width)
  )
  image = Image.fromarray(decode.rgb(data))
  buffer = io.BytesIO()
  image.resize((width, height), Image.Resampling.BICUBIC).save(
    buffer, 'JPEG', quality=change.quality, subsampling='4:2:0'
  )
  return buffer.getvalue()
