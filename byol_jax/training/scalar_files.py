"""The files that scalars go to: JSON lines and TensorBoard events.

A line of scalars.jsonl is one JSON object with sorted keys: "step" (steps
completed), "time" (seconds since 1970) and the scalars. JSON has no word for
numbers that are not finite: they are written as the strings "nan", "inf" and
"-inf", which `float()` reads back.
"""

from collections.abc import Mapping
import errno
import json
import math
import os
import pathlib
import time
from typing import Any

from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2


class Lines:
  """scalars.jsonl: whole lines only, also when the disk fills up."""

  def __init__(self, path: pathlib.Path, start_step: int):
    """Goes on after the line of `start_step`; later ones are dropped."""
    _drop_later_lines(path, start_step)
    # Unbuffered: a full disk shows in `write`, and a kill tears no line.
    self._file = path.open('ab', buffering=0)

  def write(self, step: int, now: float, values: Mapping[str, float]) -> None:
    """Appends one line. Raises OSError, with the file as it was."""
    line = _json_line(step, now, values)
    size = os.fstat(self._file.fileno()).st_size
    written = self._file.write(line)
    if written != len(line):
      self._file.truncate(size)
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


class Events:
  """TensorBoard events, written in the caller's thread.

  Not tensorboardX's SummaryWriter: its thread dies when a write fails, and
  once its queue is full the next `add_scalar` blocks for ever.
  """

  def __init__(self, folder: pathlib.Path, start_step: int):
    """Begins a new file in `folder`, which is made where needed."""
    folder.mkdir(exist_ok=True)
    # The name of a file has whole seconds: two quick starts must differ.
    self._writer = event_file_writer.EventsWriter(
      str(folder / 'events'), f'.{os.getpid()}.{start_step}'
    )
    # Hides what an interrupted run logged of the steps that come again.
    restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._put(start_step + 1, time.time(), session_log=restart)
    self._writer.flush()

  def write(self, step: int, now: float, values: Mapping[str, float]) -> None:
    """Adds one event for each scalar and flushes. Raises OSError."""
    for name, value in values.items():
      self._put(step, now, summary=summary.scalar(name, value))
    self._writer.flush()

  def close(self) -> None:
    """Flushes and closes the file."""
    self._writer.close()

  def _put(self, step: int, now: float, **content: Any) -> None:
    self._writer.write_event(
      event_pb2.Event(step=step, wall_time=now, **content)
    )


def _json_line(step: int, now: float, values: Mapping[str, float]) -> bytes:
  record: dict[str, Any] = {
    name: value if math.isfinite(value) else str(value)
    for name, value in values.items()
  }
  record |= {'step': int(step), 'time': round(now, 3)}
  return json.dumps(record, sort_keys=True).encode() + b'\n'


def _drop_later_lines(path: pathlib.Path, start_step: int) -> None:
  """Keeps the lines up to `start_step`, not one torn by a kill."""
  if not path.exists():
    return
  lines = path.read_bytes().splitlines(keepends=True)
  kept = [line for line in lines if _line_step(line) <= start_step]
  if len(kept) == len(lines):
    return
  temporary = path.with_name(f'.{path.name}.tmp')
  temporary.write_bytes(b''.join(kept))
  os.replace(temporary, path)


def _line_step(line: bytes) -> float:
  """The step of a line; infinite for one that is not whole."""
  try:
    return json.loads(line)['step'] if line.endswith(b'\n') else math.inf
  except (ValueError, TypeError, KeyError):
    return math.inf
