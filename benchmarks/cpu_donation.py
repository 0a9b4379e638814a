"""Speed of CPU steps that write the new state over the old one, or do not.

PYTHONPATH=. python benchmarks/cpu_donation.py [--output=FILE.json] [--rounds=6]

The steps of `cpu_steps.py`: with a donated state, and as `placement.map_step`
maps them, which on a CPU donates none. Each has a process of its own, since
memory matters; they take steps in turns. `ratio` is the speed over that of the
first. Both must give the same loss.
"""

import argparse
import functools
import json
import os
import subprocess
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from benchmarks import cpu_steps, results_file, timing
from byol_jax.distributed import placement

PROGRAMS = {
  'donated': functools.partial(placement.pmap, donate_argnums=(0,)),
  'not donated': placement.map_step,
}


def work(program, shape):
  """Takes a step for each line of the input; prints its loss and seconds."""
  placement.map_step = PROGRAMS[program]
  step = cpu_steps.make_step(*cpu_steps.build(*cpu_steps.SHAPES[shape]))
  print(float(step()['total_loss'][0]), flush=True)
  for _ in sys.stdin:
    print(json.dumps(timing.timed(step)), flush=True)


def measure(shape, rounds):
  """Images per second and ratios to the donated program."""
  workers = {
    program: subprocess.Popen(
      [sys.executable, __file__, f'--program={program}', '--shapes', shape],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    for program in PROGRAMS
  }
  losses = {worker.stdout.readline() for worker in workers.values()}
  assert len(losses) == 1, losses

  def step(worker):
    worker.stdin.write('step\n')
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())

  times = {program: [] for program in PROGRAMS}
  for number in range(rounds + 1):
    for program in list(PROGRAMS)[:: 1 if number % 2 else -1]:
      seconds = step(workers[program])
      if number:  # the first has new memory
        times[program].append(seconds)
  for worker in workers.values():
    worker.communicate()
  batch_size = cpu_steps.SHAPES[shape][-1]
  return {
    program: {
      'images_per_second': batch_size / timing.median_seconds(x)['seconds'],
      **timing.median_ratios(times['donated'], x),
    }
    for program, x in times.items()
  }


def main():
  parser = results_file.make_parser(__doc__, rounds=6)
  parser.add_argument('--shapes', nargs='+', default=list(cpu_steps.SHAPES))
  parser.add_argument('--program', help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.program:
    work(arguments.program, *arguments.shapes)
    return
  result = {
    'what': 'training steps on CPUs with a donated state and without, in turns;'
    ' ratios of the speed to that of the first, medians over rounds',
    'rounds': arguments.rounds,
    'shapes': {},
  }
  for shape in arguments.shapes:
    result['shapes'][shape] = measure(shape, arguments.rounds)
    print(shape, json.dumps(result['shapes'][shape]), flush=True)
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
