"""Host time of one step call, over the arrays of a state and the processes.

PYTHONPATH=. python benchmarks/dispatch.py [--output=FILE.json] [--rounds=3]

A call of a compiled step costs the host time for each array of the state. That
is why a run packs its state (`distributed/packing.py`), and why its arrays span
all processes of a job (`distributed/placement.py`). This
measures the call alone, with the states of three encoders as they are and
packed, each array cut to its first numbers, a body that only adds, the state
donated. Every process has eight CPU devices, as a host of a pod has eight
cores.

Two times until the call returns: of the clock, and of the calling thread on a
core. On a pod the devices compute, here they share the cores with the host: the
second is what the call takes, the first what other work adds to it.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time

from benchmarks import results_file

ENCODERS = ('ResNet18', 'ResNet50', 'ResNet200')
PROCESSES = (1, 2, 4)
DEVICES = 8  # of a process
CALLS, FIRST = 30, 5  # calls that count, and before them


def list_states():
  """{name: [shape, dtype] of each array}, shapes cut to two of each axis."""
  import jax

  from byol_jax import configuration, experiment
  from byol_jax.distributed import packing

  states = {}
  for encoder in ENCODERS:
    config = configuration.load('pretrain:1000')
    config.network.encoder = encoder
    start = experiment.build(config, 10**6, 1000).initial_state
    plain = jax.eval_shape(start)
    for name, tree in (
      (encoder, plain),
      (f'{encoder}, packed', jax.eval_shape(packing.pack, plain)),
    ):
      states[name] = [
        ([min(n, 2) for n in x.shape], str(x.dtype))
        for x in jax.tree.leaves(tree)
      ]
  return states


def measure(job, states):
  """Prints the median milliseconds of a call, for each state."""
  import jax
  import numpy as np

  from byol_jax import parallel
  from byol_jax.distributed import placement, processes

  processes.join_job(job, lambda: (None, {}))
  found = {}
  for name, arrays in states.items():
    update = placement.pmap(
      lambda s, b: (
        jax.tree.map(lambda x: x + 1, s),
        {'loss': parallel.mean(b['x'].sum())},
      ),
      donate_argnums=(0,),
    )
    state = [np.zeros(shape, dtype) for shape, dtype in arrays]
    found[name] = time_calls(update, placement.replicate(state))
  if jax.process_index() == 0:
    print(json.dumps(found))


def time_calls(update, state):
  """Median milliseconds until a call returns: clock, and calling thread."""
  import jax
  import numpy as np

  from byol_jax.distributed import placement

  batch = placement.shard({'x': np.ones((DEVICES, 4), np.float32)})
  times = []
  for _ in range(FIRST + CALLS):
    began = time.perf_counter(), time.thread_time()
    state, scalars = update(state, batch)
    ended = time.perf_counter(), time.thread_time()
    jax.block_until_ready((state, scalars))
    times.append([1e3 * (y - x) for x, y in zip(began, ended)])
  clock, thread = map(statistics.median, zip(*times[FIRST:]))
  return {'clock_ms': clock, 'thread_ms': thread}


def run_job(processes, states):
  """Runs a job; returns what its process 0 printed."""
  with socket.socket() as listener:
    listener.bind(('localhost', 0))
    port = listener.getsockname()[1]
  started = [
    subprocess.Popen(
      [
        *(sys.executable, __file__, '--measure'),
        f'localhost:{port},{processes},{i}' if processes > 1 else 'none',
      ],
      env=os.environ
      | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(DEVICES)},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    for i in range(processes)
  ]
  for process in started:
    process.stdin.write(json.dumps(states))
    process.stdin.close()
    process.stdin = None  # communicate() would flush it
  outputs = [process.communicate(timeout=1800)[0] for process in started]
  return json.loads(outputs[0].strip().splitlines()[-1])


def main():
  parser = results_file.make_parser(__doc__, rounds=3)
  parser.add_argument('--measure', help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.measure:
    measure(arguments.measure, json.load(sys.stdin))
    return
  states = list_states()
  rounds = [
    {count: run_job(count, states) for count in PROCESSES}
    for _ in range(arguments.rounds)
  ]
  curve = [
    {
      'processes': count,
      'state': name,
      'arrays': len(arrays),
      **{
        kind: round(statistics.median(r[count][name][kind] for r in rounds), 3)
        for kind in ('clock_ms', 'thread_ms')
      },
    }
    for count in PROCESSES
    for name, arrays in states.items()
  ]
  result = {
    'what': 'host milliseconds of a step call, medians over the rounds',
    'devices_of_a_process': DEVICES,
    'curve': sorted(curve, key=lambda row: (row['processes'], row['arrays'])),
    'rounds': rounds,
  }
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
