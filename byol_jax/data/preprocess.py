"""Decoding, cropping and resizing on the host, by TensorFlow.

An image is a scalar string tensor (JPEG, PNG, GIF, BMP, WebP) or uint8
[H, W, 3]; what leaves is float32 [S, S, 3] in [0, 1]. Grey images get three
equal channels, an alpha channel is dropped, of an animation the first frame
is taken, and the EXIF orientation is ignored, as in the official code.

TensorFlow is kept off every accelerator: they belong to JAX.
"""

from collections.abc import Callable, Sequence
import math
import os
from typing import Any, NamedTuple

import numpy as np

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # says so on every start

import tensorflow as tf

tf.config.set_visible_devices([], 'GPU')
tf.config.set_visible_devices([], 'TPU')

Tensor = Any  # TensorFlow brings no types that mypy could read

EVAL_CROPS = ('resize', 'crop', 'whole')
_MAX_PIXELS = 178_956_970  # a JPEG that claims more is refused by its header
# The default of TensorFlow differs from Pillow by up to 19/255, this by 0.
_DCT = 'INTEGER_ACCURATE'
_ELONGATED = 4  # beyond this ratio of the sides only the middle is resized


_EPOCH_BITS = 40  # room for an example id below the epoch in a key


class View(NamedTuple):
  """One picture of an image.

  window: (height, width, uniform float64 [4]) -> int32 [4], the part to
    decode as (y, x, height, width).
  resize: uint8 [h, w, 3] of that window -> float32 [S, S, 3], 0 to 255.
  """

  window: Callable[[Tensor, Tensor, Tensor], Tensor]
  resize: Callable[[Tensor], Tensor]


def random_crop(
  area: Sequence[float], ratio: Sequence[float], image_size: int
) -> View:
  """The crop of both augmentations, official code, spec 3.2.

  The sides are clamped to the image, without rejection; a side of no pixel is
  made one, where the official code would fail.

  Args:
    area: smallest and largest share of the image's area.
    ratio: smallest and largest width / height.
    image_size: of the result, pixels.
  """
  logs = math.log(ratio[0]), math.log(ratio[1])

  def window(height: Tensor, width: Tensor, uniform: Tensor) -> Tensor:
    rows, columns = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    target = rows * columns * (area[0] + (area[1] - area[0]) * uniform[0])
    aspect = tf.exp(logs[0] + (logs[1] - logs[0]) * uniform[1])
    w = tf.clip_by_value(tf.round(tf.sqrt(target * aspect)), 1, columns)
    h = tf.clip_by_value(tf.round(tf.sqrt(target / aspect)), 1, rows)
    y = tf.floor(uniform[2] * (rows - h + 1))
    x = tf.floor(uniform[3] * (columns - w + 1))
    return tf.cast(tf.stack([y, x, h, w]), tf.int32)

  return View(window, lambda pixels: bicubic(pixels, image_size, image_size))


def eval_crop(rule: str, image_size: int) -> View:
  """The picture that is evaluated, spec 5.1 and 3.2.

  Args:
    rule: 'resize', shorter side to 256/224 of the size, then the centre (the
      paper); 'crop', the central square of 0.875 of the shorter side (the
      official code); 'whole', shorter side to the size, then the centre.
    image_size: of the result, pixels.
  """
  if rule == 'crop':
    return View(
      _central_square, lambda pixels: bicubic(pixels, image_size, image_size)
    )
  shorter = round(image_size * 256 / 224) if rule == 'resize' else image_size
  return View(
    _middle, lambda pixels: _resize_and_centre(pixels, shorter, image_size)
  )


