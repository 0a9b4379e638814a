"""Scalars of a run to JSONL, TensorBoard and the console; rate and waiting.

`step` counts completed steps. Logging never stops a run: a writer that fails
says so once. The formats of the files are described in `scalar_files`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import os
import pathlib
import sys
import time
from typing import TextIO, TypeVar

import tqdm

from byol_jax.training import scalar_files

T = TypeVar('T')

_STARVED = 0.5  # share of the time spent waiting that makes the input the cause


class Logs:
  """Where one run writes its scalars and its words."""

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
    """Opens the writers; an interrupted run's lines are carried on.

    Args:
      workdir: an existing folder.
      num_steps: of the whole run.
      start_step: completed before this start. What was logged for later
        steps is dropped, since they will come again.
      tensorboard: write WORKDIR/tensorboard too.
      silent: write and print nothing; for all processes but the first.
      stream: the console, standard output unless told.
      clock: seconds since 1970.
    """
    self._num_steps = num_steps
    self._clock = clock
    self._stream = sys.stdout if stream is None else stream
    self._silent = silent
    self._warned: set[str] = set()
    self._origin = (start_step, clock())  # of the pace
    self._is_first = True
    self._is_starved = False  # whether it was said
    self._bar = None
    self._lines: scalar_files.Lines | None = None
    self._events: scalar_files.Events | None = None
    if silent:
      return
    if self._stream.isatty():
      self._bar = tqdm.tqdm(
        total=num_steps,
        initial=start_step,
        file=self._stream,
        unit='step',
        dynamic_ncols=True,
      )
    folder = pathlib.Path(workdir)
    with self._guard('scalars.jsonl'):
      self._lines = scalar_files.Lines(folder / 'scalars.jsonl', start_step)
    if tensorboard:
      with self._guard('tensorboard'):
        self._events = scalar_files.Events(folder / 'tensorboard', start_step)

  def tick(self, step: int) -> None:
    """Moves the bar of a terminal to `step`; cheap, for every step."""
    if self._bar is not None:
      self._bar.update(step - self._bar.n)

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Records the scalars of one step everywhere.

    Args:
      step: steps completed.
      scalars: Python, numpy or fetched jax numbers. 'images_per_second' and
        'data_wait' (a share of 1), as `Meter` makes them, get their units.
    """
    if self._silent:
      return
    values = {name: float(value) for name, value in scalars.items()}
    now = self._clock()
    if self._lines is not None:
      with self._guard('scalars.jsonl'):
        self._lines.write(step, now, values)
    if self._events is not None:
      try:
        self._events.write(step, now, values)
      except OSError as error:
        self._events = None
        self._warn('tensorboard', error)
    self._show(step, now, values)
    if values.get('data_wait', 0.0) > _STARVED and not self._is_starved:
      self._is_starved = True
      self.note(
        f'the input is the bottleneck: {values["data_wait"]:.0%} of the time'
        ' since the last line went into waiting for images; `python -m byol_jax'
        ' bench input` tells what this machine can feed'
      )

  def note(self, text: str) -> None:
    """Prints one line of words."""
    if self._silent:
      return
    # The reader of a pipe may have left; the run goes on.
    with contextlib.suppress(OSError):
      if self._bar is not None:
        self._bar.write(text, file=self._stream)
      else:
        print(text, file=self._stream, flush=True)

  def close(self) -> None:
    """Flushes and closes all writers."""
    if self._bar is not None:
      self._bar.close()
    for writer, name in (
      (self._lines, 'scalars.jsonl'),
      (self._events, 'tensorboard'),
    ):
      if writer is not None:
        with self._guard(name):
          writer.close()
    self._lines = self._events = None

  def _show(self, step: int, now: float, values: Mapping[str, float]) -> None:
    fields = format_scalars(values)
    if self._bar is not None:
      self._bar.set_postfix_str('  '.join(fields), refresh=False)
      self.tick(step)
      return
    line = [f'step {step}/{self._num_steps}', *fields]
    origin_step, origin_time = self._origin
    if step > origin_step:
      pace = (now - origin_time) / (step - origin_step)
      line.append(f'eta {format_seconds(pace * (self._num_steps - step))}')
    if self._is_first:  # From here on without the compilation.
      self._origin, self._is_first = (step, now), False
    self.note('  '.join(line))

  @contextlib.contextmanager
  def _guard(self, name: str) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      self._warn(name, error)

  def _warn(self, name: str, error: OSError) -> None:
    if name not in self._warned:
      self._warned.add(name)
      reason = error.strerror or error
      self.note(f'warning: {name} cannot be written ({reason}); going on')


class Meter:
  """Images per second, and the share of time spent waiting for data."""

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    """`clock` counts seconds and never goes back."""
    self._clock = clock
    self.restart()

  def restart(self) -> None:
    """Begins a new interval, for instance after an evaluation."""
    self._start = self._clock()
    self._waited = 0.0

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time of its block as waiting for data."""
    start = self._clock()
    try:
      yield
    finally:
      self._waited += self._clock() - start

  def iterate(self, batches: Iterable[T]) -> Iterator[T]:
    """The same batches; the time to get each counts as waiting."""
    iterator = iter(batches)
    while True:
      with self.waiting():
        try:
          batch = next(iterator)
        except StopIteration:
          return
      yield batch

  def read(self, images: int) -> dict[str, float]:
    """Closes the interval since the last `read` and begins the next.

    Args:
      images: how many the interval took in.

    Returns:
      'images_per_second', and 'data_wait' in [0, 1].
    """
    elapsed, waited = self._clock() - self._start, self._waited
    self.restart()
    if elapsed <= 0:
      return {'images_per_second': 0.0, 'data_wait': 0.0}
    return {
      'images_per_second': images / elapsed,
      'data_wait': min(waited / elapsed, 1.0),
    }


def format_scalars(values: Mapping[str, float]) -> list[str]:
  """'loss 3.215', …, with rate and waiting last and in their units."""
  units = {
    'images_per_second': '{:.4g} images/s',
    'data_wait': 'data wait {:.0%}',
  }
  fields = [f'{k} {v:.4g}' for k, v in values.items() if k not in units]
  for name, form in units.items():
    if name in values:
      fields.append(form.format(values[name]).replace('%', ' %'))
  return fields


def format_seconds(seconds: float) -> str:
  """A length of time by its two largest units: '45s', '1m12s', '2d03h'."""
  whole = max(0, round(seconds))
  minutes, hours, days = whole // 60, whole // 3600, whole // 86400
  if days:
    return f'{days}d{hours % 24:02d}h'
  if hours:
    return f'{hours}h{minutes % 60:02d}m'
  if minutes:
    return f'{minutes}m{whole % 60:02d}s'
  return f'{whole}s'
