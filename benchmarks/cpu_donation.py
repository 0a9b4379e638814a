"""Speed of CPU steps that write the new state over the old one, or do not.

PYTHONPATH=. python benchmarks/cpu_donation.py [--output=FILE.json] [--rounds=6]

The steps of `cpu_steps.py`: with a donated state, and as `placement.map_step`
maps them, which on a CPU donates none. Each has a process of its own, since
memory matters; they take steps in turns. `ratio` is the speed over that of the
first. Both must give the same loss.
"""

import functools
import json
import os
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from benchmarks import cpu_steps, timing
from byol_jax.distributed import placement

PROGRAMS = {
  'donated': functools.partial(placement.pmap, donate_argnums=(0,)),
  'not donated': placement.map_step,
}


def work(program, shape):
  """Takes steps of one program for `measure`."""
  placement.map_step = PROGRAMS[program]
  step = cpu_steps.make_step(*cpu_steps.build(*json.loads(shape)))
  loss = float(step()['total_loss'][0])
  step()  # the first has new memory
  timing.serve_steps(step, loss)


def measure(shape, rounds):
  """Images per second and ratios to the donated program."""
  commands = {
    program: ([__file__, 'work', program, json.dumps(shape)], None)
    for program in PROGRAMS
  }
  losses, times = timing.time_workers(commands, rounds)
  assert len(set(losses.values())) == 1, losses
  return {
    program: {
      'images_per_second': shape[-1] / timing.median_seconds(x)['seconds'],
      **timing.median_ratios(times['donated'], x),
    }
    for program, x in times.items()
  }


if __name__ == '__main__':
  if sys.argv[1:2] == ['work']:
    work(*sys.argv[2:])
  else:
    cpu_steps.run(
      __doc__,
      'training steps on CPUs with a donated state and without, in turns;'
      ' ratios of the speed to that of the first, medians over rounds',
      measure,
    )
