"""Batches, waited for in a way that can be interrupted and has an end."""

from collections.abc import Callable, Iterator
import queue
import threading
from typing import Any

from byol_jax import errors


class Arriving:
  """The same batches; a thread asks for the next one while this one waits.

  The iterator may be stuck inside of a library or a file system. Waiting here,
  Python hears signals, and after so many seconds the run ends.

  Args:
    batches: asked for one at a time, by one thread.
    seconds: for one batch; 0 is for ever. A tenth of it is worth a line.
    note: takes that line.

  Raises:
    DataError: no batch within that time.
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
    self._is_over = False
    self._asked: queue.SimpleQueue = queue.SimpleQueue()
    self._answers: queue.SimpleQueue = queue.SimpleQueue()
    # A daemon: who is stuck is not waited for.
    threading.Thread(target=self._answer, name='batches', daemon=True).start()

  def __iter__(self) -> Iterator[Any]:
    return self

  def __next__(self) -> Any:
    if self._is_over:
      raise StopIteration
    self._asked.put(True)
    limit = self._seconds or None
    try:
      batch, error = self._answers.get(timeout=limit and limit / 10)
    except queue.Empty:
      self._note(
        f'waiting for images for {self._seconds / 10:g} s; without any for'
        f' {self._seconds:g} s (faults.stall_seconds) the run ends'
      )
      batch, error = self._late()
    if error is not None:
      self._is_over = True
      raise error
    return batch

  def _late(self) -> tuple[Any, BaseException | None]:
    try:
      return self._answers.get(timeout=0.9 * self._seconds)
    except queue.Empty:
      raise errors.DataError(
        f'no images for {self._seconds:g} s (faults.stall_seconds): the data'
        ' set no longer answers; look at its disk, and start the same command'
        ' again'
      ) from None

  def close(self) -> None:
    """Lets the thread end, once its last batch has come."""
    self._asked.put(False)

  def _answer(self) -> None:
    while self._asked.get():
      try:
        self._answers.put((next(self._batches), None))
      except BaseException as error:
        self._answers.put((None, error))
        return
