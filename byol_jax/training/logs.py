"""Writes a run's scalars to JSON lines, TensorBoard and the console.

A line of scalars.jsonl is one JSON object with sorted keys: "step" (completed
steps), "time" (seconds since 1970) and the scalars. JSON has no numbers that
are not finite: they are the strings "nan", "inf" and "-inf", which `float()`
reads back.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import errno
import io
import itertools
import json
import math
import os
import pathlib
import sys
import time
from typing import Any, TextIO

import tqdm

from byol_jax import errors, files
from byol_jax.training import events, scalars as scalars_lib

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
    silent: bool = False,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.time,
  ):
    """Opens the log files; those of an interrupted run are continued.

    Args:
      workdir: an existing folder.
      num_steps: of the whole run.
      start_step: steps completed before this start. What was logged for later
        steps is dropped, since they are repeated.
      tensorboard: also write TensorBoard events to WORKDIR/tensorboard.
      silent: write and print nothing; for all processes but the first.
      stream: the console; standard output by default.
      clock: returns seconds since 1970.
    """
    self._num_steps = num_steps
    self._clock = clock
    self._stream = sys.stdout if stream is None else stream
    self._silent = silent
    self._warned: set[str] = set()
    self._pace_start = (start_step, clock())
    self._is_first_line = True
    self._lines: io.FileIO | None = None
    self._events: events.Events | None = None
    self._bar = tqdm.tqdm(
      total=num_steps,
      initial=start_step,
      file=self._stream,
      unit='step',
      dynamic_ncols=True,
      disable=True if silent else None,  # None: unless it is a terminal
    )
    if silent:
      return
    folder = pathlib.Path(workdir)
    with self._warn_on_failure('scalars.jsonl'):
      self._lines = _open_lines(folder / 'scalars.jsonl', start_step)
    if tensorboard:
      with self._warn_on_failure('tensorboard'):
        self._events = events.Events(folder / 'tensorboard', start_step)

  def tick(self, step: int) -> None:
    """Moves a terminal's progress bar to `step`; cheap enough for each step."""
    with contextlib.suppress(OSError):
      self._bar.update(step - self._bar.n)

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Logs scalars, those of `Meter` too, after `step` completed steps."""
    if self._silent:
      return
    values = scalars_lib.order({k: float(x) for k, x in scalars.items()})
    now = self._clock()
    self._write_files(step, now, values)
    self._show(step, now, values)
    data_wait = values.get('data_wait', 0.0)
    if data_wait > _MAX_DATA_WAIT:
      self._note_once(
        'input',
        f'the input is the bottleneck: {data_wait:.0%} of the time since the'
        ' last line was spent waiting for images; `byol-jax bench'
        ' input` measures what this machine can load',
      )

  def write_evaluation(
    self, step: int, scalars: Mapping[str, float], text: str
  ) -> None:
    """Logs scalars of an evaluation of `step`; the console shows `text`."""
    if not self._silent:
      self._write_files(step, self._clock(), scalars)
      self.note(text)

  def _write_files(
    self, step: int, now: float, values: Mapping[str, float]
  ) -> None:
    if self._lines is not None:
      with self._warn_on_failure('scalars.jsonl'):
        _append_line(self._lines, step, now, values)
    if self._events is not None:
      with self._warn_on_failure('tensorboard'):
        self._events.write(step, values, now)

  def note(self, text: str) -> None:
    """Prints one line of text."""
    if self._silent:
      return
    with contextlib.suppress(OSError):
      self._bar.write(errors.to_line(text), file=self._stream)
      self._stream.flush()

  def close(self) -> None:
    """Flushes and closes the log files."""
    with contextlib.suppress(OSError):
      self._bar.close()
    if self._lines is not None:
      self._lines.close()
    if self._events is not None:
      with self._warn_on_failure('tensorboard'):
        self._events.close()

  def _show(self, step: int, now: float, values: Mapping[str, float]) -> None:
    fields = _format_scalars(values)
    if not self._bar.disable:
      self._bar.set_postfix_str('  '.join(fields), refresh=False)
      self.tick(step)
      return
    line = [f'step {step}/{self._num_steps}', *fields]
    start_step, start_time = self._pace_start
    if step > start_step:
      pace = (now - start_time) / (step - start_step)
      left = tqdm.tqdm.format_interval(pace * (self._num_steps - step))
      line.append(f'eta {left}')
    if self._is_first_line:  # from here on without the compilation
      self._pace_start, self._is_first_line = (step, now), False
    self.note('  '.join(line))

  @contextlib.contextmanager
  def _warn_on_failure(self, name: str) -> Iterator[None]:
    try:
      yield
    except OSError as error:
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


class Meter:
  """Measures images per second and the share of time spent on waiting."""

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    """Starts an interval; `clock` returns seconds."""
    self._clock = clock
    self.restart()

  def restart(self) -> None:
    """Starts a new interval, for instance after a checkpoint."""
    self._start = self._clock()
    self._waited = 0.0

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
    """Returns 'images_per_second' and 'data_wait', in [0, 1], of the interval.

    Starts the next interval; `images` were processed in this one.
    """
    elapsed = max(self._clock() - self._start, 1e-9)
    share = self._waited / elapsed
    self.restart()
    return {'images_per_second': images / elapsed, 'data_wait': share}


def _format_scalars(values: Mapping[str, float]) -> list[str]:
  """Returns 'loss 3.215', ...; rate and waiting last, with their units."""
  last = {'images_per_second', 'data_wait'}
  fields = [f'{k} {v:.4g}' for k, v in values.items() if k not in last]
  if last <= values.keys():
    fields.append(f'{values["images_per_second"]:.4g} images/s')
    fields.append(f'data wait {100 * values["data_wait"]:.0f} %')
  return fields


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
  line = json.dumps(record, sort_keys=True).encode() + b'\n'
  size = os.fstat(file.fileno()).st_size
  if file.write(line) != len(line):
    file.truncate(size)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
