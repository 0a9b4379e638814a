"""What Orbax says while it works, and how its errors read in one line."""

from collections.abc import Iterator
import contextlib
import logging
import sys
import time
from typing import Any


def first_line(error: Exception) -> str:
  """Its type and the first line of what it says."""
  lines = str(error).splitlines() or ['']
  return f'{type(error).__name__}: {lines[0][:300]}'


@contextlib.contextmanager
def silenced() -> Iterator[None]:
  """Orbax logs each phase, and the traceback of all it raises: not here."""
  logger, hook = logging.getLogger('absl'), sys.unraisablehook
  is_warning = lambda record: record.levelno == logging.WARNING

  def report(unraisable: Any) -> None:
    if 'Event loop is closed' not in str(unraisable.exc_value):
      hook(unraisable)

  logger.addFilter(is_warning)
  sys.unraisablehook = report
  try:
    yield
  except Exception:
    time.sleep(0.1)  # The threads of a failed read have their last words.
    raise
  finally:
    sys.unraisablehook = hook
    logger.removeFilter(is_warning)
