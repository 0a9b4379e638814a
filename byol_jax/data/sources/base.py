"""The interface of a source of images, and sources composed of others."""

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
import hashlib
import re
from typing import Any

import numpy as np

from byol_jax import errors

_THREADS = 16  # reading is bound by the latency of the disk
_SHOWN = 12  # kinds of what is not read, the others are summed up
_PLURAL = re.compile(r'\b(class|image|file|folder|row|column)e?s\b')


class Source(abc.ABC):
  """A set of images with random access.

  Attributes:
    num_classes, class_names: None where there are no labels.
    labels: int [N], -1 for an image without one; None where there are none, or
      where each image is taken to have one that is known when it is read.
    fingerprint: a hex digest that changes when the set does.
    is_prepared: whether TFDS prepared the set, whose images are as it reads
      them.
    suits_threads: whether Python threads read the images as fast as TensorFlow,
      which takes seconds to import: pixels, or files of a few pixels.
  """

  name: str
  num_classes: int | None
  class_names: tuple[str, ...] | None
  labels: np.ndarray | None
  fingerprint: str
  is_prepared = False
  suits_threads = False

  @abc.abstractmethod
  def __len__(self) -> int: ...

  @abc.abstractmethod
  def read(self, index: int) -> tuple[bytes | np.ndarray, int]:
    """Returns encoded bytes or [H, W, 3], and the label, -1 without one.

    Pixels are uint8, or float32 in [0, 1]. It may be called from any thread.
    """

  @abc.abstractmethod
  def file_name(self, index: int) -> str:
    """Returns the name of an image, for reports."""

  @property
  def is_partly_labelled(self) -> bool:
    """Whether the set has labels, and images without one."""
    return self.labels is not None and bool((self.labels < 0).any())

  def read_targets(self) -> np.ndarray | None:
    """Returns which classes each image has, int8 [N, C], of a multi-label set.

    1 has the class, 0 lacks it, -1 does not count. None for other sets. The
    `read` of a multi-label set gives the label -1, and its num_classes is None:
    whatever needs one label an image refuses it.
    """
    return None

  def locate_in_whole(self) -> tuple[str, np.ndarray]:
    """Returns the fingerprint of the set of which this is a part, and where.

    The second are the rows of its images in that set, int64 [N].
    """
    return self.fingerprint, np.arange(len(self))


def describe_set(
  num_train: int, classes: str, test: str, left_out: Mapping[str, int] = {}
) -> str:
  """Returns the line about a set with which each run starts."""
  line = f'images: {num_train:,} for training; classes: {classes}; test: {test}'
  unread = ', '.join(list_counts(left_out))
  return f'{line}; not read: {unread}' if unread else line


def describe_classes(
  names: Sequence[str] | None, count: int | None, unlabelled: int = 0
) -> str:
  """Returns '10 (ant ... wasp)', or '' of a set without classes."""
  count = len(names) if names else count
  if not count:
    return ''
  ends = (names[0], names[-1]) if names else ('0', str(count - 1))
  shown = ' ... '.join(dict.fromkeys(map(show_name, ends)))
  without = f', {show_count(unlabelled, "images")} without'
  return f'{count:,} ({shown}){without if unlabelled else ""}'


def show_count(number: int, what: str) -> str:
  """Returns '2 images of val/', and '1 image of val/' for the same `what`."""
  what = _PLURAL.sub(r'\1', what, count=1) if number == 1 else what
  return f'{number:,} {what}'


def list_counts(counts: Mapping[str, int]) -> list[str]:
  """Returns `show_count` of each kind that there is, most first."""
  found = sorted(counts.items(), key=lambda x: (-x[1], x[0]))
  shown = [show_count(n, what) for what, n in found[:_SHOWN] if n]
  others = sum(number for _, number in found[_SHOWN:])
  return shown + ([f'{others:,} others'] if others else [])


def show_name(name: str) -> str:
  """Returns a name from outside, quoted if it is long or not printable."""
  is_plain = name.isprintable() and len(name) <= 60
  return name if is_plain else errors.quote(name)


def locate_part(ends: np.ndarray, index: int) -> tuple[int, int]:
  """Returns the part that holds an index, and the row in it, or IndexError.

  ends, int64 [P], are the ends of the parts; the first starts at 0.
  """
  if not 0 <= index < ends[-1]:
    raise IndexError(index)
  part = int(np.searchsorted(ends, index, side='right'))
  return part, index - (int(ends[part - 1]) if part else 0)


