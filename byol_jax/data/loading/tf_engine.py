"""Decodes by tf.data: the input pipeline of a large run.

TensorFlow reads ahead, decodes in its threads and keeps the order of the
positions, however many threads there are. Pixels do not leave through the
pipeline: each image is cropped and resized into its row of the batch
(`BatchPlan.write_row`), and what leaves says which rows are done. A whole
batch in TensorFlow's memory was new pages each time, and their first touch
cost a quarter of the rate.

JPEG images that EXIF does not turn are decoded by TensorFlow, with three
channels, as in the official code. All others go through `decode`, whose JPEG
pixels are the same: TensorFlow reads some palettes, frames and damaged files
another way, and a set must not change with what decodes it.

TensorFlow is kept off every accelerator: they belong to JAX.
"""

from collections.abc import Callable, Generator, Sequence
import contextlib
import os
from typing import Any

import numpy as np

from byol_jax import errors
from byol_jax.data.loading import (
  batch_buffer,
  batch_plan,
  decode,
  thread_engine,
)
from byol_jax.data.sources import base

# 1 is JAX's default: TensorFlow would print a traceback for each bad image.
if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # logs on every start

errors.require_package('tensorflow', extra='tf')
import tensorflow as tf  # noqa: E402

tf.config.set_visible_devices([], 'GPU')
tf.config.set_visible_devices([], 'TPU')

Tensor = Any  # TensorFlow brings no types that mypy could read

_CHUNK = 16  # images a call from TensorFlow into Python, which costs 60 us
_AHEAD = 2  # batches
# TensorFlow's default differs from Pillow by up to 19/255, this by 0.
_DCT = 'INTEGER_ACCURATE'
# Every function here is written as a graph: there is nothing to convert.
_graph = tf.autograph.experimental.do_not_convert


def _call(
  function: Callable, arguments: Sequence[Tensor], *results: tuple
) -> list[Tensor]:
  """Calls a Python function in a graph; `results` are (dtype, shape) each."""
  kinds, shapes = zip(*results)
  found = tf.nest.flatten(tf.numpy_function(function, arguments, kinds))
  return list(map(tf.ensure_shape, found, shapes))


class _Stream:
  """The steps of a graph while it is open; each maps tensors to tensors.

  TensorFlow never frees the Python functions of a graph, nor what they hold:
  they hold this object, which drops plan and source at the end.
  """

  def __init__(
    self, plan: batch_plan.BatchPlan, source: base.Source, is_once: bool
  ) -> None:
    self._held: tuple[batch_plan.BatchPlan, base.Source] | None = (plan, source)
    self._pixels, self._is_once = plan.pixels, is_once

  def close(self) -> None:
    """Makes every later call raise, which ends the threads."""
    self._held = None

  def _get(self) -> tuple[batch_plan.BatchPlan, base.Source]:
    if self._held is None:
      raise RuntimeError('the stream has ended')
    return self._held

  def plan_step(self, step: Tensor) -> tuple[Tensor, ...]:
    """Returns positions and ids, int64 [N], and what is drawn for them."""

    def plan(step: Any) -> tuple[np.ndarray, ...]:
      return self._get()[0].plan_step(int(step))

    ids, drawn = (tf.int64, [None]), (tf.float64, [None, None, None])
    return tuple(_call(plan, [step], ids, ids, drawn))

  def read(
    self, positions: Tensor, ids: Tensor, drawn: Tensor
  ) -> tuple[Tensor, ...]:
    """Returns encoded images [N] and labels, and the other columns.

    The second column, bool [N], says which images TensorFlow decodes.
    """

    def read_many(ids: np.ndarray) -> tuple[np.ndarray, ...]:
      source = self._get()[1]
      # Empty bytes, which no decoder accepts, where an image cannot be read.
      images: list[Any] = [b''] * len(ids)
      are_plain = np.zeros(len(ids), bool)
      labels = np.full(len(ids), -1, np.int32)
      for i, index in enumerate(ids):
        with contextlib.suppress(Exception):  # FallbackReader names it
          images[i], labels[i] = source.read(int(index))
          are_plain[i] = decode.is_plain_jpeg(images[i], self._pixels)
      return np.array(images, object), are_plain, labels

    kinds = (tf.string, tf.bool, tf.int32)
    columns = _call(read_many, [ids], *((kind, [None]) for kind in kinds))
    return *columns, positions, drawn

  def write_row(
    self,
    image: Tensor,
    is_plain: Tensor,
    label: Tensor,
    position: Tensor,
    drawn: Tensor,
  ) -> dict[str, Tensor]:
    """Decodes an image, or the windows of a JPEG, and writes its row."""
    num_views = len(self._get()[0].views)

    def crop(sides: np.ndarray, drawn: np.ndarray) -> np.ndarray:
      return self._get()[0].compute_windows(sides, drawn)

    def write(position: Any, drawn: Any, sides: Any, *pixels: Any) -> Any:
      whole = sides if sides.any() else None
      self._get()[0].write_row(int(position), pixels, drawn, whole)
      return position

    def decode_whole() -> list[Tensor]:
      pixels = decode_image(image, is_plain, self._pixels)
      count = 1 if self._is_once else num_views  # as many as of windows
      return [tf.zeros([2], tf.int32), *[pixels] * count]

    def decode_windows() -> list[Tensor]:
      sides = read_sides(image)
      (windows,) = _call(crop, [sides, drawn], (tf.int32, [num_views, 4]))
      return [sides, *(decode_window(image, x) for x in tf.unstack(windows))]

    if self._is_once:
      found = decode_whole()
    else:
      found = tf.cond(is_plain, decode_windows, decode_whole)
    (done,) = _call(write, [position, drawn, *found], (tf.int64, []))
    return {'position': done, 'labels': label}