def _central_square(height: Tensor, width: Tensor, _: Tensor) -> Tensor:
  side = tf.cast(
    0.875 * tf.cast(tf.minimum(height, width), tf.float64), tf.int32
  )
  side = tf.maximum(side, 1)
  return tf.stack(
    [(height - side + 1) // 2, (width - side + 1) // 2, side, side]
  )


def _middle(height: Tensor, width: Tensor, _: Tensor) -> Tensor:
  """The whole image; of a very elongated one no more than the crop sees.

  Resizing 1 x 500 pixels to 256 rows would take 128,000 columns.
  """
  shorter = tf.minimum(height, width)
  # The margin is more than the two pixels that bicubic looks beyond.
  most = tf.maximum(_ELONGATED * shorter, shorter + 8)

  def part(side: Tensor) -> tuple[Tensor, Tensor]:
    cut = tf.maximum(side - most, 0) // 2
    return cut, side - 2 * cut

  (y, h), (x, w) = part(height), part(width)
  return tf.stack([y, x, h, w])


def _resize_and_centre(pixels: Tensor, shorter: int, size: int) -> Tensor:
  sides = tf.shape(pixels)[:2]
  scale = shorter / tf.reduce_min(sides)
  sides = tf.cast(tf.round(tf.cast(sides, scale.dtype) * scale), tf.int32)
  resized = bicubic(pixels, sides[0], sides[1])
  y, x = (sides[0] - size + 1) // 2, (sides[1] - size + 1) // 2
  return tf.ensure_shape(resized[y : y + size, x : x + size], [size, size, 3])


def bicubic(pixels: Tensor, height: Any, width: Any) -> Tensor:
  """Keys' cubic, half-pixel centres, no antialiasing: [h, w, 3] -> float32.

  This is `tf.image.resize(..., 'bicubic', antialias=False)`, without its
  detours. It overshoots the range of the pixels.
  """
  return tf.raw_ops.ResizeBicubic(
    images=pixels[None],
    size=tf.stack([height, width]),
    half_pixel_centers=True,
  )[0]


def chance(
  seed: int, stream: int, index: Tensor, epoch: Tensor, count: int
) -> Tensor:
  """Uniform float64 [count, 4] in [0, 1), by nothing but the arguments.

  Args:
    seed: of the run.
    stream: 0 or 1, for two uses of one seed.
    index: of the example, int64.
    epoch: int64.
    count: rows, one for each view.
  """
  word = (2 * seed + stream) % 2**64
  first = tf.constant(word - 2**64 if word >= 2**63 else word, tf.int64)
  epoch = tf.convert_to_tensor(epoch, tf.int64)
  second = tf.bitwise.left_shift(epoch, np.int64(_EPOCH_BITS)) + index
  return tf.random.stateless_uniform(
    [count, 4], tf.stack([first, second]), dtype=tf.float64, alg='philox'
  )


def options(threads: int) -> Tensor:
  """A tf.data pipeline in threads of its own, in the order of its input."""
  result = tf.data.Options()
  result.deterministic = True
  result.threading.private_threadpool_size = threads
  result.threading.max_intra_op_parallelism = 1
  result.autotune.enabled = False  # its buffers take what memory there is
  return result


def render(image: Tensor, views: Sequence[View], uniform: Tensor) -> list:
  """Pictures of one image, float32 [S, S, 3] in [0, 1] each.

  Args:
    image: encoded, or uint8 [H, W, 3].
    views: what to make.
    uniform: float64 [V, 4] in [0, 1), the chance of each view.

  Raises:
    tf.errors.OpError: the image cannot be decoded.
  """
  image = tf.convert_to_tensor(image)
  if image.dtype != tf.string:
    pictures = _from_pixels(image, views, uniform)
  else:
    pictures = tf.cond(
      tf.io.is_jpeg(image),
      lambda: _from_jpeg(image, views, uniform),
      lambda: _from_pixels(_decode(image), views, uniform),
    )
  # Bicubic overshoots, so we clip, here and not later.
  return [tf.clip_by_value(picture / 255, 0, 1) for picture in pictures]


def _decode(image: Tensor) -> Tensor:
  pixels = tf.io.decode_image(image, channels=3, expand_animations=False)
  return tf.ensure_shape(pixels, [None, None, 3])


def _from_pixels(
  pixels: Tensor, views: Sequence[View], uniform: Tensor
) -> list:
  shape = tf.shape(pixels)
  pictures = []
  for i, view in enumerate(views):
    y, x, h, w = tf.unstack(view.window(shape[0], shape[1], uniform[i]))
    pictures.append(view.resize(pixels[y : y + h, x : x + w]))
  return pictures


def _from_jpeg(image: Tensor, views: Sequence[View], uniform: Tensor) -> list:
  """Decodes no more than each view's window."""
  shape = tf.io.extract_jpeg_shape(image)
  area = tf.reduce_prod(tf.cast(shape[:2], tf.int64))
  bound = tf.debugging.assert_less(area, tf.constant(_MAX_PIXELS, tf.int64))
  with tf.control_dependencies([bound] if bound is not None else []):
    height, width = tf.identity(shape[0]), tf.identity(shape[1])
  pictures = []
  for i, view in enumerate(views):
    window = view.window(height, width, uniform[i])
    pixels = tf.io.decode_and_crop_jpeg(
      image, window, channels=3, dct_method=_DCT
    )
    pictures.append(view.resize(pixels))
  return pictures
