"""Decodes by tf.data: the input pipeline of a large run.

TensorFlow reads ahead, decodes in its threads and keeps the order of the
positions, however many threads there are. Pixels do not leave through the
pipeline: each image is cropped and resized into its row of the batch
(`BatchPlan.write_row`), and what leaves says which rows are done. A whole
batch in TensorFlow's memory was new pages each time, and their first touch
cost a quarter of the rate.

JPEG images are decoded by TensorFlow: three channels, the EXIF orientation
ignored, as in the official code. All others go through `decode`, whose JPEG
pixels are the same: TensorFlow reads some palettes, frames and damaged files
another way, and a set must not change with what decodes it.

TensorFlow is kept off every accelerator: they belong to JAX.
"""

from collections.abc import Generator
import functools
import os
from typing import Any

import numpy as np

from byol_jax.data.loading import batch_buffer, batch_plan, decode
from byol_jax.data.sources import base

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # logs on every start

import tensorflow as tf

tf.config.set_visible_devices([], 'GPU')
tf.config.set_visible_devices([], 'TPU')

Tensor = Any  # TensorFlow brings no types that mypy could read

_CHUNK = 16  # images a call from TensorFlow into Python, which costs 60 us
_AHEAD = 2  # batches
# TensorFlow's default differs from Pillow by up to 19/255, this by 0.
_DCT = 'INTEGER_ACCURATE'
# Every function here is written as a graph: there is nothing to convert.
_graph = tf.autograph.experimental.do_not_convert


