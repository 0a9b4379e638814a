"""Keeps Orbax's log lines off the terminal."""

from collections.abc import Callable, Iterator
import contextlib
import logging
import sys
import threading
import time
from typing import Any


class _Silence:
  """Counts the threads inside: a save may run beside a read."""

  def __init__(self) -> None:
    self._lock = threading.Lock()
    self._inside = 0
    self._hook: Callable[[Any], Any] = sys.unraisablehook

  def enter(self) -> None:
    with self._lock:
      if self._inside == 0:
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._report
        logging.getLogger('absl').addFilter(_is_worth_saying)
      self._inside += 1

  def leave(self) -> None:
    with self._lock:
      self._inside -= 1
      if self._inside == 0:
        logging.getLogger('absl').removeFilter(_is_worth_saying)
        sys.unraisablehook = self._hook

  def _report(self, unraisable: Any) -> None:
    if 'Event loop is closed' not in str(unraisable.exc_value):
      self._hook(unraisable)


def _is_worth_saying(record: logging.LogRecord) -> bool:
  """Other users of absl's logger may speak while a save is under way."""
  return 'orbax' not in record.pathname or record.levelno == logging.WARNING


_SILENCE = _Silence()


@contextlib.contextmanager
def silenced() -> Iterator[None]:
  """Orbax logs each phase, and the traceback of all it raises: not here."""
  _SILENCE.enter()
  try:
    yield
  except Exception:
    time.sleep(0.1)  # The threads of a failed read have their last words.
    raise
  finally:
    _SILENCE.leave()
