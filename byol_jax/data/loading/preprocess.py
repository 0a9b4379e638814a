"""Decoding in TensorFlow's threads.

JPEG images are decoded by TensorFlow: three channels, the EXIF orientation
ignored, as in the official code. All others go through `decode`, which decodes
JPEG to the same pixels: TensorFlow reads some palettes, frames and damaged
files another way, and a set must not change with what decodes it.

TensorFlow is kept off every accelerator: they belong to JAX.
"""

import os
from typing import Any

import numpy as np

from byol_jax.data.loading import decode

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # says so on every start

import tensorflow as tf

tf.config.set_visible_devices([], 'GPU')
tf.config.set_visible_devices([], 'TPU')

Tensor = Any  # TensorFlow brings no types that mypy could read

# The default of TensorFlow differs from Pillow by up to 19/255, this by 0.
_DCT = 'INTEGER_ACCURATE'


def options(threads: int) -> Tensor:
  """A tf.data pipeline in threads of its own, in the order of its input."""
  result = tf.data.Options()
  result.deterministic = True
  result.threading.private_threadpool_size = threads
  result.threading.max_intra_op_parallelism = 1
  result.autotune.enabled = False  # its buffers take what memory there is
  return result


def decoded(image: Tensor) -> Tensor:
  """Pixels of an encoded image, uint8 [H, W, 3]."""
  return tf.cond(
    tf.io.is_jpeg(image), lambda: _decode_jpeg(image), lambda: _decode(image)
  )


def sides(image: Tensor) -> Tensor:
  """Height and width of an encoded image, int32 [2]."""

  def other() -> Tensor:
    return tf.numpy_function(_header_sides, [image], tf.int32)

  found = tf.cond(tf.io.is_jpeg(image), lambda: _jpeg_sides(image), other)
  return tf.ensure_shape(found, [2])


def decoded_window(image: Tensor, window: Tensor) -> Tensor:
  """Of a JPEG no more than a window, int32 [4], is decoded.

  The pixels of its first and last column differ from those of the whole image
  where chroma is subsampled, since they are interpolated between columns.
  """

  def of_pixels() -> Tensor:
    y, x, h, w = tf.unstack(window)
    return _decode(image)[y : y + h, x : x + w]

  return tf.cond(
    tf.io.is_jpeg(image),
    lambda: tf.io.decode_and_crop_jpeg(
      image, window, channels=3, dct_method=_DCT
    ),
    of_pixels,
  )


def _rgb(data: Any) -> np.ndarray:
  # In a graph bytes, without one an array of them.
  return decode.rgb(data if isinstance(data, bytes) else data.item())


def _header_sides(data: Any) -> np.ndarray:
  data = data if isinstance(data, bytes) else data.item()
  return np.array(decode.header(data)[1:], np.int32)


def _decode(image: Tensor) -> Tensor:
  """What is no JPEG, also what is no image, which raises."""
  pixels = tf.numpy_function(_rgb, [image], tf.uint8)
  return tf.ensure_shape(pixels, [None, None, 3])


def _jpeg_sides(image: Tensor) -> Tensor:
  """By the header; too many pixels are refused."""
  shape = tf.io.extract_jpeg_shape(image)[:2]
  area = tf.reduce_prod(tf.cast(shape, tf.int64))
  bound = tf.debugging.assert_less_equal(
    area, tf.constant(decode.MAX_PIXELS, tf.int64)
  )
  with tf.control_dependencies([bound] if bound is not None else []):
    return tf.identity(shape)


def _decode_jpeg(image: Tensor) -> Tensor:
  with tf.control_dependencies([_jpeg_sides(image)]):
    return tf.io.decode_jpeg(image, channels=3, dct_method=_DCT)
