"""Ctrl-C and SIGTERM: a run is asked between steps, a verb ends tidily."""

from collections.abc import Iterator
import contextlib
import signal
import sys
import threading
from types import FrameType
from typing import Any


class StopRequest:
  """Turns Ctrl-C and SIGTERM into a question that the loop asks.

  Only for a single process and its main thread: in a job of several, JAX
  owns the signal. A second Ctrl-C interrupts at once.
  """

  def __init__(self) -> None:
    self.signal: str | None = None
    self.previous: dict[int, Any] = {}

  def __enter__(self) -> 'StopRequest':
    import jax  # Not above: `--help` waits for nothing.

    main = threading.current_thread() is threading.main_thread()
    if main and jax.process_count() == 1:
      for number in (signal.SIGINT, signal.SIGTERM):
        self.previous[number] = signal.signal(number, self.receive)
    return self

  def receive(self, number: int, frame: FrameType | None) -> None:
    """The signal handler."""
    del frame
    if self.signal and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.signal = signal.Signals(number).name

  def __exit__(self, *unused: object) -> None:
    for number, handler in self.previous.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
  """SIGTERM ends a verb like Ctrl-C: what it had half-written is removed.

  Pretraining, which saves first, has its own way (`StopRequest`).
  """

  def leave(number: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + number)

  if threading.current_thread() is not threading.main_thread():
    yield
    return
  previous = signal.signal(signal.SIGTERM, leave)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, previous)
