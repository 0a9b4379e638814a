"""Stops a run between steps, and other verbs cleanly, at SIGTERM or Ctrl-C.

In a job of one process the handlers are ours. In a job of several processes,
SIGTERM belongs to JAX from `jax.distributed.initialize` on: its handler, in
C++, tells all processes, which then agree on a step. A handler of ours would
replace it, and no process would stop.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType

from byol_jax import errors

# Seconds in which Python can handle a signal unless it is compiling.
_HANDLER_SECONDS = 2.0


class WaitInterrupted(BaseException):
  """Raised by a signal inside `PreemptionGuard.interruptible` only."""


class PreemptionGuard:
  """Turns SIGTERM and Ctrl-C into a stop after the step under way.

  A second Ctrl-C interrupts at once. Before the first step of this start there
  is nothing to save: the process exits with the code of `errors.Preempted`,
  even from a compilation, during which Python handles no signals.
  """

  def __init__(self) -> None:
    self._signal: str | None = None
    self._is_waiting = False
    self._is_first_step = True
    self._resume_step: int | None = None
    self._num_requests = 0  # the same on all processes
    self._is_single_process = True
    self._cleanup = contextlib.ExitStack()

  def __enter__(self) -> 'PreemptionGuard':
    import jax  # not above: `--help` must start quickly

    self._is_single_process = jax.process_count() == 1
    if threading.current_thread() is not threading.main_thread():
      return self  # Python sets handlers in the main thread only
    if self._is_single_process:
      for number in (signal.SIGINT, signal.SIGTERM):
        self._set_handler(number, self._handle_signal)
      self._watch_for_signals()
    else:
      # Ctrl-C stops all processes as SIGTERM does.
      self._set_handler(
        signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM)
      )
    return self

  def __exit__(self, *unused: object) -> None:
    self._cleanup.close()

  def set_resume_step(self, step: int | None) -> None:
    """Sets the checkpoint that a signal before the first step leaves."""
    self._resume_step = step

  def first_step_done(self) -> None:
    """Makes a signal from now on wait for the end of the step under way."""
    self._is_first_step = False

  def requested(self) -> str | None:
    """Returns the signal's name if the run shall stop after this step.

    All processes of a job must call this after each call of the devices, and
    all get the same answer.
    """
    if self._is_single_process:
      return self._signal
    from jax.experimental import multihost_utils

    # JAX expects consecutive numbers, which step numbers need not be.
    self._num_requests += 1
    if multihost_utils.reached_preemption_sync_point(self._num_requests):
      self._signal = 'SIGTERM'
    return self._signal

  @contextlib.contextmanager
  def interruptible(self) -> Iterator[None]:
    """Lets a signal end the block, such as the wait for a batch.

    Raises:
      WaitInterrupted: at a signal, or at once after an earlier one.
    """
    self._is_waiting = True
    try:
      if self._signal and self._is_single_process:
        raise WaitInterrupted
      yield
    finally:
      self._is_waiting = False

  def _set_handler(self, number: int, handler: Callable) -> None:
    previous = signal.signal(number, handler)
    self._cleanup.callback(signal.signal, number, previous)

  def _handle_signal(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self._signal and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._signal = signal.Signals(number).name
    if self._is_first_step:
      raise self._make_error(self._signal)
    if self._is_waiting:
      raise WaitInterrupted

  def _watch_for_signals(self) -> None:
    """Starts a thread that exits if the main thread cannot handle a signal.

    Python's handler in C writes the number of each signal to a pipe at once.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
      with open(reader, 'rb', buffering=0) as pipe:
        while octet := pipe.read(1):
          if octet[0] not in (signal.SIGINT, signal.SIGTERM):
            continue
          time.sleep(_HANDLER_SECONDS)
          if self._is_first_step and self._signal is None:
            error = self._make_error(signal.Signals(octet[0]).name)
            print(f'byol_jax: {error}', file=sys.stderr, flush=True)
            os._exit(error.exit_code)

    threading.Thread(target=watch, name='signals', daemon=True).start()
    self._cleanup.callback(os.close, writer)  # ends the thread
    self._cleanup.callback(signal.set_wakeup_fd, previous)
    self._cleanup.callback(self.first_step_done)

  def _make_error(self, name: str) -> errors.Preempted:
    """Returns the error of a signal before the first step of this start."""
    saved = 'nothing is saved yet'
    if self._resume_step is not None:
      saved = f'step {self._resume_step}, saved before, stays'
    return errors.Preempted(
      f'{name} before the first step: {saved}; the same command resumes'
    )


@contextlib.contextmanager
def exit_on_sigterm(resumable: bool = False) -> Iterator[None]:
  """Makes SIGTERM unwind the block as Ctrl-C does, so partial files go.

  Args:
    resumable: whether the same command continues from what is saved. It then
      raises `errors.Preempted`, else SystemExit with 143.
  """

  def leave(number: int, frame: FrameType | None) -> None:
    del frame
    if resumable:
      raise errors.Preempted(
        f'{signal.Signals(number).name}: what was saved before stays; the same'
        ' command resumes'
      )
    sys.exit(128 + number)

  previous = signal.signal(signal.SIGTERM, leave)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, previous)
