"""Decodes in Python threads by Pillow, without TensorFlow.

The same batches, bit for bit, as `tf_engine` with `data.decoding=once`.
"""

import collections
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent import futures
import contextlib
import os
from typing import TypeVar

import numpy as np

from byol_jax.data.loading import batch_buffer, batch_plan, decode
from byol_jax.data.sources import base

Item = TypeVar('Item')
Result = TypeVar('Result')

Rows = tuple[np.ndarray, ...]  # positions, ids and what is drawn, [N, ...]

_WAITING = 8  # items a thread, so that none is idle
# Rows that a thread writes before it hands them over: one at a time that took
# as much of Python's lock as the rows themselves.
_CHUNK = 8


def count_threads(threads: int) -> int:
  """Returns `threads`, or one for each core if it is 0."""
  return threads or os.cpu_count() or 1


def map_in_order(
  function: Callable[[Item], Result],
  items: Iterable[Item],
  threads: int,
  waiting: int = _WAITING,
) -> Iterator[Result]:
  """Yields function(item) in the order of the items, a few items ahead.

  `Executor.map` of Python 3.11 takes all items at once: a million results
  would have to fit in memory.

  Args:
    function: called from several threads; what it raises is raised here.
    items: read in this thread.
    threads: at least 1.
    waiting: items a thread that are read ahead.
  """
  started: collections.deque[futures.Future[Result]] = collections.deque()
  pool = futures.ThreadPoolExecutor(threads)
  try:
    for item in items:
      started.append(pool.submit(function, item))
      if len(started) > waiting * threads:
        yield started.popleft().result()
    while started:
      yield started.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)


def decode_into(
  plan: batch_plan.BatchPlan, source: base.Source, threads: int
) -> Generator[batch_buffer.Chunk]:
  """Writes the rows of a plan in their order, leaving out bad images."""
  kept: dict[int, tuple[np.ndarray, int]] = {}

  def read(index: int) -> tuple[np.ndarray, int]:
    if index in kept:
      return kept[index]
    image, label = source.read(index)
    pixels = decode.to_pixels(image, plan.pixels)
    # Files of a few pixels are decoded once: that takes longer than two crops.
    if source.suits_threads and isinstance(image, bytes):
      kept[index] = pixels, label
    return pixels, label

  def write(rows: Rows) -> batch_buffer.Chunk:
    done, labels = [], []
    for position, index, drawn in zip(*rows):
      # A source may raise anything; FallbackReader names the image.
      with contextlib.suppress(Exception):
        pixels, label = read(int(index))
        plan.write_row(int(position), [pixels], drawn)
        done.append(int(position))
        labels.append(label)
    return batch_buffer.make_chunk(done, labels)

  items = (
    tuple(column[start : start + _CHUNK] for column in rows)
    for rows in map(plan.plan_step, plan.steps)
    for start in range(0, len(rows[0]), _CHUNK)
  )
  yield from map_in_order(write, items, threads, waiting=2)
