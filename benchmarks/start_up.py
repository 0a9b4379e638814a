"""Seconds until the package, a help text and the first step of a run are there.

PYTHONPATH=. python benchmarks/start_up.py [--output=FILE.json] [--rounds=3]

Each number is the median of processes started one after the other, on an idle
machine. `cold` runs begin with an empty cache of compiled programs, `warm` ones
with that of the run before. The clock of a run stops at its line of step 1,
which shows the results of that step. `demo` is the network of `make demo`,
`tiny` a network of the tests at 16 pixels without colour changes. The loop says
how fast the machine is at the time: most of a start is Python and the compiler.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import results_file

CLI = (sys.executable, '-m', 'byol_jax')
RUN = (*CLI, 'pretrain', '--config=shapes', '--config.steps=2')
TINY = (
  *('image_size=16', 'batch_size=8', 'network.encoder=TinyResNet'),
  *('network.stem=small', 'network.width=0.5', 'network.projector=(16, 8)'),
  'network.predictor=(16, 8)',
  *(
    f'augment.{view}.{operation}.probability=0.0'
    for view in ('view1', 'view2')
    for operation in ('jitter', 'grayscale', 'blur', 'solarize')
  ),
)
RUNS = {
  'demo': RUN,
  'tiny': (*RUN, *(f'--config.{value}' for value in TINY)),
}
LOOP = 'for _ in range(10_000_000): pass'
QUICK = {
  'import byol_jax': (sys.executable, '-c', 'import byol_jax'),
  'python alone': (sys.executable, '-c', 'pass'),
  'python, loop of 10 million': (sys.executable, '-c', LOOP),
  'byol-jax --help': (*CLI, '--help'),
  'byol-jax pretrain --help': (*CLI, 'pretrain', '--help'),
}


def time_process(command):
  """Seconds until a process ends."""
  began = time.perf_counter()
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
  return time.perf_counter() - began


def time_first_step(command, environment):
  """Seconds until a run prints its first step."""
  with tempfile.TemporaryDirectory() as folder:
    began = time.perf_counter()
    process = subprocess.Popen(
      [*command, f'--workdir={folder}/run'],
      stdout=subprocess.PIPE,
      text=True,
      env=os.environ | environment,
    )
    found = None
    for line in process.stdout:
      if line.startswith('step 1/'):
        found = time.perf_counter() - began
    assert process.wait() == 0 and found is not None
  return found


def measure_run(command, rounds):
  """Medians with an empty cache and with a full one."""
  cold, warm = [], []
  for _ in range(rounds):
    with tempfile.TemporaryDirectory() as cache:
      pathlib.Path(cache).chmod(0o700)
      environment = {'BYOL_JAX_CACHE': cache}
      cold.append(time_first_step(command, environment))
      warm.append(time_first_step(command, environment))
  return {
    'cold_seconds': statistics.median(cold),
    'warm_seconds': statistics.median(warm),
    'cold_rounds': cold,
    'warm_rounds': warm,
  }


def main():
  arguments = results_file.make_parser(__doc__, rounds=3).parse_args()
  os.environ.pop('JAX_COMPILATION_CACHE_DIR', None)
  os.environ['PYTHONPATH'] = os.getcwd()
  result = {
    'what': 'seconds of the clock from the start of a process; medians',
    'rounds': arguments.rounds,
    'seconds': {
      name: statistics.median(time_process(command) for _ in range(5))
      for name, command in QUICK.items()
    },
    'first_step': {
      name: measure_run(command, arguments.rounds)
      for name, command in RUNS.items()
    },
  }
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