def _is_encoded(source: base.Source) -> bool:
  """Whether the first image that can be read is encoded."""
  for index in range(len(source)):
    with contextlib.suppress(Exception):  # FallbackReader names it
      return isinstance(source.read(index)[0], bytes)
  return True


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
    source: the images; those of a source of pixels are written by threads.
    threads: for reading and decoding.
    decoding: 'once', an image for all views; 'crops', of a JPEG no more than
      each view's window.
  """
  if not _is_encoded(source):
    yield from thread_engine.decode_into(plan, source, threads)
    return
  stream = _Stream(plan, source, decoding == 'once')
  steps = tf.data.Dataset.range(plan.steps.start, plan.steps.stop)
  dataset = steps.map(_graph(stream.plan_step)).unbatch().batch(_CHUNK)
  parallel = {'num_parallel_calls': threads, 'deterministic': True}
  dataset = dataset.map(_graph(stream.read), **parallel).unbatch()
  dataset = dataset.map(_graph(stream.write_row), **parallel).ignore_errors()
  dataset = dataset.batch(_CHUNK).prefetch(-(-_AHEAD * plan.rows // _CHUNK))
  dataset = dataset.with_options(make_pipeline_options(threads))
  try:
    yield from dataset.as_numpy_iterator()
  finally:
    stream.close()


def make_pipeline_options(threads: int) -> Tensor:
  """Returns options of a tf.data pipeline: private threads, kept order."""
  result = tf.data.Options()
  result.deterministic = True
  result.threading.private_threadpool_size = threads
  result.threading.max_intra_op_parallelism = 1
  result.autotune.enabled = False  # its buffers take what memory there is
  return result


def decode_image(
  image: Tensor,
  is_plain: Tensor,
  options: decode.PixelOptions = decode.AS_FILES,
) -> Tensor:
  """Returns the pixels of an encoded image, uint8 [H, W, 3].

  Args:
    image: encoded.
    is_plain: bool, `decode.is_plain_jpeg` of it.
    options: how another image becomes pixels.
  """

  def decode_jpeg() -> Tensor:
    with tf.control_dependencies([read_sides(image)]):
      return tf.io.decode_jpeg(image, channels=3, dct_method=_DCT)

  return tf.cond(is_plain, decode_jpeg, lambda: _decode(image, options))


def read_sides(jpeg: Tensor) -> Tensor:
  """Returns height and width, int32 [2]; refuses what claims too much."""
  shape = tf.io.extract_jpeg_shape(jpeg)[:2]
  area = tf.reduce_prod(tf.cast(shape, tf.int64))
  bound = tf.debugging.assert_less_equal(
    area, tf.constant(decode.MAX_PIXELS, tf.int64)
  )
  with tf.control_dependencies([bound] if bound is not None else []):
    return tf.ensure_shape(shape, [2])


def decode_window(jpeg: Tensor, window: Tensor) -> Tensor:
  """Returns the pixels of a window, decoding no more than that.

  The pixels of its first and last column differ from those of the whole image
  where chroma is subsampled, since they are interpolated between columns.

  Args:
    jpeg: encoded.
    window: int32 [4], (y, x, height, width).
  """
  return tf.io.decode_and_crop_jpeg(jpeg, window, channels=3, dct_method=_DCT)


def _as_bytes(data: Any) -> bytes:
  # In a graph bytes, without one an array of them.
  return data if isinstance(data, bytes) else data.item()


def _decode(image: Tensor, options: decode.PixelOptions) -> Tensor:
  """Decodes by Pillow; raises for what is not an image."""
  read = lambda data: decode.decode_rgb(_as_bytes(data), options)
  return _call(read, [image], (tf.uint8, [None, None, 3]))[0]
