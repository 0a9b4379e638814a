"""Where a run goes on: after a restart, and after steps that were not finite.

Process 0 reads its checkpoint, or draws the beginning; all others get what it
has.
"""

import jax
import numpy as np

from byol_jax import experiment as experiments
from byol_jax.checkpoints import checkpointer
from byol_jax.distributed import placement, processes
from byol_jax.training import loop


def restored(
  saved: checkpointer.Checkpointer | None,
  experiment: experiments.Experiment,
  name: str,
) -> loop.Start:
  """Where the run goes on: process 0's last checkpoint, or the beginning.

  Args:
    saved: None but in process 0.
    experiment: whose state it is.
    name: of this occasion, once in a job.

  Raises:
    DataError: there are checkpoints, but none that can be used.
  """
  shapes = jax.eval_shape(experiment.initial_state)
  found = processes.raise_on_all(
    f'{name}/checkpoint',
    lambda: saved.restore_newest(shapes) if saved else None,
  )
  step, offset = 0, 0
  if found is not None:
    step, state, meta = found
    offset = meta.get('data_offset', 0)
  elif jax.process_index() == 0:
    state = experiment.init_on_host()
  else:
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  facts = {'step': step, 'offset': offset, 'is_resumed': found is not None}
  facts = processes.broadcast_json(f'{name}/facts', facts)
  # The beginning too: two kinds of hosts need not draw the same bits.
  return loop.Start(state=placement.broadcast_arrays(state), **facts)


def back(
  saved: checkpointer.Checkpointer | None,
  experiment: experiments.Experiment,
  start: loop.Start,
  step: int,
  number: int,
) -> loop.Start:
  """The last checkpoint, and an offset past the images until `step`."""
  if saved is not None:
    saved.wait()
  found = restored(saved, experiment, f'rollback {number}')
  return found._replace(offset=start.offset + step - found.step)


def stays(saved: checkpointer.Checkpointer | None) -> str:
  """What a diverged run leaves, and what to try."""
  step = None if saved is None else saved.latest_step()
  left = 'no checkpoint yet' if step is None else f'checkpoint {step} stays'
  return f'{left}; lower schedule.base_rate or lengthen schedule.warmup_epochs'
