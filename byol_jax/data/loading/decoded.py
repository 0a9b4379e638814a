"""All images of a source, decoded into one array on the host.

Smaller images lie at the top left of the largest; their true sizes stand
beside them. What that takes is known from headers before a pixel is decoded.
"""

from typing import NamedTuple

import numpy as np

from byol_jax import errors
from byol_jax.data.loading import batch_buffer, decode, threads
from byol_jax.data.sources import base

_SAMPLE = 200  # headers that show at once that a set is far too large


class Decoded(NamedTuple):
  """A set in memory."""

  images: np.ndarray  # uint8 [N, H, W, 3]
  sizes: np.ndarray  # int32 [N, 2], height and width
  labels: np.ndarray  # int32 [N], -1 without a label


def extent(
  source: base.Source, gib: float, num_threads: int
) -> tuple[int, int]:
  """Height and width of the array that holds every image.

  Args:
    source: the images; their headers are read.
    gib: what the array may take, GiB.
    num_threads: for reading.

  Raises:
    ConfigError: it takes more.
  """

  def sides(index: int) -> tuple[int, int]:
    try:
      image, _ = source.read(index)
      if isinstance(image, bytes):
        return decode.header(image)[1:]
      return image.shape[0], image.shape[1]
    except Exception:  # a source may raise anything; `decode_all` counts them
      return 0, 0

  count = len(source)
  sample = range(0, count, -(-count // _SAMPLE))
  for ids in (sample, range(count)):
    found = np.array(list(threads.in_order(sides, ids, num_threads)))
    height, width = (int(side) for side in found.max(axis=0))
    size = count * height * width * 3 / 2**30
    if size > gib:
      largest = source.file_name(ids[int(np.argmax(found.prod(axis=1)))])
      raise errors.ConfigError(
        f'input.resident_gib: {source.name} has {count:,} images of up to'
        f' {height} x {width} pixels ({largest}), {size:.3g} GiB on each'
        f' device, allowed are {gib:g}; raise it or give data.resident=False'
      )
  return height, width


def decode_all(
  source: base.Source,
  mender: batch_buffer.Mender,
  height: int,
  width: int,
  num_threads: int,
) -> Decoded:
  """Decodes every image; the next one that can be used stands for a broken.

  Args:
    source: the images.
    mender: of that source; it counts and names the broken ones.
    height, width: from `extent`.
    num_threads: for reading and decoding.

  Raises:
    DataError: too many images cannot be used.
  """
  # Of nothing but broken images there is no next one.
  mender.first(0)
  count = len(source)
  found = Decoded(
    np.zeros((count, height, width, 3), np.uint8),
    np.zeros((count, 2), np.int32),
    np.full(count, -1, np.int32),
  )

  def put(index: int) -> bool:
    good = mender.pixels(index)
    if good is None:
      return False
    pixels, found.labels[index] = good
    h, w = pixels.shape[:2]
    found.images[index, :h, :w] = pixels
    found.sizes[index] = h, w
    return True

  is_good = np.array(list(threads.in_order(put, range(count), num_threads)))
  good, broken = np.flatnonzero(is_good), np.flatnonzero(~is_good)
  taken = good[np.searchsorted(good, broken) % len(good)]
  for column in found:
    column[broken] = column[taken]
  return found
