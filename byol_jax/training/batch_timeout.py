"""Waits for batches with a timeout, and so that a signal interrupts it."""

from collections.abc import Callable, Iterator
import contextlib
import queue
import threading
from typing import Any

from byol_jax import errors


class BatchTimeout:
  """Iterates over batches; raises DataError if one does not arrive in time.

  The iterator may be stuck in a library or a file system, where Python handles
  no signals. So a daemon thread, which does not delay the exit, asks it for
  each batch when the caller does, and the caller waits here.

  Args:
    batches: asked for one batch at a time, by one thread.
    seconds: timeout of a batch; 0 is no timeout.
    note: called with one line after a tenth of the timeout.
  """

  def __init__(
    self,
    batches: Iterator[Any],
    seconds: float,
    note: Callable[[str], None] = lambda text: None,
  ):
    self._batches = batches
    self._seconds = seconds
    self._note = note
    self._requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
    self._results: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=self._serve, name='batches', daemon=True).start()

  def __iter__(self) -> Iterator[Any]:
    return self

  def __next__(self) -> Any:
    self._requests.put(True)
    batch, error = self._wait_for_result()
    if error is not None:
      raise error
    return batch

  def close(self) -> None:
    """Ends the thread, once the batch that it waits for has arrived."""
    self._requests.put(False)

  def _wait_for_result(self) -> tuple[Any, BaseException | None]:
    seconds = self._seconds
    with contextlib.suppress(queue.Empty):
      return self._results.get(timeout=0.1 * seconds or None)
    self._note(
      f'waiting for images for {0.1 * seconds:g} s; the run ends after'
      f' {seconds:g} s (faults.stall_seconds) without any'
    )
    with contextlib.suppress(queue.Empty):
      return self._results.get(timeout=0.9 * seconds)
    raise errors.DataError(
      f'no images for {seconds:g} s (faults.stall_seconds): the data set no'
      ' longer answers; check its disk, then start the same command again'
    )

  def _serve(self) -> None:
    while self._requests.get():
      try:
        self._results.put((next(self._batches), None))
      except BaseException as error:
        self._results.put((None, error))
