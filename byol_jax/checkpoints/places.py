"""Where the steps of a run lie: FOLDER/STEP on a disk, or in a bucket.

A disk publishes a step by one rename, so what lacks its manifest was damaged.
A bucket has no rename: files come one by one, the manifest last, under a mark
that says so; a mark without a manifest is what a killed save leaves. Both
places do the same for whoever saves or reads.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import re
import shutil
import tempfile
from typing import Any, TypeAlias

from etils import epath

from byol_jax.checkpoints import format as checkpoint_format, manifest

Steps: TypeAlias = dict[int, bool]  # whether each is complete
# What a killed save or delete leaves; the last is of format 1.
_UNFINISHED = re.compile(r'\.\d+\.(saving|deleted)|\d+\.orbax-checkpoint-tmp.*')
_MARK = 'unfinished'
_BLOCK = 2**23  # bytes a read; latency dominates in a bucket


class _Steps:
  """What a disk and a bucket have in common."""

  def __init__(self, root: Any):
    self.root = root

  def steps(self) -> Steps:
    """Each step that lies here, also one that is damaged or unfinished."""
    if not self.root.exists():
      return {}
    found = (_number(path.name) for path in self.root.iterdir())
    return {step: self.has(step) for step in found if step is not None}

  def has(self, step: int) -> bool:
    """Whether a step is complete."""
    marks = (self.where(step) / mark for mark in checkpoint_format.MARKS)
    return any(mark.exists() for mark in marks)

  def where(self, step: int) -> Any:
    """The path or the URL of a step."""
    return self.root / str(step)

  def _aside(self, step: int) -> Any:
    """A place in FOLDER.damaged that is free."""
    place = self.root.parent / f'{self.root.name}.damaged' / str(step)
    while place.exists():
      place = place.parent / f'{place.name}+'
    return place


class Disk(_Steps):
  """Steps below a local folder."""

  def __init__(self, folder: str):
    """Makes nothing; `prepare` does."""
    super().__init__(pathlib.Path(folder).absolute())
    self.scratch = self.root

  def prepare(self) -> None:
    """Makes the folder; removes what a killed writer left."""
    self.root.mkdir(parents=True, exist_ok=True)
    for path in list(self.root.iterdir()):
      if _UNFINISHED.fullmatch(path.name):
        shutil.rmtree(path)

  @contextlib.contextmanager
  def local(self, step: int) -> Iterator[pathlib.Path]:
    """A step as a local folder, to read only."""
    yield self.where(step)

  @contextlib.contextmanager
  def staging(self, step: int) -> Iterator[pathlib.Path]:
    """An empty local folder from which a step is published."""
    path = self.root / f'.{step}.saving'
    if path.exists():  # of a save that failed, and its removal too
      shutil.rmtree(path)
    path.mkdir()
    try:
      yield path
    finally:
      shutil.rmtree(path, ignore_errors=True)

  def publish(self, stage: pathlib.Path, step: int) -> None:
    """Makes a staged step visible, all of it at once, through a power cut."""
    for folder, _, files in os.walk(stage, topdown=False):
      for name in files:
        _sync(pathlib.Path(folder, name))
      _sync(pathlib.Path(folder))
    stage.rename(self.where(step))
    _sync(self.root)

  def delete(self, step: int) -> None:
    """Removes a step, which is out of sight at once."""
    hidden = self.root / f'.{step}.deleted'
    if hidden.exists():
      shutil.rmtree(hidden)
    self.where(step).rename(hidden)
    shutil.rmtree(hidden)

  def set_aside(self, step: int) -> pathlib.Path:
    """Moves a damaged step to FOLDER.damaged; its place there."""
    place = self._aside(step)
    place.parent.mkdir(exist_ok=True)
    self.where(step).rename(place)
    return place


class Bucket(_Steps):
  """Steps below a URL that etils can reach: gs://BUCKET/PATH."""

  def __init__(self, folder: str):
    """Asks for nothing yet."""
    super().__init__(epath.Path(folder))
    self.scratch = pathlib.Path(tempfile.gettempdir())

  def prepare(self) -> None:
    """Removes what a killed writer left."""
    for step, is_complete in self.steps().items():
      mark = self.where(step) / _MARK
      if mark.exists():
        if is_complete:  # killed after the manifest came, or before it went
          mark.unlink()
        else:
          self.delete(step)

  @contextlib.contextmanager
  def local(self, step: int) -> Iterator[pathlib.Path]:
    """A step as a local folder, a copy that goes away."""
    with tempfile.TemporaryDirectory(prefix='byol_jax_') as folder:
      copy = pathlib.Path(folder, str(step))
      copy.mkdir()
      for source, name in _below(self.where(step)):
        _copy(source, copy / name)
      yield copy

  @contextlib.contextmanager
  def staging(self, step: int) -> Iterator[pathlib.Path]:
    """An empty local folder from which a step is published."""
    with tempfile.TemporaryDirectory(prefix='byol_jax_') as folder:
      stage = pathlib.Path(folder, str(step))
      stage.mkdir()
      yield stage

  def publish(self, stage: pathlib.Path, step: int) -> None:
    """Copies a staged step file by file, the manifest last."""
    goal, last = self.where(step), manifest.NAME
    names = [path for path in sorted(stage.rglob('*')) if path.is_file()]
    names.sort(key=lambda path: path == stage / last)
    goal.mkdir(parents=True, exist_ok=True)
    try:
      (goal / _MARK).write_text('')
      for path in names:
        _copy(path, goal / path.relative_to(stage).as_posix())
      (goal / _MARK).unlink()
    except Exception:
      with contextlib.suppress(Exception):  # `prepare` does it, if not this
        self.delete(step)
      raise

  def delete(self, step: int) -> None:
    """Removes a step: first its manifest, last the mark that says so."""
    folder = self.where(step)
    (folder / _MARK).write_text('')
    order = checkpoint_format.MARKS
    for path, _ in sorted(
      _below(folder),
      key=lambda found: (found[1] == _MARK, found[1] not in order),
    ):
      path.unlink()
    if folder.exists():  # on a disk that is reached by a URL
      folder.rmtree()

  def set_aside(self, step: int) -> epath.Path:
    """Moves a damaged step to FOLDER.damaged, by copies; its place there."""
    place = self._aside(step)
    for path, name in list(_below(self.where(step))):
      _copy(path, place / name)
    self.delete(step)
    return place


Place: TypeAlias = Disk | Bucket


def at(folder: str | os.PathLike[str]) -> Place:
  """The place that a path or a URL names."""
  text = os.fspath(folder)
  return Bucket(text) if '://' in text else Disk(text)


def _number(name: str) -> int | None:
  """The step that a folder's name says; a save in progress says none."""
  is_number = name.isascii() and name.isdecimal() and name == str(int(name))
  return int(name) if is_number else None


def _below(
  folder: epath.Path, prefix: str = ''
) -> Iterator[tuple[epath.Path, str]]:
  """All files below a folder, with their names from there."""
  for path in folder.iterdir():
    if path.is_dir():
      yield from _below(path, f'{prefix}{path.name}/')
    else:
      yield path, prefix + path.name


def _copy(
  source: pathlib.Path | epath.Path, goal: pathlib.Path | epath.Path
) -> None:
  goal.parent.mkdir(parents=True, exist_ok=True)
  with source.open('rb') as read, goal.open('wb') as written:
    shutil.copyfileobj(read, written, _BLOCK)


def _sync(path: pathlib.Path) -> None:
  """Brings a file, or a folder's list of names, to the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
