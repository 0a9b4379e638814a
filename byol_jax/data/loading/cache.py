"""A whole set in the memory of the host, encoded or decoded.

A global shuffle wants every image on every host, so a cache holds the whole
set. What it will take is estimated before the set is read: from the manifest
of `data check` where there is one, else from 200 images spread over the set.
"""

from collections.abc import Callable
import contextlib
import functools
import os
import threading
from typing import Any

import numpy as np
import tqdm

from byol_jax import errors
from byol_jax.data.loading import decode, threads
from byol_jax.data.preparation import manifest
from byol_jax.data.sources import base

_SAMPLE = 200
_ENTRY = 200  # bytes of what stands for an image besides its values
_BLOCK = 1 << 26  # bytes taken at a time
_FREE_SHARE = 0.8  # of the free memory, where no budget is given


def num_bytes(image: bytes | np.ndarray) -> int:
  """Of an image in memory."""
  return len(image) if isinstance(image, bytes) else image.nbytes


def decoded_bytes(image: bytes | np.ndarray) -> int:
  """Of an image once it is decoded, by its header."""
  if not isinstance(image, bytes):
    return image.nbytes
  _, height, width = decode.header(image)
  return 3 * height * width


_SIZES: dict[str, Callable[[Any], int]] = {
  'encoded': num_bytes,
  'decoded': decoded_bytes,
}


def estimate(source: base.Source, kind: str) -> int:
  """Bytes that a cache of the whole set will take."""
  count = len(source)
  known = manifest.find(source.fingerprint)
  if known is not None:
    return int(known[f'{kind}_bytes']) + _ENTRY * count
  ids = np.unique(np.linspace(0, count - 1, min(_SAMPLE, count)).astype(int))
  sizes = []
  for index in ids:
    try:
      sizes.append(_SIZES[kind](source.read(int(index))[0]))
    except Exception:  # a source may raise anything; a run names it when read
      sizes.append(0)
  return int(count * (np.mean(sizes) + _ENTRY))


def free_memory() -> int:
  """Bytes that this machine, or the container we run in, has left."""
  pages = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  found = [pages]
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


def check(source: base.Source, kind: str, gib: float) -> int:
  """Refuses a cache that would not fit; returns the estimate, bytes.

  Args:
    source: nothing is read of it but a sample.
    kind: 'encoded' or 'decoded'.
    gib: the budget; 0 takes four fifths of the free memory.

  Raises:
    ConfigError: the estimate is above the budget.
  """
  expected = estimate(source, kind)
  budget = gib * 2**30 or _FREE_SHARE * free_memory()
  if expected > budget:
    raise errors.ConfigError(
      f'input.cache: {source.name} {kind} takes about'
      f' {expected / 2**30:.3g} GiB, allowed are {budget / 2**30:.3g}'
      + (' (input.cache_gib)' if gib else ' (four fifths of what is free)')
      + "; a host holds the whole set: take 'encoded' or 'none', or more memory"
    )
  return expected


class Shelf:
  """Arrays of bytes side by side in a few large blocks.

  Each on its own, among what a decoder takes and gives back, they took a fifth
  more than their size.
  """

  def __init__(self) -> None:
    self._blocks = [np.empty(0, np.uint8)]
    self._used = 0  # of the last block

  def put(self, values: np.ndarray) -> np.ndarray:
    """A copy of uint8 [n] in here."""
    if self._used + len(values) > len(self._blocks[-1]):
      # What is not touched yet takes no memory.
      self._blocks.append(np.empty(max(_BLOCK, len(values)), np.uint8))
      self._used = 0
    kept = self._blocks[-1][self._used : self._used + len(values)]
    kept[:] = values
    self._used += len(values)
    return kept


class CachedSource:
  """A source whose images are all in memory.

  They are read at the first use: what else is wrong with a run is found before.

  Args:
    source: read once, from the start to the end.
    kind: 'encoded', as the source gives them, or 'decoded'.
    gib: as in `check`, which is called first.
    num_threads: for reading and decoding.
  """

  def __init__(
    self, source: base.Source, kind: str, gib: float, num_threads: int
  ) -> None:
    check(source, kind, gib)
    self._source = source
    self._decoded = kind == 'decoded'
    self.name = source.name
    self.num_classes = source.num_classes
    self.class_names = source.class_names
    self.fingerprint = source.fingerprint
    self._threads = num_threads
    self._lock = threading.Lock()

  @functools.cached_property
  def _held(self) -> list[tuple[np.ndarray, int] | None]:
    ids = range(len(self._source))
    # A bar on a terminal, nothing elsewhere.
    bar = tqdm.tqdm(
      threads.in_order(self._load, ids, self._threads),
      desc=f'{self.name} into memory',
      total=len(ids),
      unit='image',
      disable=None,
      leave=False,
    )
    shelf = Shelf()
    return [found and self._kept(shelf, *found) for found in bar]

  def _load(self, index: int) -> tuple[bytes | np.ndarray, int] | None:
    try:
      return self._given(index)
    except Exception:  # read again, and named, when its turn comes
      return None

  def _given(self, index: int) -> tuple[bytes | np.ndarray, int]:
    image, label = self._source.read(index)
    return (decode.pixels(image) if self._decoded else image), label

  def _kept(
    self, shelf: Shelf, image: bytes | np.ndarray, label: int
  ) -> tuple[np.ndarray, int]:
    if isinstance(image, bytes):
      return shelf.put(np.frombuffer(image, np.uint8)), label
    return shelf.put(image.reshape(-1)).reshape(image.shape), label

  def __len__(self) -> int:
    return len(self._source)

  def read(self, index: int) -> tuple[bytes | np.ndarray, int]:
    """From memory; what could not be loaded raises as the source does."""
    with self._lock:  # the first one reads them all
      held = self._held[index]
    if held is None:
      return self._given(index)
    image, label = held
    return (image.tobytes() if image.ndim == 1 else image), label

  def file_name(self, index: int) -> str:
    """As the source names it."""
    return self._source.file_name(index)


def cached(
  source: base.Source, kind: str, gib: float, num_threads: int
) -> base.Source:
  """`source`, or a `CachedSource` of it unless kind is 'none'."""
  if kind == 'none':
    return source
  return CachedSource(source, kind, gib, threads.count(num_threads))
