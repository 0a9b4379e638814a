"""Times calls in turns: seconds of the clock, and CPU seconds of all cores."""

import contextlib
import json
import statistics
import subprocess
import sys
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


def serve_steps(step, first):
  """Prints `first`; then times a step for each line of the input."""
  print(json.dumps(first), flush=True)
  for _ in sys.stdin:
    print(json.dumps(timed(step)), flush=True)


def time_workers(commands, rounds):
  """As `time_rounds`, for processes that call `serve_steps`.

  `commands` are {name: (arguments, environment)}. Returns the first values,
  too, {name: value}.
  """
  with contextlib.ExitStack() as stack:
    workers = {
      name: stack.enter_context(
        subprocess.Popen(
          [sys.executable, *arguments],
          env=environment,
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          text=True,
        )
      )
      for name, (arguments, environment) in commands.items()
    }
    first = {
      name: json.loads(x.stdout.readline()) for name, x in workers.items()
    }
    found = {name: [] for name in workers}
    for number in range(rounds):
      for name in list(workers)[:: 1 if number % 2 else -1]:
        print('step', file=workers[name].stdin, flush=True)
        found[name].append(json.loads(workers[name].stdout.readline()))
  return first, found


def median_seconds(times):
  """The medians of the rounds of one call."""
  seconds, cpu_seconds = map(statistics.median, zip(*times))
  return {'seconds': seconds, 'cpu_seconds': cpu_seconds}


def median_ratios(times, others):
  """The medians over the rounds of `times` divided by `others`."""
  ratios = [(x[0] / y[0], x[1] / y[1]) for x, y in zip(times, others)]
  ratio, cpu_ratio = map(statistics.median, zip(*ratios))
  return {'ratio': ratio, 'cpu_ratio': cpu_ratio}
