"""Time and memory of a step with sub-batches, on a CPU.

PYTHONPATH=. python benchmarks/accumulate.py [--output=FILE.json] [--rounds=5]

One device, the step of `small/cifar10:cpu` at a batch of 256: whole, in
sub-batches by a loop, and by the same loop unrolled. Compare the ratios: on a
busy machine seconds say little, CPU seconds (`cpu_ratio`) more.
"""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import time

import jax
import numpy as np

from benchmarks import results_file, timing
from byol_jax import configuration, experiment
from byol_jax.distributed import placement

BATCH_SIZE = 256
# Sub-batches, and whether their loop is unrolled.
PROGRAMS = {
  'whole': (1, False),
  '4 in a loop': (4, False),
  '4 unrolled': (4, True),
}
SCAN = jax.lax.scan


def compile_step(accumulate, unroll):
  """A function that takes one step; what compiling it took, and its bytes."""
  jax.lax.scan = lambda *args, **_: SCAN(*args, unroll=unroll)
  values = {'batch_size': BATCH_SIZE, 'batch.accumulate': accumulate}
  config = configuration.load('cifar10:cpu', values)
  built = experiment.build(config, 50_000, 10)
  rng = np.random.default_rng(0)
  shape = (1, BATCH_SIZE, config.image_size, config.image_size, 3)
  batch = placement.shard(
    {
      'view1': rng.random(shape, np.float32),
      'view2': rng.random(shape, np.float32),
      'labels': rng.integers(0, 10, shape[:2], np.int32),
    }
  )
  state = placement.replicate(built.init_on_host())
  update = placement.pmap(lambda *args: built.update(*args))
  began = time.perf_counter()
  compiled = update.lower(state, batch).compile()
  facts = {
    'compile_seconds': round(time.perf_counter() - began, 1),
    'temp_bytes': compiled.memory_analysis().temp_size_in_bytes,
  }

  jax.lax.scan = SCAN

  def step():
    jax.block_until_ready(update(state, batch))

  return step, facts


def main():
  """Measures all programs; prints and writes the result."""
  arguments = results_file.make_parser(__doc__, rounds=5).parse_args()
  steps, result = {}, {}
  for name, program in PROGRAMS.items():
    steps[name], result[name] = compile_step(*program)
    print(name, result[name], flush=True)
    steps[name]()
  times = timing.time_rounds(steps, arguments.rounds)
  for name, found in times.items():
    result[name] |= timing.median_seconds(found)
    result[name] |= timing.median_ratios(found, times['whole'])
  result = {'batch_size': BATCH_SIZE, 'programs': result}
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
