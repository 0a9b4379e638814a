"""What a run prints: a terminal's progress bar, and lines that stay.

A pipe, such as a file or the log of a scheduler, gets the lines only.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import os
import threading
from typing import TextIO

import tqdm

from byol_jax import errors

_MIN_BAR = 6  # columns, with its two ends


class Console:
  """The console of one run; a closed terminal or pipe never ends it."""

  def __init__(
    self,
    stream: TextIO,
    num_steps: int,
    start_step: int,
    every_seconds: float,
    clock: Callable[[], float],
    record: Callable[[str], None],
  ) -> None:
    """Shows the bar, if `stream` is a terminal.

    Args:
      stream: standard output, or another.
      num_steps: of the whole run.
      start_step: steps completed before.
      every_seconds: between two lines that stay; 0: a line for each `write`.
      clock: returns seconds.
      record: gets every line that stays, not shortened.
    """
    self._stream, self._clock, self._record = stream, clock, record
    self._num_steps, self._every = num_steps, every_seconds
    self._values: Mapping[str, float] = {}
    self._line_at: float | None = None  # None: before the first step
    self._line_step = start_step  # of the last line
    self._pace_start = (start_step, clock())
    self._phase: tuple[str, float] | None = None
    self._is_stopped = threading.Event()
    self._bar = tqdm.tqdm(
      *(None, '', num_steps),
      initial=start_step,
      file=stream,
      dynamic_ncols=True,
      disable=None,  # unless it is a terminal
      bar_format='{desc} |{bar}|',
    )

  def note(self, text: str) -> None:
    """Prints one line of text."""
    self._print(text, text)

  def start_phase(self, text: str, has_line: bool = True) -> None:
    """Says what the run does until the next step.

    A terminal shows its time meanwhile. A pipe gets a line, if `has_line`.
    """
    self._phase = (text, self._clock())
    if not self._bar.disable:
      self._is_stopped.set()
      self._is_stopped = threading.Event()
      threading.Thread(
        target=self._show_phase, args=(self._is_stopped,), daemon=True
      ).start()
    elif has_line:
      self.note(f'{text} ...')

  def _show_phase(self, is_stopped: threading.Event) -> None:
    while (phase := self._phase) and not is_stopped.is_set():
      self._show(f'{phase[0]} ... {self._clock() - phase[1]:.0f} s')
      with contextlib.suppress(OSError, ValueError):
        self._bar.refresh()
      is_stopped.wait(1.0)

  def tick(self, step: int, peek: Callable[[], Mapping[str, float]]) -> None:
    """Moves the bar, and prints a line if one is due.

    Cheap enough for each step: `peek`, which returns scalars of late, is called
    for the line alone.
    """
    now, took = self._clock(), []
    if self._phase is not None:
      took = [f'{self._phase[0]} took {now - self._phase[1]:.0f} s']
      self._phase = None
      self._is_stopped.set()
    is_first = self._line_at is None
    if is_first or step == self._pace_start[0]:
      self._pace_start = (step, now)  # from here on without the compilation
    if is_first or (self._every and now - (self._line_at or 0) >= self._every):
      self._values = {**self._values, **peek()}
      self._print_line(step, now, took if is_first else [])
    if not self._bar.disable:
      main, _ = self._list_fields(step, now)
      self._show('  '.join(self._shorten(main)))
      with contextlib.suppress(OSError):
        self._bar.update(step - self._bar.n)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Shows the scalars of a log line in the bar, and as a line if one is due.

    `values` are in the order of a line.
    """
    self._values, now = values, self._clock()
    if self._line_at is None:
      return  # `tick` prints them
    if not self._every or now - self._line_at >= self._every:
      self._print_line(step, now)

  def close(self) -> None:
    """Ends the bar."""
    self._phase = None
    self._is_stopped.set()
    with contextlib.suppress(OSError):
      self._bar.close()

  def _print_line(
    self, step: int, now: float, more: Sequence[str] = ()
  ) -> None:
    if step == self._line_step:
      return
    self._line_at, self._line_step = now, step
    main, others = self._list_fields(step, now)
    fields = [f'step {main[0]}', *main[1:], *more, *others]
    self._print('  '.join(self._shorten(fields)), '  '.join(fields))

  def _print(self, text: str, whole: str) -> None:
    self._record(whole)
    with contextlib.suppress(OSError):
      self._bar.write(errors.to_line(text), file=self._stream)
      self._stream.flush()

  def _show(self, text: str) -> None:
    """Sets the text of the bar, which has what is left of the width."""
    has_bar = len(text) + _MIN_BAR < self._get_width()
    self._bar.bar_format = '{desc} |{bar}|' if has_bar else '{desc}'
    self._bar.set_description_str(text, refresh=False)

  def _shorten(self, fields: list[str]) -> list[str]:
    """Returns as many of the fields as a line of the terminal has room for."""
    if self._bar.disable:
      return fields
    left, kept = self._get_width() - 1, []
    for field in fields:
      left -= len(field) + 2
      if left < -2:
        break
      kept.append(field)
    return kept

  def _get_width(self) -> int:
    with contextlib.suppress(OSError, ValueError):
      return os.get_terminal_size(self._stream.fileno()).columns or 80
    return 80

  def _list_fields(self, step: int, now: float) -> tuple[list[str], list[str]]:
    """Returns the parts of a line: those of the bar, and the others."""
    values = dict(self._values)
    fields = [f'{step}/{self._num_steps}']
    if 'byol_loss' in values:
      fields.append(f'byol_loss {values.pop("byol_loss"):.4f}')
    rate = values.pop('images_per_second', None)
    if rate is not None:
      shown = f'{rate:,.0f}' if rate > 9 else f'{rate:.2g}'
      fields.append(f'{shown} images/s')
    each = values.pop('images_per_second_per_device', rate)
    if rate is not None and each != rate:
      fields[-1] += f' ({each:.4g} a device)'
    share = values.pop('flop_utilization', None)
    if share is not None:
      fields.append(f'{100 * share:.0f} % of peak')
    wait = values.pop('data_wait', None)
    if wait is not None:
      fields.append(f'data wait {100 * wait:.0f} %')
    start_step, start_time = self._pace_start
    if step > start_step:
      pace = (now - start_time) / (step - start_step)
      left = tqdm.tqdm.format_interval(pace * (self._num_steps - step))
      fields.append(f'eta {left}')
    return fields, [f'{name} {value:.4g}' for name, value in values.items()]
