"""Training steps per second on CPUs, with and without the forms for CPUs.

PYTHONPATH=. python benchmarks/cpu_steps.py [--output=FILE.json] [--rounds=6]

The step of `pretrain:1000` without augmentation, by the encoder, the image size
and the batch size, of two programs in turns: all convolutions plain, and those
of `convolution.py`. Compare the ratios: on a busy machine the images per second
say little, CPU seconds (`cpu_ratio`) more.
"""

import json
import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import numpy as np

from benchmarks import results_file, timing
from byol_jax import configuration, convolution, experiment
from byol_jax.distributed import placement
from byol_jax.training import hardware

# Encoder, stem, image size, batch size.
SHAPES = {
  'resnet18_64': ('ResNet18', 'imagenet', 64, 32),
  'resnet50_224': ('ResNet50', 'imagenet', 224, 8),
  'resnet18_96': ('ResNet18', 'imagenet', 96, 32),
  'resnet18_32_small': ('ResNet18', 'small', 32, 64),
}
PROGRAMS = {
  'plain': lambda plain, *args, **forms: plain,
  'forms': convolution.choose_form,
}


def build(
  encoder, stem, size, batch_size, *, optimizer='lars', augmented=False
):
  """The experiment, and a batch of noise for the devices."""
  config = configuration.load('pretrain:1000', {'optimizer.name': optimizer})
  config.network.update({'encoder': encoder, 'stem': stem})
  config.update({'image_size': size, 'batch_size': batch_size})
  hardware.share_one_heap(config)  # as a run does
  if not augmented:
    for view in config.augment.values():
      for name in ('flip', 'jitter', 'grayscale', 'blur', 'solarize'):
        view[name].probability = 0.0
  rng = np.random.default_rng(0)
  rows = jax.device_count(), batch_size // jax.device_count()
  batch = {
    name: rng.random((*rows, size, size, 3), np.float32)
    for name in ('view1', 'view2')
  }
  batch['labels'] = rng.integers(0, 1000, rows, np.int32)
  return experiment.build(config, 10**6, 1000), batch


def make_step(built, batch):
  """A function that takes one step and returns its scalars."""
  hardware.keep_freed_memory()  # as a run does
  # A new function, so that JAX traces it again.
  update = placement.map_step(lambda *args: built.update(*args))
  state = placement.replicate(built.init_on_host())

  def step():
    nonlocal state
    state, scalars = update(state, batch)
    jax.block_until_ready(state)
    return scalars

  return step


def measure(shape, rounds):
  """Images per second and ratios to the plain program, {program: figures}."""
  built, batch = build(*shape)
  steps, losses = {}, {}
  for name, convolution.choose_form in PROGRAMS.items():
    steps[name] = make_step(built, batch)
    losses[name] = float(steps[name]()['total_loss'][0])
  np.testing.assert_allclose(list(losses.values()), losses['plain'], rtol=1e-5)
  times = timing.time_rounds(steps, rounds)
  found = {}
  for name in steps:
    seconds = timing.median_seconds(times[name])['seconds']
    found[name] = {
      'images_per_second': shape[-1] / seconds,
      'best_images_per_second': shape[-1] / min(times[name])[0],
      **timing.median_ratios(times['plain'], times[name]),
    }
  return found


def time_workers(path, programs, shape, rounds):
  """As `timing.time_workers`, for `PATH work PROGRAM SHAPE`.

  `programs` are {name: variables of the environment}.
  """
  commands = {
    name: ([path, 'work', name, json.dumps(shape)], os.environ | variables)
    for name, variables in programs.items()
  }
  return timing.time_workers(commands, rounds)


def run(page, what, measure_shape, packages=(), shapes=SHAPES):
  """Measures the shapes of the command line and writes the result."""
  parser = results_file.make_parser(page, rounds=6)
  parser.add_argument('--shapes', nargs='+', default=list(shapes))
  arguments = parser.parse_args()
  result = {'what': what, 'rounds': arguments.rounds, 'shapes': {}}
  for name in arguments.shapes:
    figures = measure_shape(shapes[name], arguments.rounds)
    figures['load_average'] = os.getloadavg()[0]
    result['shapes'][name] = figures
    print(name, json.dumps(figures), flush=True)
  results_file.write_result(result, arguments.output, packages)


if __name__ == '__main__':
  run(
    __doc__,
    'training steps on CPUs; ratios of the speed to that of the plain program,'
    ' medians over rounds',
    measure,
  )
