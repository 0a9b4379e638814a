"""Painting the pictures of a job without TensorFlow: Pillow in threads.

The same pictures, bit for bit, as with `data.decoding=once` by `pipeline`.
"""

from collections.abc import Generator

import numpy as np

from byol_jax.data.loading import (
  batch_buffer,
  batch_plan,
  decode,
  threads as workers,
)
from byol_jax.data.sources import base


def painted(
  job: batch_plan.Job, source: base.Source, threads: int
) -> Generator[batch_buffer.Chunk]:
  """Paints the images of a job in their order, leaving out the broken ones."""

  def paint(item: tuple[int, int, np.ndarray]) -> batch_buffer.Chunk:
    position, index, drawn = item
    try:
      image, label = source.read(index)
      job.paint(position, [decode.pixels(image)], drawn)
    except Exception:  # a source may raise anything; a second look tells
      return batch_buffer.chunk([], [])
    return batch_buffer.chunk([position], [label])

  items = (
    (int(position), int(index), numbers)
    for step in job.steps
    for position, index, numbers in zip(*job.plan(step))
  )
  yield from workers.in_order(paint, items, threads)