class _Stream:
  """What TensorFlow's threads call while a stream is open.

  TensorFlow never frees the Python functions of a graph, nor what they hold:
  they hold this object, which drops plan and source at the end.
  """

  def __init__(self, plan: batch_plan.BatchPlan, source: base.Source) -> None:
    self._held: tuple[batch_plan.BatchPlan, base.Source] | None = (plan, source)

  def close(self) -> None:
    """Makes every later call raise, which ends the threads."""
    self._held = None

  def _get(self) -> tuple[batch_plan.BatchPlan, base.Source]:
    if self._held is None:
      raise RuntimeError('the stream has ended')
    return self._held

  def plan_step(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return self._get()[0].plan_step(int(step))

  def read(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return base.read_many(self._get()[1], ids)

  def crop_windows(self, sides: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    return self._get()[0].crop_windows(sides, drawn)

  def write_image(self, position: Any, drawn: Any, pixels: Any) -> Any:
    self._get()[0].write_row(int(position), [pixels], drawn)
    return position

  def write_windows(
    self, position: Any, drawn: Any, sides: Any, *pixels: Any
  ) -> Any:
    self._get()[0].write_row(int(position), pixels, drawn, sides)
    return position

  def write_pixels(self, positions: Any, ids: Any, drawn: Any) -> tuple:
    """Reads and writes images of a source of pixels, skipping bad ones."""
    plan, source = self._get()
    done, labels = [], []
    for position, index, numbers in zip(positions, ids, drawn):
      try:
        image, label = source.read(int(index))
        plan.write_row(int(position), [decode.pixels(image)], numbers)
      except Exception:  # a source may raise anything; FallbackReader names it
        continue
      done.append(position)
      labels.append(label)
    return np.array(done, np.int64), np.array(labels, np.int32)


def decode_into(
  plan: batch_plan.BatchPlan,
  source: base.Source,
  threads: int,
  *,
  decoding: str,
) -> Generator[batch_buffer.Chunk]:
  """Writes the rows of a plan in their order, leaving out bad images.

  Args:
    plan: which rows.
    source: the images, encoded or pixels.
    threads: for reading and decoding.
    decoding: 'once', an image for all views; 'crops', of a JPEG no more than
      each view's window.
  """
  stream = _Stream(plan, source)
  steps = tf.data.Dataset.range(plan.steps.start, plan.steps.stop)
  dataset = steps.map(_graph(functools.partial(_plan_step, stream)))
  dataset = dataset.unbatch().batch(_CHUNK)
  parallel = {'num_parallel_calls': threads, 'deterministic': True}
  if isinstance(batch_plan.read_first_image(source), bytes):
    read = functools.partial(_read, stream)
    dataset = dataset.map(_graph(read), **parallel).unbatch()
    write = (
      functools.partial(_write_image, stream)
      if decoding == 'once'
      else functools.partial(_write_windows, stream, len(plan.views))
    )
    dataset = dataset.map(_graph(write), **parallel).ignore_errors()
    dataset = dataset.batch(_CHUNK)
  else:
    write = functools.partial(_write_pixels, stream)
    dataset = dataset.map(_graph(write), **parallel)
  dataset = dataset.prefetch(-(-_AHEAD * plan.rows // _CHUNK))
  dataset = dataset.with_options(pipeline_options(threads))
  try:
    yield from dataset.as_numpy_iterator()
  finally:
    stream.close()


def pipeline_options(threads: int) -> Tensor:
  """Returns options of a tf.data pipeline: private threads, kept order."""
  result = tf.data.Options()
  result.deterministic = True
  result.threading.private_threadpool_size = threads
  result.threading.max_intra_op_parallelism = 1
  result.autotune.enabled = False  # its buffers take what memory there is
  return result


def _plan_step(stream: _Stream, step: Tensor) -> tuple:
  kinds = [tf.int64, tf.int64, tf.float64]
  columns = tf.numpy_function(stream.plan_step, [step], kinds)
  return tuple(map(tf.ensure_shape, columns, ([None], [None], [None] * 3)))


def _read(
  stream: _Stream, positions: Tensor, ids: Tensor, drawn: Tensor
) -> tuple:
  images, labels = tf.numpy_function(stream.read, [ids], [tf.string, tf.int32])
  images, labels = (tf.ensure_shape(x, [None]) for x in (images, labels))
  return images, labels, positions, drawn


def _write_image(
  stream: _Stream, image: Tensor, label: Tensor, position: Tensor, drawn: Tensor
) -> dict[str, Tensor]:
  arguments = [position, drawn, decode_image(image)]
  done = tf.numpy_function(stream.write_image, arguments, tf.int64)
  return {'position': tf.ensure_shape(done, []), 'labels': label}


def _write_windows(
  stream: _Stream,
  count: int,
  image: Tensor,
  label: Tensor,
  position: Tensor,
  drawn: Tensor,
) -> dict[str, Tensor]:
  sides = read_sides(image)
  windows = tf.numpy_function(stream.crop_windows, [sides, drawn], tf.int32)
  windows = tf.unstack(tf.ensure_shape(windows, [count, 4]))
  pixels = [decode_window(image, window) for window in windows]
  arguments = [position, drawn, sides, *pixels]
  done = tf.numpy_function(stream.write_windows, arguments, tf.int64)
  return {'position': tf.ensure_shape(done, []), 'labels': label}


def _write_pixels(
  stream: _Stream, positions: Tensor, ids: Tensor, drawn: Tensor
) -> dict[str, Tensor]:
  arguments, kinds = [positions, ids, drawn], [tf.int64, tf.int32]
  done, labels = tf.numpy_function(stream.write_pixels, arguments, kinds)
  return {
    'position': tf.ensure_shape(done, [None]),
    'labels': tf.ensure_shape(labels, [None]),
  }


def decode_image(image: Tensor) -> Tensor:
  """Returns the pixels of an encoded image, uint8 [H, W, 3]."""
  return tf.cond(
    tf.io.is_jpeg(image), lambda: _decode_jpeg(image), lambda: _decode(image)
  )


def read_sides(image: Tensor) -> Tensor:
  """Returns height and width of an encoded image, int32 [2]."""

  def other() -> Tensor:
    return tf.numpy_function(_header_sides, [image], tf.int32)

  found = tf.cond(tf.io.is_jpeg(image), lambda: _jpeg_sides(image), other)
  return tf.ensure_shape(found, [2])


def decode_window(image: Tensor, window: Tensor) -> Tensor:
  """Returns the pixels of a window, of a JPEG decoding no more than that.

  The pixels of its first and last column differ from those of the whole image
  where chroma is subsampled, since they are interpolated between columns.

  Args:
    image: encoded.
    window: int32 [4], (y, x, height, width).
  """

  def crop_decoded() -> Tensor:
    y, x, height, width = tf.unstack(window)
    return _decode(image)[y : y + height, x : x + width]

  return tf.cond(
    tf.io.is_jpeg(image),
    lambda: tf.io.decode_and_crop_jpeg(
      image, window, channels=3, dct_method=_DCT
    ),
    crop_decoded,
  )


def _as_bytes(data: Any) -> bytes:
  # In a graph bytes, without one an array of them.
  return data if isinstance(data, bytes) else data.item()


def _header_sides(data: Any) -> np.ndarray:
  return np.array(decode.header(_as_bytes(data))[1:], np.int32)


def _decode(image: Tensor) -> Tensor:
  """Decodes what is not JPEG; raises for what is not an image."""
  pixels = tf.numpy_function(
    lambda data: decode.rgb(_as_bytes(data)), [image], tf.uint8
  )
  return tf.ensure_shape(pixels, [None, None, 3])


def _jpeg_sides(image: Tensor) -> Tensor:
  """Reads the header; too many pixels are refused."""
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
