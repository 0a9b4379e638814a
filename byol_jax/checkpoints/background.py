"""One piece of work at a time in a thread, whose failure is not lost."""

from collections.abc import Callable
from concurrent import futures


class Background:
  """A thread that does what it is given, one thing after the other."""

  def __init__(self, name: str):
    """The thread, called `name`, starts with the first piece of work."""
    self._pool = futures.ThreadPoolExecutor(1, thread_name_prefix=name)
    self._under_way: futures.Future[None] | None = None

  def start(self, work: Callable[[], None]) -> None:
    """Waits for what is under way, raising its error; then starts `work`."""
    self.wait()
    self._under_way = self._pool.submit(work)

  def poll(self) -> None:
    """Raises the error of work that failed, once; never waits."""
    if self._under_way is not None and self._under_way.done():
      self.wait()

  def wait(self) -> None:
    """Until nothing is under way; raises the error of work that failed."""
    if self._under_way is None:
      return
    # A signal may end the wait itself: then the work is still under way.
    futures.wait([self._under_way])
    done, self._under_way = self._under_way, None
    done.result()

  def close(self) -> None:
    """Like `wait`, and lets the thread go."""
    try:
      self.wait()
    finally:
      self._pool.shutdown()
