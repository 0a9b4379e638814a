"""What the parts of a training step take on CPUs.

PYTHONPATH=. python benchmarks/cpu_parts.py [--output=FILE.json] [--rounds=6]

The shapes of `cpu_steps.py`. `share` is that of `byol-jax bench step`. `ratio`
compares whole steps in turns: the time of the step over that with SGD in place
of LARS (`plain update`), and over that with the presets' augmentations
(`augmented`); medians over rounds.
"""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax

from benchmarks import cpu_steps, timing
from byol_jax.distributed import placement
from byol_jax.tools import bench_step


def divide_time(built, batch):
  """Shares of the parts in a trace of some steps."""
  update = placement.map_step(built.update)
  state = placement.replicate(built.init_on_host())
  compiled = update.lower(state, batch).compile()

  def take(count):
    nonlocal state
    for _ in range(count):
      state, _ = compiled(state, batch)
    jax.block_until_ready(state)

  take(1)
  return bench_step.divide_time(compiled.as_text(), take, 3)


def measure(shape, rounds):
  """Shares of the parts, and the ratios of whole steps."""
  experiments = {
    'step': cpu_steps.build(*shape),
    'plain update': cpu_steps.build(*shape, optimizer='sgd'),
    'augmented': cpu_steps.build(*shape, augmented=True),
  }
  steps = {
    name: cpu_steps.make_step(*built) for name, built in experiments.items()
  }
  for step in steps.values():
    step()
  times = timing.time_rounds(steps, rounds)
  seconds = timing.median_seconds(times['step'])['seconds']
  return {
    'share': divide_time(*experiments['step']),
    'images_per_second': shape[-1] / seconds,
    'ratio': {
      name: timing.median_ratios(times['step'], times[name])
      for name in ('plain update', 'augmented')
    },
  }


if __name__ == '__main__':
  cpu_steps.run(
    __doc__,
    'parts of training steps on CPUs: shares of a trace, and ratios of whole'
    ' steps in turns',
    measure,
  )
