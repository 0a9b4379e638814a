"""One process of a job that the tests of several processes start.

python job_worker.py WORKDIR DISTRIBUTED [--key=value ...]: 20 steps of a tiny
run, with views that are a function of the step and of each image's place in
the global batch. Keys of the configuration as on the command line; and
`--hook=NAME`: which fault happens, see `do_fault`; `--drift=STEP`: the last
device's state changes by one bit; `--augment=paper`: more than flips;
`--small=SIZE`: of the largest array that `shard_optimizer` leaves whole. Exits
as `byol-jax` does.
"""

import hashlib
import os
import signal
import sys
import time

import jax
import numpy as np

from byol_jax import api, configuration, errors, parallel
from byol_jax.cli import console
from byol_jax.data.loading import image_set, thread_engine
from byol_jax.data.sources import arrays
from byol_jax.distributed import placement, processes
from byol_jax.training import loop, provenance
from tests.helpers import tiny_config, tiny_run

CONFIG = {
  'image_size': 32,
  'batch_size': 16,
  'epochs': 10.0,  # 20 steps
  'checkpoint.every_minutes': 0.0,
  'log.every_steps': 5,
  'shard_optimizer': False,
}
OPTIONS = {
  **{'hook': '', 'drift': '', 'augment': 'flip'},
  **{'startup': '60', 'heartbeat': '10', 'small': ''},
}


def is_last():
  return jax.process_index() == jax.process_count() - 1


def do_fault(hook, step, batch):
  """What happens to this process while it makes the batch of a step."""
  is_here = jax.process_index() == 0 if hook == 'first_dies' else is_last()
  if is_here:
    if (hook == 'poison' and step == 5) or (hook == 'poison_on' and step >= 5):
      batch['view1'][-1, 3, 4, 1] = np.nan
    elif hook == 'term' and step == 8:
      os.kill(os.getpid(), signal.SIGTERM)
    elif hook in ('dies', 'first_dies') and step == 8:
      os.kill(os.getpid(), signal.SIGKILL)
    elif hook == 'hangs' and step == 8:
      time.sleep(300)
    elif hook == 'refuses' and step == 8:
      raise errors.DataError('shard 7: cannot be read')
  if hook == 'term':
    time.sleep(0.3)  # longer than JAX takes to tell the other processes


class Places:
  """32 images; this process makes its part of each batch."""

  num_examples = 32
  num_classes = 4
  fingerprint = hashlib.sha256(b'places').hexdigest()

  def __init__(self, hook):
    self.hook = hook
    if hook == 'other_set' and is_last():
      self.num_examples = 31

  def view_batches(self, batch_size, start_step, num_steps):
    """[local devices, per device, ...] of each step."""
    local = jax.local_device_count()
    per_device = batch_size // jax.device_count()
    first = jax.process_index() * local * per_device
    places = np.arange(first, first + local * per_device)
    # With float64 enabled, all of the state gets that type.
    kind = np.float64 if jax.config.jax_enable_x64 else np.float32
    for step in range(start_step, start_step + num_steps):
      batch = {}
      for view, name in enumerate(('view1', 'view2')):
        generators = [np.random.default_rng((step, p, view)) for p in places]
        images = [tiny_run.patches(each, 1, 32) for each in generators]
        batch[name] = np.concatenate(images).astype(kind)
      batch['labels'] = (places % 4).astype(np.int32)
      do_fault(self.hook, step, batch)
      print(f'batch {step} {digests(batch)}', flush=True)
      yield tiny_run.divided(batch, local)


def digests(batch):
  """By image, so that it does not matter which process makes it."""
  rows = zip(*(batch[name] for name in sorted(batch)))
  found = [hashlib.sha256(b''.join(x.tobytes() for x in row)) for row in rows]
  return ','.join(digest.hexdigest()[:8] for digest in found)


def spoil_state(at_step):
  """At each save from this step on, the last device's state has another bit."""
  save = loop.save_checkpoint

  def save_spoiled(context, step, state, data_offset):
    if step >= at_step and is_last():
      kind = next(kind for kind in state.small if kind.startswith('float32'))
      rows = [np.asarray(x.data) for x in state.small[kind].addressable_shards]
      whole = np.concatenate(rows)
      whole.view(np.uint32)[-1].flat[0] ^= 1
      state.small[kind] = placement.shard(whole)
    save(context, step, state, data_offset)

  loop.save_checkpoint = save_spoiled


def load_evaluation(split):
  """A split of labelled images, this process's part of it."""
  count = 22 if split == 'train' else 13
  images = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3))
  return image_set.ImageSet(
    arrays.ArraySource(images.astype(np.uint8), np.arange(count) % 4),
    engine=thread_engine.decode_into,
    crop_ranges=(),
    image_size=32,
    eval_crop='whole',
    transfer='float32',
    max_bad_share=0.0,
    seed=0,
    local_devices=jax.local_device_count(),
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def main(path, distributed, *arguments):
  values, options = dict(CONFIG), dict(OPTIONS)
  for argument in arguments:
    key, _, value = argument.removeprefix('--').partition('=')
    if key in options:
      options[key] = value
    else:
      values[key] = type(values.get(key, 0))(float(value))
  if options['augment'] == 'flip':
    values |= tiny_config.FLIP_ONLY

  def load():
    # The paper's optimizer. Adam divides the gradient of a bias before a batch
    # norm, which is rounding alone, by itself: with it one device and four
    # differ by a hundredth where LARS keeps a millionth.
    small = tiny_config.SMALL | values
    config = configuration.load('pretrain:300', small)
    return config, provenance.describe_job(config.to_dict())

  config, described = processes.join_job(
    distributed,
    load,
    startup_seconds=float(options['startup']),
    heartbeat_seconds=int(options['heartbeat']),
  )
  print(described, flush=True)
  if options['small']:
    parallel._SMALL = int(options['small'])
  if options['drift']:
    spoil_state(int(options['drift']))
  api.pretrain_on(Places(options['hook']), config, path, load_evaluation)


if __name__ == '__main__':
  try:
    main(*sys.argv[1:])
  except errors.UserError as error:
    print(f'byol_jax: {error}', flush=True)
    if not error.is_everywhere:
      console.exit_without_barrier(error.exit_code)
    sys.exit(error.exit_code)
