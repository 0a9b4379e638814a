"""A run that no longer moves ends, and says where it stood.

A collective whose other side is gone, a driver that hangs, a file system that
does not answer: all of them wait for ever, and a pod is paid for meanwhile.
"""

import faulthandler
import os
import signal
import sys
import threading
import time

# As a shell gives it for SIGALRM, by which the kernel ends a process whose
# Python no longer runs. Launchers restart from 128 on.
EXIT_CODE = 128 + signal.SIGALRM
_MARGIN = 10.0  # seconds, for the stacks of every thread
_STDERR = 2  # the file itself, whatever Python calls by that name


class Watchdog:
  """Ends the process when `feed` is not called for so long.

  The first `feed` arms it: before the first step, compiling takes what it
  takes. It prints one line and the stacks of all threads to standard error.

  Args:
    seconds: without a step; 0 is never.
  """

  def __init__(self, seconds: float):
    self._seconds = seconds
    self._step = 0
    self._deadline: float | None = None
    self._alarmed = -1e9
    self._changed = threading.Condition()
    self._is_closed = False
    if seconds:
      threading.Thread(target=self._watch, name='watchdog', daemon=True).start()

  def feed(self, step: int | None = None) -> None:
    """A step was taken; or, without one, something else shows that it moves."""
    is_first = self._deadline is None
    if not self._seconds or (is_first and step is None):
      return
    now = time.monotonic()
    with self._changed:
      self._deadline = now + self._seconds
      self._step = self._step if step is None else step
      if is_first:
        self._changed.notify()
    if now > self._alarmed + 1:  # not at each of a thousand steps a second
      self._alarmed = now
      # Should nothing of Python run any more: stacks, then an alarm.
      later = self._seconds + _MARGIN
      faulthandler.dump_traceback_later(later, file=_STDERR)
      signal.setitimer(signal.ITIMER_REAL, later + _MARGIN)

  def close(self) -> None:
    """Ends the watch."""
    with self._changed:
      self._is_closed = True
      self._changed.notify()
    if self._alarmed > 0:
      faulthandler.cancel_dump_traceback_later()
      signal.setitimer(signal.ITIMER_REAL, 0)

  def _watch(self) -> None:
    with self._changed:
      while not self._is_closed:
        if self._deadline is None:
          self._changed.wait()
          continue
        left = self._deadline - time.monotonic()
        if left <= 0:
          break
        self._changed.wait(left)  # which may be moved on meanwhile
      else:
        return
    self._bark()

  def _bark(self) -> None:
    print(
      f'byol_jax: no step for {self._seconds:g} s (faults.stall_seconds) after'
      f' step {self._step}; the process ends, its checkpoints stand. Where each'
      ' thread stood:',
      file=sys.__stderr__,
      flush=True,
    )
    faulthandler.dump_traceback(file=_STDERR)
    os._exit(EXIT_CODE)
