"""Files with random access by name: those of a folder, of a part of others."""

from collections.abc import Iterable, Iterator
import os
import pathlib
from typing import Protocol


class Files(Protocol):
  """Files with random access, by posix path below a root.

  `size`, in bytes, and `read` may be called from any thread.
  """

  root: pathlib.Path

  @property
  def names(self) -> Iterable[str]: ...

  def size(self, name: str) -> int: ...

  def read(self, name: str) -> bytes: ...


class Directory:
  """The files below a folder of the disk."""

  def __init__(self, root: pathlib.Path) -> None:
    self.root = root

  @property
  def names(self) -> Iterator[str]:
    """Each real folder once, links followed, hidden folders left out."""
    seen = set()
    for folder, folders, names in os.walk(self.root, followlinks=True):
      status = os.stat(folder)
      if (status.st_dev, status.st_ino) in seen:
        folders.clear()
        continue
      seen.add((status.st_dev, status.st_ino))
      folders[:] = sorted(f for f in folders if not f.startswith('.'))
      base = pathlib.Path(folder).relative_to(self.root).as_posix()
      yield from (f'{base}/{name}'.removeprefix('./') for name in names)

  def size(self, name: str) -> int:
    """Bytes of a file; -1 where it has none, as a link to nothing."""
    try:
      return (self.root / name).stat().st_size
    except OSError:
      return -1

  def read(self, name: str) -> bytes:
    """The bytes of a file."""
    return (self.root / name).read_bytes()


class Inside:
  """The files in one folder of others, by path below that folder."""

  def __init__(self, files: Files, folder: str) -> None:
    self._files = files
    self._base = f'{folder}/'
    self.root = files.root / folder

  @property
  def names(self) -> Iterator[str]:
    """The names that lie in the folder."""
    for name in self._files.names:
      if name.startswith(self._base):
        yield name.removeprefix(self._base)

  def size(self, name: str) -> int:
    """Bytes of a file."""
    return self._files.size(self._base + name)

  def read(self, name: str) -> bytes:
    """The bytes of a file."""
    return self._files.read(self._base + name)
