"""Ends a process that no longer makes progress, and prints its stacks.

A collective whose peer is gone, a driver that hangs or a file system that does
not answer would block the process, and with it the whole job, indefinitely.
"""

from collections.abc import Iterator
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time

# The shell's exit code for SIGALRM, which ends a process whose Python no longer
# runs. Launchers restart from 128 on.
EXIT_CODE = 128 + signal.SIGALRM
_MARGIN = 10.0  # seconds, for writing the stacks of all threads
_NEVER = 1e9  # seconds
_STDERR = 2  # the file descriptor, also where sys.stderr is replaced


class Watchdog:
  """Ends the process when no step completes within a timeout.

  The first `step_done` arms it: compiling before it has no limit. On expiry one
  line and the stacks of all threads go to standard error. A thread does it, as
  a container's first process ignores SIGALRM; should no Python thread run any
  more, `faulthandler` and an alarm do.

  Args:
    seconds: timeout of a step; 0 disables the watchdog.
  """

  def __init__(self, seconds: float):
    self._seconds = seconds
    self._step: int | None = None  # the last one; None until it is armed
    self._restarted = self._alarm_set = 0.0
    self._closed = threading.Event()

  def step_done(self, step: int) -> None:
    """Restarts the timeout after `step` completed steps."""
    if not self._seconds:
      return
    is_armed, self._step = self._step is not None, step
    self.restart()
    if not is_armed:
      threading.Thread(target=self._watch, name='watchdog', daemon=True).start()

  def restart(self) -> None:
    """Restarts the timeout, if it is armed, for progress other than a step."""
    if self._step is None:
      return
    self._restarted = now = time.monotonic()
    if now > self._alarm_set + 1:  # not at each of 1,000 steps a second
      self._alarm_set = now
      limit = self._seconds + _MARGIN
      faulthandler.dump_traceback_later(limit, file=_STDERR)
      signal.setitimer(signal.ITIMER_REAL, limit + _MARGIN)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Gives what is no step, such as an evaluation, as long as it takes."""
    if self._step is not None:
      self._restarted = time.monotonic() + _NEVER
      self._cancel_alarms()
    try:
      yield
    finally:
      self._alarm_set = 0.0
      self.restart()

  def close(self) -> None:
    """Disarms the watchdog."""
    self._closed.set()
    if self._step is not None:
      self._cancel_alarms()

  def _cancel_alarms(self) -> None:
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_REAL, 0)

  def _watch(self) -> None:
    while (left := self._restarted + self._seconds - time.monotonic()) > 0:
      if self._closed.wait(min(left, self._seconds)):  # it may be paused
        return
    print(
      f'byol_jax: no step for {self._seconds:g} s (faults.stall_seconds) after'
      f' step {self._step}; the process exits and its checkpoints stay. Stacks'
      ' of all threads:',
      file=sys.__stderr__,
      flush=True,
    )
    faulthandler.dump_traceback(file=_STDERR)
    os._exit(EXIT_CODE)
