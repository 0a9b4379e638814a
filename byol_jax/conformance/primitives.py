"""The reference's single functions beside ours: `primitives.npz`.

What a key holds is read from its name: `blur_0.9` is the blur with sigma 0.9,
`lr1000` the learning rate of the 1000-epoch preset, `lars/grad3/net/w` a leaf
of the fourth gradient.
"""

from collections.abc import Callable, Iterator, Mapping
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from byol_jax import (
  augment,
  configuration,
  errors,
  losses,
  optimizers,
  schedules,
)
from byol_jax.conformance import compare
from byol_jax.conformance.compare import Comparison
from byol_jax.data import catalog

Arrays = Mapping[str, np.ndarray]

# The LARS run of the vectors.
LARS_RATE = 0.7
LARS = {'weight_decay': 1.5e-6, 'momentum': 0.9, 'trust_coefficient': 1e-3}
# Large results are stored thinned out.
STRIDE = 16
# Near the end of a cosine 1 + cos is a difference of float32 numbers near 1,
# good to 1e-7 of the peak: 1e-5 relative asks for that up to 2 % of the peak.
RATE_FLOOR = 0.02

SCHEDULE = re.compile(r'(lr|tau)(\d+)')
OPERATION = re.compile(r'([a-z]+)_([+-]?\d+(?:\.\d+)?)')
LARGE_BLUR = re.compile(r'blur\d+_(\d+(?:\.\d+)?)')
LARS_KEY = re.compile(r'lars/(init|final|grad(\d+))/(.+)/([^/]+)')

clip = augment.clip
OPERATIONS: Mapping[str, Callable[[Any, float], Any]] = {
  'bright': lambda x, v: clip(augment.adjust_brightness(x, jnp.float32(v))),
  'contrast': lambda x, v: clip(augment.adjust_contrast(x, jnp.float32(v))),
  'sat': lambda x, v: clip(augment.adjust_saturation(x, jnp.float32(v))),
  'hue': lambda x, v: clip(augment.adjust_hue(x, jnp.float32(v))),
  'blur': lambda x, v: augment.gaussian_blur(x, jnp.float32(v)),
  'solarize': augment.invert_above,
}
PLAIN: Mapping[str, Callable[[Any], Any]] = {
  'hsv': augment.rgb_to_hsv,
  'gray': augment.to_grayscale,
}
INPUTS = ('steps', 'loss_x', 'loss_y', 'img', 'big')


def comparisons(arrays: Arrays) -> Iterator[Comparison]:
  """Every key of `primitives.npz` that holds a result we know."""
  yield from lars(arrays)
  for key in arrays:
    yield from result(key, arrays)


def is_input(key: str) -> bool:
  """Whether a key holds what a function was given."""
  match = LARS_KEY.fullmatch(key)
  return key in INPUTS or bool(match and match[1] != 'final')


def result(key: str, arrays: Arrays) -> Iterator[Comparison]:
  """The comparison of one key, or none if the key says nothing to us."""
  if match := SCHEDULE.fullmatch(key):
    yield from schedule(key, match[1], match[2], arrays)
  elif key == 'loss' and {'loss_x', 'loss_y'} <= arrays.keys():
    x, y = jnp.asarray(arrays['loss_x']), jnp.asarray(arrays['loss_y'])
    ours = losses.regression_loss(x, y)
    yield compare.arrays('primitives: loss', key, ours, arrays[key])
  elif (match := LARGE_BLUR.fullmatch(key)) and 'big' in arrays:
    yield large_blur(key, float(match[1]), arrays)
  elif 'img' in arrays:
    yield from colour(key, jnp.asarray(arrays['img'][0]), arrays[key])


def colour(key: str, image: Any, theirs: np.ndarray) -> Iterator[Comparison]:
  """One operation on one image."""
  match = OPERATION.fullmatch(key)
  if key in PLAIN:
    ours = PLAIN[key](image)
    yield compare.arrays(f'primitives: {key}', key, ours, theirs)
  elif match and match[1] in OPERATIONS:
    ours = OPERATIONS[match[1]](image, float(match[2]))
    yield compare.arrays(f'primitives: {match[1]}', key, ours, theirs)


def large_blur(key: str, sigma: float, arrays: Arrays) -> Comparison:
  """Blur of an image at its real size; every 16th row and column is kept."""
  image = jnp.asarray(arrays['big'], jnp.float32)
  ours = augment.gaussian_blur(image, jnp.float32(sigma))
  thinned = ours[::STRIDE, ::STRIDE]
  return compare.arrays('primitives: large blur', key, thinned, arrays[key])


def schedule(
  key: str, kind: str, epochs: str, arrays: Arrays
) -> Iterator[Comparison]:
  """Learning rate or tau of an ImageNet preset at the steps of the file."""
  facts = catalog.find_facts('imagenet2012')
  if 'steps' not in arrays or facts is None:
    return
  config = configuration.load(f'configs/pretrain.py:{epochs}')
  total, warmup = (
    schedules.num_steps(length, facts.num_train, config.batch_size)
    for length in (config.epochs, config.schedule.warmup_epochs)
  )
  peak = config.schedule.base_rate * config.batch_size / 256
  if kind == 'lr':
    function = schedules.warmup_cosine(peak, warmup, total)
  else:
    function = schedules.tau(total_steps=total, **config.target)
  ours = [function(step) for step in arrays['steps']]
  floor = RATE_FLOOR * peak if kind == 'lr' else 0.0
  group = f'primitives: {key}'
  yield compare.scalars(group, key, ours, arrays[key], floor)


def lars(arrays: Arrays) -> Iterator[Comparison]:
  """As many LARS steps as there are gradients."""
  trees: dict[str, dict[str, dict[str, np.ndarray]]] = {}
  for key, value in arrays.items():
    if match := LARS_KEY.fullmatch(key):
      tree = trees.setdefault(match[1], {})
      tree.setdefault(match[3], {})[match[4]] = value
  final = trees.pop('final', None)
  params: Any = trees.pop('init', None)
  if final is None or params is None:
    return
  optimizer = optimizers.lars(lambda _: LARS_RATE, **LARS)
  state = optimizer.init(params)
  for i in range(len(trees)):
    if f'grad{i}' not in trees:
      raise errors.DataError(
        f'primitives.npz: expected the gradients lars/grad0 to'
        f' lars/grad{len(trees) - 1}, found no lars/grad{i}'
      )
    updates, state = optimizer.update(trees[f'grad{i}'], state, params)
    params = optax.apply_updates(params, updates)
  theirs = {k.replace('|', '/'): v for k, v in compare.flatten(final).items()}
  ours = {k.replace('|', '/'): v for k, v in compare.flatten(params).items()}
  for name in theirs:
    key = f'lars/final/{name}'
    ours_leaf = ours.get(name, np.zeros(0))
    yield compare.arrays('primitives: lars', key, ours_leaf, theirs[name])
