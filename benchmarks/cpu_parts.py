"""What the parts of a training step take on CPUs.

PYTHONPATH=. python benchmarks/cpu_parts.py [--output=FILE.json] [--rounds=6]

The shapes of `cpu_steps.py`. `share` is of the time of all operations in a
trace of three steps, by what made them; a fusion counts as its last operation.
`ratio` compares whole steps in turns: the speed of a step with one part changed
over that of the step, medians over rounds; below 1 is slower. `plain update`:
SGD in place of LARS; `augmented`: the presets' augmentations. `target` is the
time of the target network's forward passes on two views, over that of the step.
"""

from collections import Counter
import os
import re
import tempfile

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax

from benchmarks import cpu_steps, timing
from byol_jax import configuration, experiment
from byol_jax.distributed import placement
from byol_jax.tools import bench_step
from byol_jax.training import profiling


def name_part(opcode, path):
  """The part of a step to which an operation belongs."""
  is_product = opcode in ('convolution', 'dot') or re.search(
    'conv_general_dilated|dot_general', path
  )
  if not path:
    kind = 'convolutions and products' if is_product else 'operations'
    return f'{kind} without a name'
  if re.search('batch_?norm', path):
    return 'batch norm'
  if 'reduce_window' in path or 'select_and_scatter' in path:
    return 'max pool'
  if is_product:
    is_backward = 'transpose(' in path
    return f'convolutions and products, {"back" if is_backward else "for"}ward'
  if re.search(r'jvp\(\w', path):
    return 'copies and the rest of the networks'
  return 'views and loss' if 'jvp(' in path else 'LARS, average, the rest'


def divide_time(built, batch):
  """Shares of the parts in a trace of three steps."""
  update = placement.pmap(
    lambda *args: built.update(*args), donate_argnums=(0,)
  )
  state = placement.replicate(built.init_on_host())
  compiled = update.lower(state, batch).compile()
  state, _ = compiled(state, batch)
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(3):
        state, _ = compiled(state, batch)
      jax.block_until_ready(state)
    times = profiling.sum_times(folder)
  found, made = (
    Counter(),
    {
      name: (opcode, path)
      for name, opcode, path in bench_step.list_operations(compiled.as_text())
    },
  )
  for name, spent in times.items():
    opcode, path = made.get(name, ('', ''))
    if opcode not in bench_step.OUTER:
      found[name_part(opcode, path)] += spent
  total = sum(found.values())
  return {name: spent / total for name, spent in found.most_common()}


def make_target_step(built, batch):
  """A function that runs the target network on both views."""
  state = built.init_on_host()

  def passes(params, net_state, views):
    for view in views:
      out, net_state = built.forward.apply(params, net_state, view, True)
      yield out.projection

  target = placement.pmap(lambda *args: tuple(passes(*args)))
  arguments = placement.replicate((state.target_params, state.target_state))
  views = batch['view1'], batch['view2']
  return lambda: jax.block_until_ready(target(*arguments, views))


def build_sgd(shape):
  """The experiment of a shape with SGD."""
  _, batch = cpu_steps.build(*shape)
  encoder, stem, size, batch_size = shape
  config = configuration.load('pretrain:1000', {'optimizer.name': 'sgd'})
  config.network.update({'encoder': encoder, 'stem': stem})
  config.update({'image_size': size, 'batch_size': batch_size})
  for view in config.augment.values():
    for name in ('flip', 'jitter', 'grayscale', 'blur', 'solarize'):
      view[name].probability = 0.0
  return experiment.build(config, 10**6, 1000), batch


def build_augmented(shape):
  """The experiment of a shape with the augmentations of the preset."""
  _, batch = cpu_steps.build(*shape)
  encoder, stem, size, batch_size = shape
  config = configuration.load('pretrain:1000')
  config.network.update({'encoder': encoder, 'stem': stem})
  config.update({'image_size': size, 'batch_size': batch_size})
  return experiment.build(config, 10**6, 1000), batch


def measure(shape, rounds):
  """Shares of the parts, and the ratios of whole steps."""
  built, batch = cpu_steps.build(*shape)
  steps = {
    'step': cpu_steps.make_step(built, batch),
    'plain update': cpu_steps.make_step(*build_sgd(shape)),
    'augmented': cpu_steps.make_step(*build_augmented(shape)),
    'target': make_target_step(built, batch),
  }
  for step in steps.values():
    step()
  times = timing.time_rounds(steps, rounds)
  ratios = {
    name: timing.median_ratios(times['step'], times[name])
    for name in ('plain update', 'augmented')
  }
  return {
    'share': divide_time(built, batch),
    'ratio': ratios,
    'target': timing.median_ratios(times['target'], times['step']),
    'milliseconds': 1e3 * timing.median_seconds(times['step'])['seconds'],
  }


if __name__ == '__main__':
  cpu_steps.run(
    __doc__,
    'parts of training steps on CPUs: shares of a trace, and ratios of whole'
    ' steps in turns',
    measure,
  )