def keep_labelled(source: Source) -> Source:
  """Returns the images of a labelled set that have a label.

  Raises:
    DataError: none has one, though others of the set do.
  """
  if source.labels is None or not source.is_partly_labelled:
    return source
  ids = np.flatnonzero(source.labels >= 0)
  if not len(ids):
    raise errors.DataError(
      f'{source.name}: none of {len(source):,} images has a label, which this'
      ' evaluation needs'
    )
  return Subset(source, ids)


def call_in_threads(function: Callable, *arguments: Iterable) -> list[Any]:
  """Returns what `map` yields, for functions that wait for the disk."""
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(function, *arguments))


def read_labels(
  source: Source, ids: Sequence[int] | None = None, unreadable: int = -1
) -> np.ndarray:
  """Returns the labels of images, int64 [N], by default of all.

  Where they are not known every image is read; one that cannot be has the label
  `unreadable`.
  """
  ids = range(len(source)) if ids is None else ids
  if source.labels is not None:
    return np.asarray(source.labels, np.int64)[np.asarray(ids)]

  def read(index: int) -> int:
    try:
      return source.read(index)[1]
    except Exception:  # named and replaced when a batch needs it
      return unreadable

  return np.array(call_in_threads(read, ids), np.int64)


class Derived(Source):
  """A source that is like another one, but for what a subclass changes."""

  def __init__(self, source: Source) -> None:
    self._source = source
    self.name = source.name
    self.num_classes = source.num_classes
    self.class_names = source.class_names
    self.is_prepared = source.is_prepared
    self.suits_threads = source.suits_threads
    self.labels = source.labels
    self.fingerprint = source.fingerprint

  def __len__(self) -> int:
    return len(self._source)

  def read(self, index: int) -> tuple[bytes | np.ndarray, int]:
    """Reads an image of the other source."""
    return self._source.read(index)

  def file_name(self, index: int) -> str:
    """Returns its name there."""
    return self._source.file_name(index)


class Subset(Derived):
  """The images of `source` at `ids`, int64 [M], in that order."""

  def __init__(self, source: Source, ids: np.ndarray) -> None:
    super().__init__(source)
    self._ids = np.asarray(ids, np.int64)
    if source.labels is not None:
      self.labels = source.labels[self._ids]
    self.fingerprint = hashlib.sha256(
      source.fingerprint.encode() + self._ids.tobytes()
    ).hexdigest()

  def __len__(self) -> int:
    return len(self._ids)

  def locate_in_whole(self) -> tuple[str, np.ndarray]:
    """See `Source.locate_in_whole`."""
    fingerprint, rows = self._source.locate_in_whole()
    return fingerprint, rows[self._ids]

  def read_targets(self) -> np.ndarray | None:
    """Returns the rows of these images; see `Source.read_targets`."""
    targets = self._source.read_targets()
    return None if targets is None else targets[self._ids]

  def read(self, index: int) -> tuple[bytes | np.ndarray, int]:
    """Reads image ids[index] of the source."""
    return super().read(int(self._ids[index]))

  def file_name(self, index: int) -> str:
    """Returns the name of image ids[index] of the source."""
    return super().file_name(int(self._ids[index]))


class Concatenation(Derived):
  """Sources with the same classes, one after the other."""

  def __init__(self, parts: Sequence[Source]) -> None:
    super().__init__(parts[0])
    self._parts = tuple(parts)
    self._ends = np.cumsum([len(part) for part in parts])
    labels = [part.labels for part in parts if part.labels is not None]
    is_known = len(labels) == len(parts)
    self.labels = np.concatenate(labels) if is_known else None
    self.fingerprint = hashlib.sha256(
      ' '.join(part.fingerprint for part in parts).encode()
    ).hexdigest()

  def __len__(self) -> int:
    return int(self._ends[-1])

  def read(self, index: int) -> tuple[bytes | np.ndarray, int]:
    """Reads the image from its part."""
    part, row = locate_part(self._ends, index)
    return self._parts[part].read(row)

  def file_name(self, index: int) -> str:
    """Returns the name of the image in its part."""
    part, row = locate_part(self._ends, index)
    return self._parts[part].file_name(row)
