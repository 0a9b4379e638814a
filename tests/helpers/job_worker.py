"""One process of a job that the tests of several processes start.

python job_worker.py WORKDIR DISTRIBUTED [--key=value ...]: a tiny run of 20
steps, by `train.run`, with views that are a function of the step and of each
image's place in the global batch. Keys of the configuration as on the command
line; and `--hook=NAME`: what goes wrong, see `HOOKS`. Exits as `byol_jax`.
"""

import hashlib
import os
import signal
import sys
import time

import jax
import numpy as np

from byol_jax import errors
from byol_jax.cli import console
from byol_jax.distributed import placement, processes
from byol_jax.training import loop, provenance, train
from tests.helpers import tiny_config, tiny_run

CONFIG = {
  **tiny_config.FLIP_ONLY,
  'image_size': 32,
  'batch_size': 16,
  'epochs': 10.0,  # 20 steps
  'checkpoint.every_minutes': 0.0,
  'log.every_steps': 5,
}


class Places:
  """32 images; this process makes its part of each batch."""

  num_examples = 32
  num_classes = 4
  fingerprint = hashlib.sha256(b'places').hexdigest()

  def __init__(self, hook):
    self.hook = hook
    if hook is other_set and is_last():
      self.num_examples = 31

  def view_batches(self, batch_size, start_step, num_steps):
    """[local devices, per device, ...] of each step."""
    local = jax.local_device_count()
    per_device = batch_size // jax.device_count()
    first = jax.process_index() * local * per_device
    for step in range(start_step, start_step + num_steps):
      batch = {
        name: np.concatenate(
          [
            tiny_run.patches(np.random.default_rng((step, place, view)), 1, 32)
            for place in range(first, first + local * per_device)
          ]
        )
        for view, name in enumerate(('view1', 'view2'))
      }
      if jax.config.jax_enable_x64:  # and so all of the state
        batch = {name: view.astype(np.float64) for name, view in batch.items()}
      batch['labels'] = np.arange(first, first + local * per_device) % 4
      batch['labels'] = batch['labels'].astype(np.int32)
      self.hook(step, batch)
      print(f'batch {step} {digest(batch)}', flush=True)
      yield {k: v.reshape(local, -1, *v.shape[1:]) for k, v in batch.items()}


def digest(batch):
  """By image, so that it does not depend on who made it."""
  rows = zip(*(batch[name] for name in sorted(batch)))
  return ','.join(
    hashlib.sha256(b''.join(np.asarray(x).tobytes() for x in row)).hexdigest()[
      :8
    ]
    for row in rows
  )


def is_last():
  return jax.process_index() == jax.process_count() - 1


def nothing(step, batch):
  """All is well."""


def poison(step, batch):
  """One image of one device of the last process is not finite."""
  if is_last() and step == 5:
    batch['view1'][-1, 3, 4, 1] = np.nan


def poison_for_ever(step, batch):
  if is_last() and step >= 5:
    batch['view1'][-1, 3, 4, 1] = np.nan


def term(step, batch):
  """SIGTERM to the last process alone, in the midst of the run."""
  if is_last() and step == 8:
    os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(0.3)  # as long as the word takes to go round


def die(step, batch):
  """The last process is gone without a word."""
  if is_last() and step == 8:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(step, batch):
  """The last process sleeps; the others wait for it in a collective."""
  if is_last() and step == 8:
    time.sleep(300)


def refuse(step, batch):
  """The last process meets an error of its own."""
  if is_last() and step == 8:
    raise errors.DataError('shard 7: cannot be read')


def other_set(step, batch):
  """The last process reads another set under the same name."""


def die_first(step, batch):
  """Process 0, the coordinator, is gone without a word."""
  if jax.process_index() == 0 and step == 8:
    os.kill(os.getpid(), signal.SIGKILL)


HOOKS = {
  f.__name__: f
  for f in (
    nothing,
    other_set,
    die_first,
    poison,
    poison_for_ever,
    term,
    die,
    hang,
    refuse,
  )
}


def main(path, distributed, *arguments):
  values, options = dict(CONFIG), {'hook': 'nothing', 'drift': ''}
  for argument in arguments:
    key, _, value = argument.removeprefix('--').partition('=')
    if key in ('hook', 'drift', 'startup', 'heartbeat'):
      options[key] = value
    else:
      values[key] = type(values.get(key, 0))(float(value))

  def load():
    # The paper's optimiser. Adam divides the gradient of a bias before a batch
    # norm, which is rounding alone, by itself: with it one device and four
    # part by a hundredth where LARS keeps a millionth.
    config = tiny_config.tiny(
      'pretrain:300',
      **{key.replace('.', '__'): value for key, value in values.items()},
    )
    return config, provenance.facts(config.to_dict())

  config, described = processes.join_job(
    distributed,
    load,
    startup_seconds=float(options.get('startup', 60)),
    heartbeat_seconds=int(options.get('heartbeat', 10)),
  )
  print(described, flush=True)
  if options['drift']:
    spoil(int(options['drift']))
  train.run(config, path, Places(HOOKS[options['hook']]))


def spoil(at_step):
  """After this many calls the last device of this process drifts by one bit."""
  save = loop.save

  def drifted(parts, step, state, offset):
    if step >= at_step and is_last():
      kind = next(kind for kind in state.small if kind.startswith('float32'))
      rows = [np.asarray(x.data) for x in state.small[kind].addressable_shards]
      whole = np.concatenate(rows)
      whole.view(np.uint32)[-1].flat[0] ^= 1
      state.small[kind] = placement.shard(whole)
    save(parts, step, state, offset)

  loop.save = drifted


if __name__ == '__main__':
  try:
    main(*sys.argv[1:])
  except errors.UserError as error:
    print(f'byol_jax: {error}', flush=True)
    if not error.is_everywhere:
      console.part(error.exit_code)
    sys.exit(error.exit_code)
