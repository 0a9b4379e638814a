"""Writes a run's scalars to JSON lines, TensorBoard and the console.

A line of scalars.jsonl is one JSON object with sorted keys: "step" (completed
steps), "time" (seconds since 1970) and the scalars. JSON has no numbers that
are not finite: they are the strings "nan", "inf" and "-inf", which `float()`
reads back.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import importlib.util
import io
import itertools
import json
import logging
import math
import os
import pathlib
import shlex
import sys
import time
from typing import Any, TextIO

from byol_jax import errors, files
from byol_jax.training import console_log, events, scalars as scalars_lib

# (step, scalars), of each line of scalars.jsonl.
OnLog = Callable[[int, dict[str, float]], None]
# The input is the bottleneck if waiting for it takes more of the time.
_MAX_DATA_WAIT = 0.5


class Logs:
  """The log files and the console output of one run.

  A file that cannot be written causes one warning and never ends the run; nor
  does a console that is gone: a closed terminal, or the reader of a pipe.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    num_steps: int,
    *,
    start_step: int = 0,
    tensorboard: bool = True,
    every_seconds: float = 0.0,
    silent: bool = False,
    on_log: OnLog | None = None,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
  ):
    """Opens the log files; those of an interrupted run are continued.

    Args:
      workdir: an existing folder.
      num_steps: of the whole run.
      start_step: steps completed before this start. What was logged for later
        steps is dropped, since they are repeated.
      tensorboard: also write TensorBoard events to WORKDIR/tensorboard.
      every_seconds: see `console_log.Console`.
      silent: write and print nothing; for all processes but the first.
      on_log: called with the step and the scalars of each line of
        scalars.jsonl.
      stream: the console; standard output by default.
      clock: returns seconds since 1970.
      monotonic: returns seconds.
    """
    self._clock, self._on_log = clock, on_log
    self._warned: set[str] = set()
    self._lines: io.FileIO | None = None
    self._printed: io.FileIO | None = None
    self._events: events.Events | None = None
    self._console: console_log.Console | None = None
    if silent:
      return
    self._folder = pathlib.Path(workdir)
    self._console = console_log.Console(
      *(stream or sys.stdout, num_steps, start_step, every_seconds, monotonic),
      self.record,
    )
    with self._warn_on_failure('run.log'):
      handle = files.open_own(self._folder / 'run.log', os.O_APPEND)
      self._printed = io.FileIO(handle, 'ab')
    with self._warn_on_failure('scalars.jsonl'):
      path = self._folder / 'scalars.jsonl'
      self._lines = _open_lines(path, start_step)
    if tensorboard:
      with self._warn_on_failure('tensorboard'):
        folder = self._folder / 'tensorboard'
        self._events = events.Events(folder, start_step)
    self._handler = _Recorder(self.record)
    logging.getLogger().addHandler(self._handler)

  def start_phase(self, text: str, has_line: bool = True) -> None:
    """See `console_log.Console.start_phase`."""
    if self._console is not None:
      self._console.start_phase(text, has_line)

  def tick(
    self, step: int, peek: Callable[[], Mapping[str, float]] = dict
  ) -> None:
    """Shows `step` on the console; see `console_log.Console.tick`."""
    if self._console is not None:
      self._console.tick(step, lambda: scalars_lib.order(peek()))

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Logs scalars, those of `Meter` too, after `step` completed steps."""
    if self._console is None:
      return
    values = scalars_lib.order({k: float(x) for k, x in scalars.items()})
    self._write_files(step, values)
    self._console.write(step, values)
    data_wait = values.get('data_wait', 0.0)
    if data_wait > _MAX_DATA_WAIT:
      self._note_once(
        'input',
        f'the input is the bottleneck: {100 * data_wait:.0f} % of the time'
        ' since the last line was spent waiting for images; `byol-jax bench'
        ' input` measures what this machine can load',
      )

  def write_evaluation(
    self, step: int, scalars: Mapping[str, float], text: str
  ) -> None:
    """Logs scalars of an evaluation of `step`; the console shows `text`."""
    if self._console is not None:
      self._write_files(step, scalars)
      self.note(text)

  def _write_files(self, step: int, values: Mapping[str, float]) -> None:
    now = self._clock()
    if self._lines is not None:
      with self._warn_on_failure('scalars.jsonl'):
        _append_line(self._lines, step, now, values)
    if self._events is not None:
      with self._warn_on_failure('tensorboard'):
        self._events.write(step, values, now)
    if self._on_log is not None:
      self._on_log(step, dict(values))

  def note(self, text: str) -> None:
    """Prints one line of text, and adds it to run.log."""
    if self._console is not None:
      self._console.note(text)

  def record(self, text: str) -> None:
    """Adds a line to run.log, with its time, and prints nothing."""
    if self._printed is not None:
      now = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self._clock()))
      line = f'{now}  {errors.to_line(text)}\n'.encode()
      with self._warn_on_failure('run.log'):
        files.append_bytes(self._printed, line)

  def note_end(self, text: str) -> None:
    """Prints the last line of a run, and how to see its curves."""
    self.note(text)
    if self._events is not None:
      folder = shlex.quote(str(self._folder / 'tensorboard'))
      command = f'curves: tensorboard --logdir={folder}'
      if importlib.util.find_spec('tensorboard') is None:
        command += '  (pip install tensorboard)'
      self.note(command)

  def close(self) -> None:
    """Flushes and closes the log files."""
    if self._console is None:
      return
    self._console.close()
    logging.getLogger().removeHandler(self._handler)
    for file in (self._lines, self._printed):
      if file is not None:
        file.close()
    if self._events is not None:
      with self._warn_on_failure('tensorboard'):
        self._events.close()

  @contextlib.contextmanager
  def _warn_on_failure(self, name: str) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      if name == 'run.log':
        self._printed = None  # the warning would be added to it
      reason = error.strerror or error
      warning = f'warning: {name} cannot be written ({reason}); going on'
      self._note_once(name, warning)
      if name == 'tensorboard':
        # The writer's thread may have ended: the exit would wait for events in
        # a full pipe that no thread reads.
        self._events = None

  def _note_once(self, name: str, text: str) -> None:
    if name not in self._warned:
      self._warned.add(name)
      self.note(text)


class _Recorder(logging.Handler):
  """Adds warnings, which the terminal gets elsewhere, to run.log."""

  def __init__(self, record: Callable[[str], None]) -> None:
    super().__init__(logging.WARNING)
    self._record = record

  def emit(self, record: logging.LogRecord) -> None:
    """Adds the message of `record`."""
    self._record(record.getMessage())


class Meter:
  """Measures images per second and the share of time spent on waiting."""

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    """Starts an interval; `clock` returns seconds."""
    self._clock = clock
    self.devices = 1  # of the job
    # Seconds that an image takes all devices at their peak; None: unknown.
    self.peak_seconds: float | None = None
    self.restart()

  def restart(self, images: int = 0) -> None:
    """Starts a new interval, for instance after a checkpoint.

    `images` were processed before it that the next `read` is told of.
    """
    self._start = self._clock()
    self._waited = 0.0
    self._before = images

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time of the block as waiting for data."""
    start = self._clock()
    try:
      yield
    finally:
      self._waited += self._clock() - start

  @contextlib.contextmanager
  def excluding(self) -> Iterator[None]:
    """Leaves the time of the block out of the interval."""
    start = self._clock()
    try:
      yield
    finally:
      self._start += self._clock() - start

  def read(self, images: int) -> dict[str, float]:
    """Returns what `peek` does, and starts the next interval."""
    found = self.peek(images)
    self.restart()
    return found

  def peek(self, images: int) -> dict[str, float]:
    """Returns the scalars of the interval that `scalars.RATES` names.

    `images` were processed in it; {} without any. Without a known peak the
    utilization is left out.
    """
    images -= self._before
    if images <= 0:
      return {}
    elapsed = max(self._clock() - self._start, 1e-9)
    rate = images / elapsed
    found = {
      'images_per_second': rate,
      'images_per_second_per_device': rate / self.devices,
      'data_wait': self._waited / elapsed,
    }
    if self.peak_seconds is not None:
      found['flop_utilization'] = rate * self.peak_seconds
    return found


