"""Waiting, with pauses that grow, and an end to all of it."""

from collections.abc import Callable
import time

_LONGEST = 10  # times the first pause


class TimeIsUp(Exception):
  """The job's hours are over."""


class Clock:
  """Pauses between questions to the cloud.

  Args:
    hours: after the first of which no pause begins.
    seconds: of a pause; where nothing changes they grow tenfold.
  """

  def __init__(
    self,
    hours: float,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
  ) -> None:
    self._seconds, self._sleep, self._now = seconds, sleep, now
    self._end = now() + hours * 3600
    self._growth = 1.0

  def pause(self, *, growing: bool = False) -> None:
    """Sleeps, but not past the end.

    Raises:
      TimeIsUp: the end has come.
    """
    left = self._end - self._now()
    if left <= 0:
      raise TimeIsUp
    self._sleep(min(self._seconds * (self._growth if growing else 1), left))
    self._growth = min(self._growth * 1.5, _LONGEST) if growing else 1.0

  def is_over(self) -> bool:
    """Whether the end has come."""
    return self._now() >= self._end
