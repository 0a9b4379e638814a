"""Our programs of `gpu.py`: workers of `worker.py`, one a process.

The step is the package's: `experiment.build` makes the update, `multi_step`
maps it over the device with a packed and donated state, as in a run.
"""

import argparse
import os
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import worker
from byol_jax import api, configuration, experiment
from byol_jax.distributed import packing, placement
from byol_jax.training import multi_step


def make_config(arguments, preset, **values):
  """The configuration of a program."""
  config = configuration.load(preset, [*arguments.config])
  config.precision = arguments.precision
  with config.ignore_type():
    config.update_from_flattened_dict(values)
  return config


def leave_views(config):
  """Switches the augmentations off: lightly makes them elsewhere, on CPUs."""
  for view in config.augment.values():
    for name in ('flip', 'jitter', 'grayscale', 'blur', 'solarize'):
      view[name].probability = 0.0


class Step:
  """The update of a configuration, on views of noise on the device."""

  def __init__(self, config, num_examples, num_classes):
    built = experiment.build(config, num_examples, num_classes)
    self.images = config.batch_size
    update = multi_step.StreamedCalls(None).compile(built.update)
    self.state = placement.replicate(packing.pack(built.init_on_host()))
    shape = 1, self.images, config.image_size, config.image_size, 3
    rng = np.random.default_rng(0)
    batch = {f'view{i}': rng.random(shape, np.float32) for i in (1, 2)} | {
      'labels': rng.integers(0, num_classes, shape[:2], np.int32)
    }
    self.batch = placement.shard(batch)
    self.update = update.lower(self.state, self.batch)

  def compile(self):
    """Compiles the step and takes one; returns the seconds."""
    began = time.perf_counter()
    self.update = self.update.compile()
    self.run(1)
    return {'compile_seconds': round(time.perf_counter() - began, 1)}

  def run(self, count):
    """Takes steps and waits for them."""
    for _ in range(count):
      self.state, scalars = self.update(self.state, self.batch)
    loss = float(jax.block_until_ready(scalars)['byol_loss'][0])
    assert np.isfinite(loss), loss


def measure_product(size):
  """TFLOP/s of a product of two bfloat16 matrices of `size` rows."""
  make = lambda key: jax.random.normal(key, (size, size), jnp.bfloat16)
  left, right = map(make, jax.random.split(jax.random.key(0)))
  multiply = jax.jit(jnp.matmul)
  found = []
  for _ in range(6):
    began = time.perf_counter()
    for _ in range(20):
      product = multiply(left, right)
    jax.block_until_ready(product)
    found.append(20 * 2 * size**3 / (time.perf_counter() - began) / 1e12)
  return {'size': size, 'tflops': round(float(np.median(found[1:])), 1)}


def describe_device():
  """The device and the memory that the program has taken so far."""
  device = jax.devices()[0]
  peak = (device.memory_stats() or {}).get('peak_bytes_in_use', 0)
  return {'device': device.device_kind, 'peak_gib': round(peak / 2**30, 1)}


def serve_step(arguments):
  """The step of ResNet-50 at 224 pixels."""
  config = make_config(
    arguments,
    'pretrain:1000',
    batch_size=arguments.batch_size,
  )
  leave_views(config)
  step = Step(config, 10**6, 1000)

  def measure():
    found = worker.time_steps(
      step.run, step.images, arguments.rounds, arguments.seconds
    )
    found['batch_size'] = step.images
    found |= describe_device()
    if arguments.product:
      found['product'] = measure_product(arguments.product)
    return found

  worker.serve(step.compile, measure)


def count_operations(arguments):
  """Answers with the operations of the step for an image, by XLA.

  Before its optimisations; on a CPU, since it does not count for GPUs.
  """
  images = arguments.batch_size
  config = make_config(arguments, 'pretrain:1000', batch_size=images)
  leave_views(config)
  lowered = Step(config, 10**6, 1000).update
  flops = lowered.cost_analysis()['flops'] / images
  worker.answer({'gflops_of_an_image': round(flops / 1e9, 2)})


def serve_resident(arguments):
  """A run of `cifar10:200` on noise, and its update alone."""
  batch_size = arguments.batch_size
  rng = np.random.default_rng(0)
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'noise.npz')
    np.savez(
      path,
      images=rng.integers(0, 256, (arguments.images, 32, 32, 3), np.uint8),
      labels=np.arange(arguments.images) % 10,
    )
    config = make_config(
      arguments,
      'cifar10:200',
      **{
        'dataset': path,
        'batch_size': batch_size,
        'epochs': 0.0,
        'steps': arguments.log_steps * (arguments.rounds + 1),
        'log.every_steps': arguments.log_steps,
        'log.every_seconds': 0.0,
        'checkpoint.every_steps': 0,
        'eval.knn_every_steps': 0,
      },
    )
    step = Step(config, arguments.images, 10)
    worker.wait_for('compile')
    found, times = step.compile(), []

    def on_log(number, scalars):
      """The run compiles before its first line, and waits for its turn."""
      if not times:
        worker.answer(found)
        worker.wait_for('measure')
      times.append(time.perf_counter())

    api.pretrain(config, os.path.join(folder, 'run'), on_log=on_log)
  images = arguments.log_steps * batch_size
  run = worker.summarize(images / np.diff(times))
  alone = worker.time_steps(
    step.run, batch_size, arguments.rounds, arguments.seconds
  )
  worker.answer(
    {
      'run': run,
      'update_alone': alone,
      'run_over_update': run['images_per_second'] / alone['images_per_second'],
      'images_per_second': run['images_per_second'],
      'batch_size': batch_size,
      **describe_device(),
    }
  )


PROGRAMS = {
  'step': serve_step,
  'resident': serve_resident,
  'operations': count_operations,
}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('program', choices=list(PROGRAMS))
  parser.add_argument('--precision', required=True)
  parser.add_argument('--batch_size', type=int, required=True)
  parser.add_argument('--rounds', type=int, required=True)
  parser.add_argument('--seconds', type=float, required=True)
  parser.add_argument('--product', type=int, default=0)
  parser.add_argument('--images', type=int, default=50_000)
  parser.add_argument('--log_steps', type=int, default=100)
  arguments, arguments.config = parser.parse_known_args()
  PROGRAMS[arguments.program](arguments)


if __name__ == '__main__':
  main()