def _open_lines(path: pathlib.Path, start_step: int) -> io.FileIO:
  """Opens JSON lines for appending, up to `start_step` or a torn line."""
  # Unbuffered: `write` meets a full disk, and a kill tears no line.
  file = io.FileIO(files.open_own(path, os.O_APPEND), 'ab')
  kept = itertools.takewhile(
    lambda line: _line_step(line) <= start_step,
    path.read_bytes().splitlines(keepends=True),
  )
  file.truncate(sum(map(len, kept)))
  return file


def _line_step(line: bytes) -> float:
  """Returns the step of a line; infinity if it is not complete."""
  # Brackets within brackets, thousands of them, are a RecursionError.
  damage = (ValueError, TypeError, KeyError, OverflowError, RecursionError)
  with contextlib.suppress(*damage):
    if line.endswith(b'\n'):
      return float(json.loads(line)['step'])
  return math.inf


def _append_line(
  file: io.FileIO, step: int, now: float, values: Mapping[str, float]
) -> None:
  """Appends one line, or raises OSError and leaves the file as it was."""
  record: dict[str, Any] = dict(values)
  record |= {k: str(x) for k, x in values.items() if not math.isfinite(x)}
  record |= {'step': int(step), 'time': round(now, 3)}
  files.append_bytes(file, json.dumps(record, sort_keys=True).encode() + b'\n')
