"""Ctrl-C and SIGTERM: a run is asked between steps, a verb ends tidily.

In a job of one process the handlers are ours. In a job of several, SIGTERM
belongs to JAX from `jax.distributed.initialize` on: its handler, in C++, tells
all processes, which then agree on a step. A handler of ours would silence it.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from byol_jax import errors

# How long Python gets to handle a signal, where it is not inside of a
# compilation, before the process is ended.
_GRACE = 2.0


class Stopped(BaseException):
  """A signal came while a run waited; raised inside `interruptible` alone."""


class StopRequest:
  """Turns Ctrl-C and SIGTERM into a question that the loop asks.

  A second Ctrl-C interrupts at once. Before the first step of this start
  there is nothing to save: the run then ends where it is, even inside of a
  compilation, which Python cannot leave.
  """

  def __init__(self) -> None:
    self.signal: str | None = None
    self._previous: dict[int, Any] = {}
    self._is_waiting = False
    self._polls = 0  # the same on all processes
    self._is_alone = True
    self._stands: str | None = 'nothing is saved yet'  # None: there are steps
    self._wakeup: tuple[int, int, int] | None = None

  def __enter__(self) -> 'StopRequest':
    import jax  # Not above: `--help` waits for nothing.

    if threading.current_thread() is not threading.main_thread():
      self._stands = None
      return self
    self._is_alone = jax.process_count() == 1
    if self._is_alone:
      for number in (signal.SIGINT, signal.SIGTERM):
        self._previous[number] = signal.signal(number, self._receive)
      self._listen()
    else:
      self._stands = None
      # Ctrl-C at a terminal: by the way that JAX has for all processes.
      self._previous[signal.SIGINT] = signal.signal(
        signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM)
      )
    return self

  def starts_from(self, step: int | None) -> None:
    """What stands if a signal comes before the first step."""
    if self._stands is not None and step is not None:
      self._stands = f'step {step}, saved before, stands'

  def begun(self) -> None:
    """The first step is under way: from here on a signal is a question."""
    self._stands = None

  def asked(self) -> str | None:
    """The signal's name if the run is to stop after this step.

    In a job of several processes all must ask after every call, and all get
    the same answer.
    """
    if self._is_alone:
      return self.signal
    from jax.experimental import multihost_utils

    # JAX waits for a number to come by, so they are consecutive: not steps.
    self._polls += 1
    if multihost_utils.reached_preemption_sync_point(self._polls):
      self.signal = 'SIGTERM'
    return self.signal

  @contextlib.contextmanager
  def interruptible(self) -> Iterator[None]:
    """A block that a signal ends with `Stopped`: waiting for a batch."""
    self._is_waiting = True
    try:
      if self.signal and self._is_alone:
        raise Stopped
      yield
    finally:
      self._is_waiting = False

  def _receive(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self.signal and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.signal = signal.Signals(number).name
    if self._stands is not None:
      raise errors.Preempted(self._farewell())
    if self._is_waiting:
      raise Stopped

  def _farewell(self) -> str:
    return (
      f'{self.signal} before a first step: {self._stands}; the same command'
      ' goes on'
    )

  def _listen(self) -> None:
    """Another thread hears of signals too: the main one may be compiling."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    self._wakeup = (reader, writer, before)

    def listen() -> None:
      while octet := os.read(reader, 1):
        number = octet[0]
        if number not in (signal.SIGINT, signal.SIGTERM):
          continue
        time.sleep(_GRACE)
        if self._stands is not None and self.signal is None:
          self.signal = signal.Signals(number).name
          print(f'byol_jax: {self._farewell()}', file=sys.stderr, flush=True)
          os._exit(errors.Preempted.exit_code)

    threading.Thread(target=listen, name='signals', daemon=True).start()

  def __exit__(self, *unused: object) -> None:
    if self._wakeup is not None:
      reader, writer, before = self._wakeup
      self._stands = None
      signal.set_wakeup_fd(before)
      os.close(writer)  # the thread reads to the end
    for number, handler in self._previous.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def unwinding(resumable: bool = False) -> Iterator[None]:
  """SIGTERM ends a verb like Ctrl-C: what it had half-written is removed.

  Args:
    resumable: whether the same command goes on from what is saved; the exit
      code then is that of `errors.Preempted`, else 143.
  """

  def leave(number: int, frame: FrameType | None) -> None:
    del frame
    if resumable:
      raise errors.Preempted(
        f'{signal.Signals(number).name}: what was saved before stands; the'
        ' same command goes on'
      )
    sys.exit(128 + number)

  if threading.current_thread() is not threading.main_thread():
    yield
    return
  previous = signal.signal(signal.SIGTERM, leave)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, previous)
