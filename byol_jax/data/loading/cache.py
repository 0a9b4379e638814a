"""A whole set in the memory of the host, encoded or decoded.

A global shuffle needs every image on every host, so a cache holds the whole
set. What it will take is estimated from 200 images before the set is read.
"""

import contextlib
import functools
import math
import os
import threading

import numpy as np
import tqdm

from byol_jax import errors
from byol_jax.data.loading import decode, thread_engine
from byol_jax.data.sources import base

_SAMPLE = 200  # images
_OVERHEAD = 200  # bytes of Python objects an image
_BLOCK = 1 << 26  # bytes allocated at a time
_FREE_SHARE = 0.8  # of the free memory, where no budget is given


def estimate_bytes(source: base.Source, kind: str) -> int:
  """Returns what a cache of the whole set will take, from a sample."""
  count = len(source)
  ids = np.unique(np.linspace(0, count - 1, min(_SAMPLE, count)).astype(int))
  size = 0
  for index in ids:
    # What cannot be used is counted and named when the run reads it.
    with contextlib.suppress(Exception):
      image, _ = source.read(int(index))
      if kind == 'encoded' and isinstance(image, bytes):
        size += len(image)
      else:
        size += 3 * math.prod(decode.read_sides(image))
  return int(count * (size / len(ids) + _OVERHEAD))


def measure_free_memory() -> int:
  """Returns the bytes that this machine, or our container, has left."""
  found = [os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
  with contextlib.suppress(OSError, KeyError, ValueError):  # not on Linux
    with open('/proc/meminfo') as file:
      lines = dict(line.split(':', 1) for line in file)
    found = [int(lines['MemAvailable'].split()[0]) * 1024]
  # No container, or one without a limit ('max').
  with contextlib.suppress(OSError, ValueError):
    with open('/sys/fs/cgroup/memory.max') as limit:
      most = int(limit.read())
    with open('/sys/fs/cgroup/memory.current') as current:
      found.append(most - int(current.read()))
  return max(0, min(found))


def check_budget(source: base.Source, kind: str, gib: float) -> int:
  """Returns the estimated bytes of a cache, if it fits.

  Args:
    source: a sample of it is read.
    kind: 'encoded' or 'decoded'.
    gib: the budget; 0 takes four fifths of the free memory.

  Raises:
    ConfigError: the estimate is above the budget.
  """
  expected = estimate_bytes(source, kind)
  budget = gib * 2**30 or _FREE_SHARE * measure_free_memory()
  if expected > budget:
    raise errors.ConfigError(
      f'input.cache: {source.name} {kind} takes about'
      f' {expected / 2**30:.3g} GiB, allowed are {budget / 2**30:.3g}'
      + (' (input.cache_gib)' if gib else ' (four fifths of what is free)')
      + "; a host holds the whole set: take 'encoded' or 'none', or more memory"
    )
  return expected


class _Arena:
  """Arrays of bytes side by side in a few large blocks.

  As single allocations, among those of the decoders, they took a fifth more
  than their size.
  """

  def __init__(self) -> None:
    self._block = np.empty(0, np.uint8)
    self._used = 0

  def copy(self, image: bytes | np.ndarray) -> np.ndarray:
    """Returns a copy in the arena: uint8 [n] of bytes, or of any shape."""
    values = (
      np.frombuffer(image, np.uint8) if isinstance(image, bytes) else image
    )
    if self._used + values.size > len(self._block):
      # Pages that are not touched yet take no memory.
      self._block = np.empty(max(_BLOCK, values.size), np.uint8)
      self._used = 0
    kept = self._block[self._used : self._used + values.size]
    kept = kept.reshape(values.shape)
    kept[...] = values
    self._used += values.size
    return kept


class CachedSource(base.Derived):
  """A source whose images are all in memory, read at the first use.

  Args:
    source: read once, from the start to the end.
    kind: 'encoded', as the source gives them, or 'decoded'.
    gib: see `check_budget`, whose errors are raised here.
    num_threads: for reading and decoding; 0 is one for each core.
    pixels: how an encoded image becomes pixels.
  """

  def __init__(
    self,
    source: base.Source,
    kind: str,
    gib: float,
    num_threads: int,
    pixels: decode.PixelOptions = decode.AS_FILES,
  ) -> None:
    check_budget(source, kind, gib)
    super().__init__(source)
    self._decoded = kind == 'decoded'
    self.suits_threads |= self._decoded
    self._pixels = pixels
    self._threads = thread_engine.count_threads(num_threads)
    self._lock = threading.Lock()

  @functools.cached_property
  def _images(self) -> list[tuple[np.ndarray, int] | None]:
    ids = range(len(self._source))
    bar = tqdm.tqdm(
      thread_engine.map_in_order(self._load, ids, self._threads),
      desc='images into memory',
      total=len(ids),
      unit='image',
      disable=None,  # a bar on a terminal, nothing elsewhere
      leave=False,
    )
    arena = _Arena()
    return [found and (arena.copy(found[0]), found[1]) for found in bar]

  def _load(self, index: int) -> tuple[bytes | np.ndarray, int] | None:
    with contextlib.suppress(Exception):  # read again, and named, by a batch
      return self._read_source(index)
    return None

  def _read_source(self, index: int) -> tuple[bytes | np.ndarray, int]:
    image, label = self._source.read(index)
    if self._decoded:
      image = decode.to_pixels(image, self._pixels)
    return image, label

  def read(self, index: int) -> tuple[bytes | np.ndarray, int]:
    """Returns image and label; what could not be loaded raises again."""
    with self._lock:  # the first call reads the whole set
      found = self._images[index]
    if found is None:
      return self._read_source(index)
    image, label = found
    return (image.tobytes() if image.ndim == 1 else image), label
