"""Programs in separate processes that compile and measure on request.

A worker reads a word a line, 'compile' and then 'measure', and answers each
with one line of JSON. So what takes a CPU overlaps with what takes the device,
and the memory of a program is free when it ends.
"""

from collections.abc import Callable, Sequence
import json
import queue
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

_ANSWER = 'ANSWER '


def answer(result: dict[str, Any]) -> None:
  """Answers the last word."""
  print(_ANSWER + json.dumps(result), flush=True)


def wait_for(word: str) -> None:
  """Returns when the parent has sent a word; ends the process without one."""
  line = sys.stdin.readline().strip()
  if line != word:
    sys.exit(f'expected {word!r}, found {line!r}')


def serve(compile_: Callable[[], Any], measure: Callable[[], Any]) -> None:
  """Answers both words with what the functions return."""
  wait_for('compile')
  answer(compile_())
  wait_for('measure')
  answer(measure())


class Worker:
  """A process that was started, and its answers.

  Args:
    command: of the process.
    environment: of the process.
  """

  def __init__(
    self, command: Sequence[str], environment: dict[str, str]
  ) -> None:
    self._process = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=environment,
    )
    self._lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=self._read, daemon=True).start()

  def _read(self) -> None:
    assert self._process.stdout is not None
    for line in self._process.stdout:
      self._lines.put(line)
    self._lines.put(None)

  def send(self, word: str) -> None:
    """Asks for something; an ended process is seen at its answer."""
    assert self._process.stdin is not None
    try:
      self._process.stdin.write(word + '\n')
      self._process.stdin.flush()
    except OSError:
      pass

  def receive(self, deadline: float) -> dict[str, Any]:
    """Returns the next answer; other lines are printed.

    Raises:
      RuntimeError: the process ended, or `time.monotonic()` passed `deadline`.
    """
    while True:
      try:
        line = self._lines.get(timeout=max(0.1, deadline - time.monotonic()))
      except queue.Empty:
        raise RuntimeError('no answer in time') from None
      if line is None:
        raise RuntimeError(f'ended with exit code {self._process.wait()}')
      if line.startswith(_ANSWER):
        return json.loads(line.removeprefix(_ANSWER))
      print(line, end='', flush=True)

  def stop(self) -> None:
    """Ends the process, which frees its memory."""
    self._process.kill()
    self._process.wait()


def time_steps(
  run: Callable[[int], None], images: int, rounds: int, seconds: float
) -> dict[str, Any]:
  """Returns images per second: their median over rounds, least and greatest.

  Args:
    run: takes that many steps and waits for them.
    images: of a step.
    rounds: number of measurements.
    seconds: of each, about.
  """
  run(3)
  began = time.perf_counter()
  run(2)
  count = max(2, round(seconds / ((time.perf_counter() - began) / 2)))
  rates = []
  for _ in range(rounds):
    began = time.perf_counter()
    run(count)
    rates.append(count * images / (time.perf_counter() - began))
  return summarize(rates) | {'rounds': rounds, 'steps_of_a_round': count}


def summarize(rates: Sequence[float]) -> dict[str, float]:
  """Returns the median of images per second, the least and the greatest."""
  return {
    'images_per_second': round(statistics.median(rates), 1),
    'least': round(min(rates), 1),
    'greatest': round(max(rates), 1),
  }
