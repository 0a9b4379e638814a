"""Times calls in turns: seconds of the clock, and CPU seconds of all cores."""

import statistics
import time


def timed(call):
  """(seconds, CPU seconds) of a call."""
  began = time.perf_counter(), time.process_time()
  call()
  return time.perf_counter() - began[0], time.process_time() - began[1]


def time_rounds(calls, rounds):
  """{name: (seconds, CPU seconds) of each round}, every other one backwards."""
  found = {name: [] for name in calls}
  for number in range(rounds):
    for name in list(calls)[:: 1 if number % 2 else -1]:
      found[name].append(timed(calls[name]))
  return found


def median_seconds(times):
  """The medians of the rounds of one call."""
  seconds, cpu_seconds = map(statistics.median, zip(*times))
  return {'seconds': seconds, 'cpu_seconds': cpu_seconds}


def median_ratios(times, others):
  """The medians over the rounds of `times` divided by `others`."""
  ratios = [(x[0] / y[0], x[1] / y[1]) for x, y in zip(times, others)]
  ratio, cpu_ratio = map(statistics.median, zip(*ratios))
  return {'ratio': ratio, 'cpu_ratio': cpu_ratio}
