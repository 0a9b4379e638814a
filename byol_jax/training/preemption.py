"""Stops a run between steps at a signal, so that its last step is saved.

In a job of one process the handlers are ours. In a job of several processes,
SIGTERM belongs to JAX from `jax.distributed.initialize` on: its handler, in
C++, tells all processes, which then agree on a step. A handler of ours would
replace it, and no process would stop.
"""

from collections.abc import Iterator
import contextlib
import itertools
import os
import signal
import threading
from types import FrameType
from typing import Any

from byol_jax.training import signals

# Of all guards of this process: JAX expects consecutive numbers in a job.
_REQUESTS = itertools.count(1)


class WaitInterrupted(BaseException):
  """Raised by a signal inside `PreemptionGuard.interruptible` only."""


class PreemptionGuard:
  """Turns a signal into a stop after the step under way.

  Until the first step of this start is done there is nothing to save, and
  signals do what they did before: `signals.SignalExit` ends our programs. A
  second Ctrl-C does that, too.
  """

  def __init__(self) -> None:
    self._signal: str | None = None
    self._is_waiting = False
    self._is_armable = False  # entered, and the first step is to come
    self._is_single_process = True
    self._previous: dict[int, Any] = {}  # handlers
    self._wakeup_fd = -1

  def __enter__(self) -> 'PreemptionGuard':
    import jax

    self._is_single_process = jax.process_count() == 1
    # Python sets handlers in the main thread only.
    self._is_armable = threading.current_thread() is threading.main_thread()
    return self

  def __exit__(self, *unused: object) -> None:
    self._is_armable = False
    for number, handler in self._previous.items():
      signal.signal(number, handler)
    if self._previous:
      signal.set_wakeup_fd(self._wakeup_fd, warn_on_full_buffer=False)

  def first_step_done(self) -> None:
    """Makes a signal from now on wait for the end of the step under way."""
    if not self._is_armable:
      return
    self._is_armable = False
    # No thread shall exit while a long step runs.
    self._wakeup_fd = signal.set_wakeup_fd(-1)
    for number in signals.list_handled():
      if self._is_single_process:
        self._previous[number] = signal.signal(number, self._handle_signal)
      elif number != signal.SIGTERM:
        # Stops all processes as SIGTERM does.
        self._previous[number] = signal.signal(
          number, lambda *_: os.kill(os.getpid(), signal.SIGTERM)
        )

  def requested(self) -> str | None:
    """Returns the signal's name if the run shall stop after this step.

    All processes of a job must call this after each call of the devices, and
    all get the same answer.
    """
    if self._is_single_process:
      return self._signal
    from jax.experimental import multihost_utils

    # Not the step, whose numbers need not be consecutive.
    if multihost_utils.reached_preemption_sync_point(next(_REQUESTS)):
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

  def _handle_signal(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self._signal and number == signal.SIGINT:
      signal.signal(number, self._previous[number])
      os.kill(os.getpid(), number)
      return
    self._signal = signal.Signals(number).name
    if self._is_waiting:
      raise WaitInterrupted
