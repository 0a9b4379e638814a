"""Compares single functions with those of the reference: `primitives.npz`.

A key names its operation: `blur_0.9` is the blur with sigma 0.9, `lr1000` the
learning rate of the 1000-epoch preset, `lars/grad3/net/w` a leaf of the fourth
gradient.
"""

from collections.abc import Callable, Iterator, Mapping
import itertools
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from byol_jax import augment, configuration, losses, optimizers, schedules
from byol_jax.conformance import compare
from byol_jax.data import catalog

Arrays = Mapping[str, np.ndarray]

# The LARS steps of the vectors.
LARS_RATE = 0.7
LARS = {'weight_decay': 1.5e-6, 'momentum': 0.9, 'trust_coefficient': 1e-3}
# Large results are stored thinned out.
STRIDE = 16
# Near the end of a cosine, 1 + cos is a difference of float32 numbers near 1,
# with an error of 1e-7 of the peak: 1e-5 of the result up to 2 % of the peak.
RATE_FLOOR = 0.02

SCHEDULE = re.compile(r'(lr|tau)(\d+)')
OPERATION = re.compile(r'([a-z]+)_([+-]?\d+(?:\.\d+)?)')
LARGE_BLUR = re.compile(r'blur\d+_(\d+(?:\.\d+)?)')
LARS_KEY = re.compile(r'lars/(init|final|grad\d+)/(.+)/([^/]+)')
INPUTS = ('steps', 'loss_x', 'loss_y', 'img', 'big')


def _clip_colour(adjust: Callable) -> Callable[[Any, float], Any]:
  return lambda x, value: augment.clip(adjust(x, jnp.float32(value)))


OPERATIONS: Mapping[str, Callable[[Any, float], Any]] = {
  'bright': _clip_colour(augment.adjust_brightness),
  'contrast': _clip_colour(augment.adjust_contrast),
  'sat': _clip_colour(augment.adjust_saturation),
  'hue': _clip_colour(augment.adjust_hue),
  'blur': lambda x, sigma: augment.gaussian_blur(x, jnp.float32(sigma)),
  'solarize': augment.invert_above,
}
PLAIN: Mapping[str, Callable[[Any], Any]] = {
  'hsv': augment.rgb_to_hsv,
  'gray': augment.to_grayscale,
}


def is_input(key: str) -> bool:
  """Returns whether a key holds what a function was given."""
  match = LARS_KEY.fullmatch(key)
  return key in INPUTS or bool(match and match[1] != 'final')


def compare_primitives(arrays: Arrays) -> Iterator[compare.Comparison]:
  """Yields a comparison for every key of `primitives.npz` that is known."""
  yield from _compare_lars(arrays)
  for key in arrays:
    yield from _compare_key(key, arrays)


def _compare_key(key: str, arrays: Arrays) -> Iterator[compare.Comparison]:
  theirs = arrays[key]
  if (match := SCHEDULE.fullmatch(key)) and 'steps' in arrays:
    yield _compare_schedule(match[1], match[2], arrays['steps'], theirs)
  elif key == 'loss' and {'loss_x', 'loss_y'} <= arrays.keys():
    x, y = jnp.asarray(arrays['loss_x']), jnp.asarray(arrays['loss_y'])
    ours = losses.regression_loss(x, y)
    yield compare.compare_arrays('primitives: loss', key, ours, theirs)
  elif (match := LARGE_BLUR.fullmatch(key)) and 'big' in arrays:
    image = jnp.asarray(arrays['big'], jnp.float32)
    ours = augment.gaussian_blur(image, jnp.float32(float(match[1])))
    ours = ours[::STRIDE, ::STRIDE]
    yield compare.compare_arrays('primitives: large blur', key, ours, theirs)
  elif 'img' in arrays:
    image = jnp.asarray(arrays['img'][0])
    match = OPERATION.fullmatch(key)
    if key in PLAIN:
      ours = PLAIN[key](image)
      yield compare.compare_arrays(f'primitives: {key}', key, ours, theirs)
    elif match and match[1] in OPERATIONS:
      ours = OPERATIONS[match[1]](image, float(match[2]))
      group = f'primitives: {match[1]}'
      yield compare.compare_arrays(group, key, ours, theirs)


def _compare_schedule(
  kind: str, epochs: str, steps: np.ndarray, theirs: np.ndarray
) -> compare.Comparison:
  """Compares the learning rate or tau of an ImageNet preset at some steps."""
  images = catalog.find_facts('imagenet2012').num_train  # type: ignore[union-attr]
  config = configuration.load(f'configs/pretrain.py:{epochs}')
  total, warmup = (
    schedules.num_steps(length, images, config.batch_size)
    for length in (config.epochs, config.schedule.warmup_epochs)
  )
  peak = config.schedule.base_rate * config.batch_size / 256
  floor = 0.0
  if kind == 'lr':
    function, floor = schedules.warmup_cosine(peak, warmup, total), RATE_FLOOR
  else:
    function = schedules.tau(total_steps=total, **config.target)
  ours, key = [function(step) for step in steps], f'{kind}{epochs}'
  return compare.compare_scalars(
    f'primitives: {key}', key, ours, theirs, floor * peak
  )


def _compare_lars(arrays: Arrays) -> Iterator[compare.Comparison]:
  """Takes as many steps of LARS as there are gradients."""
  trees: dict[str, Any] = {}
  theirs = {}
  for key, value in arrays.items():
    if match := LARS_KEY.fullmatch(key):
      tree, module, leaf = match.groups()
      trees.setdefault(tree, {}).setdefault(module, {})[leaf] = value
      if tree == 'final':
        theirs[f'{module}/{leaf}'] = value
  if not {'init', 'final'} <= trees.keys():
    return
  optimizer = optimizers.lars(lambda _: LARS_RATE, **LARS)
  params = trees['init']
  state = optimizer.init(params)
  names = (f'grad{i}' for i in itertools.count())
  for name in itertools.takewhile(trees.__contains__, names):
    updates, state = optimizer.update(trees[name], state, params)
    params = optax.apply_updates(params, updates)
  yield from compare.compare_trees(
    'primitives: lars', params, theirs, 'lars/final/', separator='/'
  )
