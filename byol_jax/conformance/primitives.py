"""Compares single functions with those of the reference: `primitives.npz`.

A key names its operation: `blur_0.9` is the blur with sigma 0.9, `lr1000` the
learning rate of the 1000-epoch preset, `lars/grad3/net/w` a leaf of the fourth
gradient.
"""

from collections.abc import Callable, Iterator, Mapping
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from byol_jax import augment, configuration, losses, optimizers, schedules
from byol_jax.conformance import compare
from byol_jax.data import catalog

Arrays = Mapping[str, np.ndarray]

# The LARS steps of the vectors.
LARS_RATE = 0.7
LARS: dict[str, Any] = {
  'weight_decay': 1.5e-6,
  'momentum': 0.9,
  'trust_coefficient': 1e-3,
}
# Large results are stored thinned out.
STRIDE = 16
# Near the end of a cosine, 1 + cos is a difference of float32 numbers near 1,
# with an error of 1e-7 of the peak: 1e-5 of the result up to 2 % of the peak.
RATE_FLOOR = 0.02

SCHEDULE = re.compile(r'(lr|tau)(\d+)')
LARS_KEY = re.compile(r'lars/(init|final|grad\d+)/(.+)/([^/]+)')
INPUTS = ('steps', 'loss_x', 'loss_y', 'img', 'big')
_NUMBER = r'([+-]?\d+(?:\.\d+)?)'


def _adjust_hsv(image: Any, factor: float, delta: float) -> Any:
  rgb = augment.adjust_hsv(augment.split(image), factor, delta)
  return augment.clip(augment.join(rgb))


# Group, pattern of the keys, inputs, function of these and the key's number.
FUNCTIONS: tuple[tuple[str, str, tuple[str, ...], Callable], ...] = (
  ('loss', 'loss', ('loss_x', 'loss_y'), losses.regression_loss),
  (
    'hsv',
    'hsv',
    ('img',),
    lambda x: augment.join(augment.rgb_to_hsv(augment.split(x[0]))),
  ),
  ('gray', 'gray', ('img',), lambda x: augment.to_grayscale(x[0])),
  *(
    (name, f'{name}_{_NUMBER}', ('img',), function)
    for name, function in {
      'bright': lambda x, v: augment.clip(augment.adjust_brightness(x[0], v)),
      'contrast': lambda x, v: augment.clip(augment.adjust_contrast(x[0], v)),
      'sat': lambda x, v: _adjust_hsv(x[0], v, 0.0),
      'hue': lambda x, v: _adjust_hsv(x[0], 1.0, v),
      'blur': lambda x, sigma: augment.gaussian_blur(x[0], sigma),
      'solarize': lambda x, v: augment.invert_above(x[0], v),
    }.items()
  ),
  (
    *('large blur', rf'blur\d+_{_NUMBER}', ('big',)),
    lambda x, sigma: augment.gaussian_blur(x, sigma)[::STRIDE, ::STRIDE],
  ),
)


def is_input(key: str) -> bool:
  """Returns whether a key holds what a function was given."""
  match = LARS_KEY.fullmatch(key)
  return key in INPUTS or bool(match and match[1] != 'final')


def compare_primitives(arrays: Arrays) -> Iterator[compare.Comparison]:
  """Yields a comparison for every key of `primitives.npz` that is known."""
  yield from _compare_lars(arrays)
  for key, theirs in arrays.items():
    if (match := SCHEDULE.fullmatch(key)) and 'steps' in arrays:
      yield _compare_schedule(match[1], match[2], arrays['steps'], theirs)
    for group, pattern, inputs, function in FUNCTIONS:
      match = re.fullmatch(pattern, key)
      if match and arrays.keys() >= set(inputs):
        values = [arrays[name] for name in inputs] + [
          *map(float, match.groups())
        ]
        ours = jax.jit(function)(*(jnp.float32(v) for v in values))
        yield compare.compare_arrays(f'primitives: {group}', key, ours, theirs)


def _compare_schedule(
  kind: str, epochs: str, steps: np.ndarray, theirs: np.ndarray
) -> compare.Comparison:
  """Compares the learning rate or tau of an ImageNet preset at some steps."""
  images = catalog.find_facts('imagenet2012').num_train  # type: ignore[union-attr]
  config = configuration.load(f'configs/pretrain.py:{epochs}')
  total, warmup = (
    schedules.count_steps(length, images, config.batch_size)
    for length in (config.epochs, config.schedule.warmup_epochs)
  )
  function, floor = (
    schedules.tau_schedule(
      config.target.base_tau, total, config.target.schedule
    ),
    0.0,
  )
  if kind == 'lr':
    peak = config.schedule.base_rate * config.batch_size / 256
    function = schedules.warmup_cosine_schedule(peak, warmup, total)
    floor = RATE_FLOOR * peak
  ours, key = [function(step) for step in steps], f'{kind}{epochs}'
  return compare.compare_scalars(f'primitives: {key}', key, ours, theirs, floor)


def _compare_lars(arrays: Arrays) -> Iterator[compare.Comparison]:
  """Takes as many steps of LARS as there are gradients."""
  trees: dict[str, Any] = {}
  for key, value in arrays.items():
    if match := LARS_KEY.fullmatch(key):
      tree, module, leaf = match.groups()
      trees.setdefault(tree, {}).setdefault(module, {})[leaf] = value
  if not {'init', 'final'} <= trees.keys():
    return
  optimizer = optimizers.lars(lambda _: LARS_RATE, **LARS)
  update, params = jax.jit(optimizer.update), trees['init']
  state = optimizer.init(params)
  names = (f'grad{i}' for i in itertools.count())
  for name in itertools.takewhile(trees.__contains__, names):
    updates, state = update(trees[name], state, params)
    params = optax.apply_updates(params, updates)
  yield from compare.compare_trees(
    'primitives: lars', params, arrays, 'lars/final/', separator='/'
  )
