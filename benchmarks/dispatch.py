"""Host time of one step call with the tree of the real ResNet-50 state.

PYTHONPATH=. python benchmarks/dispatch.py [--output=FILE.json] [--rounds=5]

A call of a compiled step costs the host time for each leaf of the state, and
more in a job of several processes, where every leaf is converted on the way in
and out. That is why a run packs its state (`distributed/packing.py`). This
measures the call alone, of the state of `pretrain:1000` as it is and packed,
each array cut to its first numbers, a body that only adds, the state donated;
one process with eight CPU devices, two with four each, in turns. The time is
until the call returns, not until it is computed.
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

CALLS = 60


def measure(distributed):
  """Prints the median milliseconds of a call, by the number of arrays."""
  import jax
  import numpy as np

  from byol_jax import configuration, experiment, parallel
  from byol_jax.distributed import packing, placement, processes

  processes.join_job(distributed, lambda: (None, {}))
  config = configuration.load('pretrain:1000')
  start = experiment.build(config, 10**6, 1000).initial_state
  update = placement.pmap(
    lambda s, b: (
      jax.tree.map(lambda x: x + 1, s),
      {'loss': parallel.mean(b['x'].sum())},
    ),
    donate_argnums=(0,),
  )
  found = {}
  for shapes in (
    jax.eval_shape(start),
    jax.eval_shape(lambda: packing.pack(start())),
  ):
    state = jax.tree.map(
      lambda x: np.zeros([min(n, 2) for n in x.shape], x.dtype), shapes
    )
    found[len(jax.tree.leaves(state))] = call_time(
      update, placement.replicate(state)
    )
  if jax.process_index() == 0:
    print(json.dumps(found))


def call_time(update, state):
  """Median milliseconds until a call returns."""
  import jax
  import numpy as np

  from byol_jax.distributed import placement

  batch = placement.shard(
    {'x': np.ones((jax.local_device_count(), 4), np.float32)}
  )
  times = []
  for number in range(CALLS + 5):
    began = time.perf_counter()
    state, scalars = update(state, batch)
    elapsed = time.perf_counter() - began
    jax.block_until_ready(scalars)
    if number >= 5:
      times.append(1e3 * elapsed)
  return statistics.median(times)


def job(processes, devices):
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
      | {
        'JAX_PLATFORMS': 'cpu',
        'JAX_NUM_CPU_DEVICES': str(devices),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
    for i in range(processes)
  ]
  outputs = [process.communicate(timeout=600)[0] for process in started]
  return json.loads(outputs[0].strip().splitlines()[-1])


def main():
  parser = results_file.make_parser(__doc__, rounds=5)
  parser.add_argument('--measure', help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.measure:
    measure(arguments.measure)
    return
  layouts = {
    'one_process_of_8_devices': (1, 8),
    'two_processes_of_4_devices': (2, 4),
  }
  rounds = [
    {name: job(*layout) for name, layout in layouts.items()}
    for _ in range(arguments.rounds)
  ]
  result = {
    'what': 'host milliseconds of a step call by the number of arrays of the'
    ' state: leaf by leaf, and packed; medians over the rounds',
    **{
      name: {
        arrays: statistics.median(found[name][arrays] for found in rounds)
        for arrays in rounds[0][name]
      }
      for name in layouts
    },
    'rounds': rounds,
  }
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
