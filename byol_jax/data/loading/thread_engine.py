"""Decodes in Python threads by Pillow, without TensorFlow.

The same batches, bit for bit, as `tf_engine` with `data.decoding=once`.
"""

import collections
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent import futures
import os
from typing import TypeVar

import numpy as np

from byol_jax.data.loading import batch_buffer, batch_plan, decode
from byol_jax.data.sources import base

Item = TypeVar('Item')
Result = TypeVar('Result')

_WAITING = 8  # items a thread, so that none is idle


def count_threads(threads: int) -> int:
  """Returns `threads`, or one for each core if it is 0."""
  return threads or os.cpu_count() or 1


def map_in_order(
  function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
  """Yields function(item) in the order of the items, a few items ahead.

  `Executor.map` of Python 3.11 takes all items at once: a million results
  would have to fit in memory.

  Args:
    function: called from several threads; what it raises is raised here.
    items: read in this thread.
    threads: at least 1.
  """
  waiting: collections.deque[futures.Future[Result]] = collections.deque()
  pool = futures.ThreadPoolExecutor(threads)
  try:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) > _WAITING * threads:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)


def decode_into(
  plan: batch_plan.BatchPlan, source: base.Source, threads: int
) -> Generator[batch_buffer.Chunk]:
  """Writes the rows of a plan in their order, leaving out bad images."""

  def write(item: tuple[int, int, np.ndarray]) -> batch_buffer.Chunk:
    position, index, drawn = item
    try:
      image, label = source.read(index)
      plan.write_row(position, [decode.to_pixels(image, plan.pixels)], drawn)
    except Exception:  # a source may raise anything; FallbackReader names it
      return batch_buffer.make_chunk([], [])
    return batch_buffer.make_chunk([position], [label])

  items = (
    (int(position), int(index), drawn)
    for step in plan.steps
    for position, index, drawn in zip(*plan.plan_step(step))
  )
  yield from map_in_order(write, items, threads)
