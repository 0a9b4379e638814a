"""The interface of a source of images, and sources composed of others."""

from collections.abc import Sequence
import hashlib
from typing import Protocol

import numpy as np


class Source(Protocol):
  """A set of images with random access.

  num_classes and class_names are None where there are no labels. fingerprint
  is a hex digest that changes when the set does. `read` returns encoded bytes
  or uint8 [H, W, 3], and the label, -1 if there is none; it may be called from
  any thread.
  """

  name: str
  num_classes: int | None
  class_names: tuple[str, ...] | None
  fingerprint: str

  def __len__(self) -> int: ...

  def read(self, index: int) -> tuple[bytes | np.ndarray, int]: ...

  def file_name(self, index: int) -> str: ...


def locate_part(ends: np.ndarray, index: int) -> tuple[int, int]:
  """Returns the part that holds an index, and the row in it, or IndexError.

  ends, int64 [P], are the ends of the parts; the first starts at 0.
  """
  if not 0 <= index < ends[-1]:
    raise IndexError(index)
  part = int(np.searchsorted(ends, index, side='right'))
  return part, index - (int(ends[part - 1]) if part else 0)


class Subset:
  """The images of `source` at `ids`, int64 [M], in that order."""

  def __init__(self, source: Source, ids: np.ndarray) -> None:
    self._source = source
    self._ids = np.asarray(ids, np.int64)
    self.name = source.name
    self.num_classes = source.num_classes
    self.class_names = source.class_names
    self.fingerprint = hashlib.sha256(
      source.fingerprint.encode() + self._ids.tobytes()
    ).hexdigest()

  def __len__(self) -> int:
    return len(self._ids)

  def read(self, index: int) -> tuple[bytes | np.ndarray, int]:
    """Reads image ids[index] of the source."""
    return self._source.read(int(self._ids[index]))

  def file_name(self, index: int) -> str:
    """Returns the name of image ids[index] of the source."""
    return self._source.file_name(int(self._ids[index]))


class Concatenation:
  """Sources with the same classes, one after the other."""

  def __init__(self, parts: Sequence[Source]) -> None:
    self._parts = tuple(parts)
    self._ends = np.cumsum([len(part) for part in parts])
    self.name = parts[0].name
    self.num_classes = parts[0].num_classes
    self.class_names = parts[0].class_names
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
