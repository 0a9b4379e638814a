"""Work on many items in threads, the results in the order of the items."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
import os
from typing import TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')

_AHEAD = 8  # items a thread has waiting, so that none is idle


def count(threads: int) -> int:
  """How many threads: as many as said, or one for each core if 0."""
  return threads or os.cpu_count() or 1


def in_order(
  function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
  """function(item) of each item, at most a few items ahead of the reader.

  Like `Executor.map`, which takes all items at once: a million results would
  have to fit in memory.

  Args:
    function: called from several threads; what it raises is raised here.
    items: read in this thread.
    threads: at least 1.
  """
  waiting: collections.deque[futures.Future[Result]] = collections.deque()
  pool = futures.ThreadPoolExecutor(threads)
  try:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) > _AHEAD * threads:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)
