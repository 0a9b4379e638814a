"""Speed of CPU steps by what becomes of their memory.

PYTHONPATH=. python benchmarks/cpu_memory.py [--output=FILE.json] [--rounds=6]

The steps of `cpu_steps.py` and one of a small network, in turns, each in a
process of its own:

  a heap a thread  glibc's default, as runs of small networks have it
  one heap         as runs of large networks have it
  donated          the same, and the new state is written over the old one

`ratio` is the speed over that of the first. All must give the same loss.
"""

import functools
import json
import os
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from benchmarks import cpu_steps, timing
from byol_jax.distributed import placement

SHAPES = cpu_steps.SHAPES | {'mini_32': ('MiniResNet', 'small_stride2', 32, 64)}
PROGRAMS = {
  # glibc's default: eight for each core.
  'a heap a thread': {'MALLOC_ARENA_MAX': str(8 * (os.cpu_count() or 1))},
  'one heap': {'MALLOC_ARENA_MAX': '1'},
  'donated': {'MALLOC_ARENA_MAX': '1'},
}


def work(program, shape):
  """Takes steps of one program for `measure`."""
  if program == 'donated':
    donating = functools.partial(placement.pmap, donate_argnums=(0,))
    placement.map_step = donating
  step = cpu_steps.make_step(*cpu_steps.build(*json.loads(shape)))
  loss = float(step()['total_loss'][0])
  step()  # the first has new memory
  timing.serve_steps(step, loss)


def measure(shape, rounds):
  """Images per second and ratios to the first program."""
  losses, times = cpu_steps.time_workers(__file__, PROGRAMS, shape, rounds)
  assert len(set(losses.values())) == 1, losses
  return {
    program: {
      'images_per_second': shape[-1] / timing.median_seconds(x)['seconds'],
      **timing.median_ratios(times['a heap a thread'], x),
    }
    for program, x in times.items()
  }


if __name__ == '__main__':
  if sys.argv[1:2] == ['work']:
    work(*sys.argv[2:])
  else:
    cpu_steps.run(
      __doc__,
      'training steps on CPUs by their memory, in turns; ratios of the speed to'
      ' that of the first, medians over rounds',
      measure,
      shapes=SHAPES,
    )
