"""Painting the pictures of a job by tf.data: the pipeline of a large run.

TensorFlow reads ahead, decodes in threads of its own and keeps the order of
the positions, whatever the threads. Pictures do not travel through it: each is
painted into its row of the batch (`assemble.Canvas`), and what leaves says
which positions are done. A whole batch in TensorFlow's memory was new pages
each time, and their first touch cost a quarter of the rate.
"""

from collections.abc import Generator
import functools
from typing import Any

import numpy as np

from byol_jax.data.loading import batch_buffer, batch_plan, decode, preprocess
from byol_jax.data.loading.preprocess import tf
from byol_jax.data.sources import base

_CHUNK = 16  # images a call from TensorFlow into Python, which costs 60 us
_AHEAD = 2  # batches
# Every function here is written as a graph: nothing to convert, less to wait.
_graph = tf.autograph.experimental.do_not_convert


class _Live:
  """What TensorFlow's threads call, as long as somebody wants batches.

  TensorFlow keeps the Python functions of a graph for ever, and with them all
  that they hold: they hold this, which lets go of the set at the end.
  """

  def __init__(self, job: batch_plan.Job, source: base.Source) -> None:
    self._held: tuple[batch_plan.Job, base.Source] | None = (job, source)

  def end(self) -> None:
    """From now on every call raises, which ends the threads."""
    self._held = None

  def _get(self) -> tuple[batch_plan.Job, base.Source]:
    if self._held is None:
      raise RuntimeError('the stream has ended')
    return self._held

  def plan(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    job, _ = self._get()
    return job.plan(int(step))

  def read(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, source = self._get()
    return base.read_many(source, ids)

  def windows(self, sides: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    job, _ = self._get()
    return job.windows(sides, drawn)

  def paint(self, position: Any, drawn: Any, *pixels: Any) -> Any:
    job, _ = self._get()
    job.paint(int(position), pixels, drawn)
    return position

  def paint_windows(
    self, position: Any, drawn: Any, sides: Any, *pixels: Any
  ) -> Any:
    job, _ = self._get()
    job.paint(int(position), pixels, drawn, sides)
    return position

  def paint_many(self, positions: Any, ids: Any, drawn: Any) -> tuple:
    """Of a source of pixels: reads and paints those that can be read."""
    job, source = self._get()
    done, labels = [], []
    for position, index, numbers in zip(positions, ids, drawn):
      try:
        image, label = source.read(int(index))
        job.paint(int(position), [decode.pixels(image)], numbers)
      except Exception:  # a source may raise anything; a second look tells
        continue
      done.append(position)
      labels.append(label)
    return np.array(done, np.int64), np.array(labels, np.int32)


def painted(
  job: batch_plan.Job, source: base.Source, threads: int, *, decoding: str
) -> Generator[batch_buffer.Chunk]:
  """Paints the images of a job in their order, leaving out the broken ones.

  Args:
    job: what to make.
    source: the images, encoded or pixels.
    threads: for reading and decoding.
    decoding: 'once', an image for all views; 'crops', of a JPEG no more than
      each view's window.
  """
  live = _Live(job, source)
  steps = tf.data.Dataset.range(job.steps.start, job.steps.stop)
  dataset = steps.map(_graph(functools.partial(_plan, live)))
  dataset = dataset.unbatch().batch(_CHUNK)
  parallel = {'num_parallel_calls': threads, 'deterministic': True}
  if isinstance(batch_plan.first_image(source), bytes):
    read = functools.partial(_read, live)
    dataset = dataset.map(_graph(read), **parallel).unbatch()
    paint = functools.partial(
      _paint if decoding == 'once' else _paint_windows, live, len(job.views)
    )
    dataset = dataset.map(_graph(paint), **parallel).ignore_errors()
    dataset = dataset.batch(_CHUNK)
  else:
    paint_many = functools.partial(_paint_many, live)
    dataset = dataset.map(_graph(paint_many), **parallel)
  dataset = dataset.prefetch(-(-_AHEAD * job.local // _CHUNK))
  dataset = dataset.with_options(preprocess.options(threads))
  try:
    yield from dataset.as_numpy_iterator()
  finally:
    live.end()


def _plan(live: _Live, step: Any) -> tuple:
  kinds = [tf.int64, tf.int64, tf.float64]
  columns = tf.numpy_function(live.plan, [step], kinds)
  return tuple(map(tf.ensure_shape, columns, ([None], [None], [None] * 3)))


def _read(live: _Live, positions: Any, ids: Any, drawn: Any) -> tuple:
  images, labels = tf.numpy_function(live.read, [ids], [tf.string, tf.int32])
  images, labels = (tf.ensure_shape(x, [None]) for x in (images, labels))
  return images, labels, positions, drawn


def _paint(
  live: _Live, _: int, image: Any, label: Any, position: Any, drawn: Any
) -> dict[str, Any]:
  arguments = [position, drawn, preprocess.decoded(image)]
  done = tf.numpy_function(live.paint, arguments, tf.int64)
  return {'position': tf.ensure_shape(done, []), 'labels': label}


def _paint_windows(
  live: _Live, count: int, image: Any, label: Any, position: Any, drawn: Any
) -> dict[str, Any]:
  sides = preprocess.sides(image)
  windows = tf.numpy_function(live.windows, [sides, drawn], tf.int32)
  windows = tf.unstack(tf.ensure_shape(windows, [count, 4]))
  pixels = [preprocess.decoded_window(image, window) for window in windows]
  arguments = [position, drawn, sides, *pixels]
  done = tf.numpy_function(live.paint_windows, arguments, tf.int64)
  return {'position': tf.ensure_shape(done, []), 'labels': label}


def _paint_many(
  live: _Live, positions: Any, ids: Any, drawn: Any
) -> dict[str, Any]:
  kinds = [tf.int64, tf.int32]
  arguments = [positions, ids, drawn]
  done, labels = tf.numpy_function(live.paint_many, arguments, kinds)
  return {
    'position': tf.ensure_shape(done, [None]),
    'labels': tf.ensure_shape(labels, [None]),
  }
