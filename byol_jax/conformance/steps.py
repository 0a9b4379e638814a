"""Continues a run of the reference: `<tag>.{config.json,pkl,npz}`.

Its checkpoint becomes our `ByolState`. Its batches go through the update that
`byol-jax pretrain` runs, with every augmentation's probability at 0.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import functools
import json
import math
from pathlib import Path
import re
from typing import Any

import jax
from ml_collections import config_dict
import numpy as np

from byol_jax import (
  byol,
  configuration,
  errors,
  experiment,
  files,
  networks,
)
from byol_jax.conformance import compare, primitives
from byol_jax.convert import deepmind
from byol_jax.distributed import placement
from byol_jax.training import scalars as scalars_lib

Arrays = Mapping[str, np.ndarray]

BATCH_KEY = re.compile(r'batch(\d+)/(view1|view2|labels)')
EVAL_IMAGES = 'eval/images'


def is_input(key: str) -> bool:
  """Returns whether a key holds what the network was given."""
  return key == EVAL_IMAGES or bool(BATCH_KEY.fullmatch(key))


def count_devices(arrays: Arrays) -> int:
  """Returns the leading axis of the batches, 1 without any."""
  batches = [value for key, value in arrays.items() if BATCH_KEY.fullmatch(key)]
  return max([1, *(value.shape[0] for value in batches if value.ndim)])


def compare_run(
  tag: str, folder: Path, arrays: Arrays, devices: Sequence[jax.Device]
) -> Iterator[compare.Comparison]:
  """Continues the run of one tag and yields the comparisons.

  `arrays` is the content of `<tag>.npz`; there are as many devices as the
  leading axis of its batches.

  Raises:
    DataError: a file of the tag cannot be used.
  """
  batches = _read_batches(tag, arrays)
  path = folder / f'{tag}.config.json'
  try:
    theirs = json.loads(files.read_file(path))
    image_size = batches[0]['view1'].shape[2]
    config = translate_config(theirs, len(devices), image_size)
    classes = theirs['num_classes']
    if type(classes) is not int or classes < 1:
      raise ValueError(f'num_classes {errors.quote(classes)}')
  except (KeyError, ValueError, TypeError, RecursionError) as error:
    found = f'no key {error}' if isinstance(error, KeyError) else str(error)
    raise errors.DataError(
      f'{path}: expected a configuration of the official code, found: {found}'
    ) from error
  built = experiment.build(config, config.batch_size, classes)
  official = deepmind.read_checkpoint(str(folder / f'{tag}.pkl'))
  named = list(_compare_shapes(tag, built, official))
  yield from named
  if not all(comparison.holds for comparison in named):
    return  # nothing further can run
  state, logs = _continue_run(tag, built, official, batches, devices)
  peak = config.schedule.base_rate * config.batch_size / 256
  for key, theirs in arrays.items():
    name = key.removeprefix('logs/')
    name = scalars_lib.OLD_NAMES.get(
      name, name
    )  # as the official code names it
    if key.startswith('logs/') and name in logs:
      floor = primitives.RATE_FLOOR * peak if name == 'learning_rate' else 0.0
      yield compare.compare_scalars(
        f'{tag}: {key}', key, logs[name], theirs, floor
      )
  for field in deepmind.TREES:
    yield from compare.compare_trees(
      *(f'{tag}: final/{field}', getattr(state, field)),
      *(arrays, f'final/{field}/'),
    )
  if EVAL_IMAGES in arrays:
    # Outputs of the final online network in evaluation mode.
    images = jax.device_put(arrays[EVAL_IMAGES], devices[0])
    apply = jax.jit(functools.partial(built.forward.apply, is_training=False))
    outputs, _ = apply(state.online_params, state.online_state, images)
    for name, ours in outputs._asdict().items():
      key = f'eval/{name}'
      if key in arrays and ours is not None:
        yield compare.compare_arrays(f'{tag}: {key}', key, ours, arrays[key])


def _read_batches(tag: str, arrays: Arrays) -> list[dict[str, np.ndarray]]:
  """Returns the batches in order, leaves [devices, images a device, ...]."""
  matches = filter(None, map(BATCH_KEY.fullmatch, arrays))
  numbers = sorted({int(match[1]) for match in matches})
  batches = [
    {part: f'batch{number}/{part}' for part in ('view1', 'view2', 'labels')}
    for number in range(len(numbers) or 1)
  ]
  keys = [key for batch in batches for key in batch.values()]
  for key in keys:
    if key not in arrays:
      raise errors.DataError(
        f'{tag}.npz: expected {key}, found the batches {numbers}'
      )
  shapes = sorted({arrays[key].shape[:2] for key in keys})
  if len(shapes) != 1:
    raise errors.DataError(
      f'{tag}.npz: expected batches of one size [devices, images a device],'
      f' found {shapes}'
    )
  return [{k: arrays[key] for k, key in batch.items()} for batch in batches]


def translate_config(
  theirs: Mapping[str, Any], devices: int, image_size: int
) -> config_dict.ConfigDict:
  """Puts each value of the official configuration in its place in ours.

  See method.md 2.2, 2.3 and 4. The data set is one batch: an epoch is a step.

  Raises:
    KeyError: theirs lacks a key.
    TypeError: a value has another type than ours.
    ValueError: a value has no equivalent.
  """
  network, optimizer = theirs['network_config'], theirs['optimizer_config']
  norm, rate = network['bn_config'], theirs['lr_schedule_config']
  out = network['projector_output_size']
  if not (norm['create_scale'] and norm['create_offset']):
    raise ValueError('batch norms without scale or offset are not supported')
  if devices > 1 and not norm['cross_replica_axis']:
    raise ValueError('batch norms of a single device are not supported')
  config = configuration.load('configs/pretrain.py:1000')
  values = {
    'seed': theirs['random_seed'],
    'image_size': image_size,
    'epochs': float(theirs['max_steps']),
    'batch_size': theirs['batch_size'],
    'network.encoder': network['encoder_class'],
    'network.width': float(network['encoder_config']['width_multiplier']),
    'network.version': 2 if network['encoder_config']['resnet_v2'] else 1,
    'network.projector': (network['projector_hidden_size'], out),
    'network.predictor': (network['predictor_hidden_size'], out),
    'network.bn_decay': float(norm['decay_rate']),
    'network.bn_epsilon': float(norm['eps']),
    'target.base_tau': float(theirs['base_target_ema']),
    'optimizer.weight_decay': float(optimizer['weight_decay']),
    'optimizer.momentum': float(optimizer['momentum']),
    'optimizer.trust_coefficient': float(optimizer['eta']),
    'schedule.base_rate': float(rate['base_learning_rate']),
    'schedule.warmup_epochs': float(rate['warmup_steps']),
    'schedule.max_warmup_share': 1.0,
  }
  for view in ('view1', 'view2'):
    for name, operation in config.augment[view].items():
      if 'probability' in operation:
        values[f'augment.{view}.{name}.probability'] = 0.0
  config.update_from_flattened_dict(values)
  return config


def _compare_shapes(
  tag: str,
  built: experiment.Experiment,
  official: deepmind.OfficialCheckpoint,
) -> Iterator[compare.Comparison]:
  """Compares names and shapes of our network with the checkpoint's."""
  ours = jax.eval_shape(built.initial_state)
  for field in deepmind.TREES:
    found = networks.list_shapes(getattr(ours, field))
    expected = networks.list_shapes(getattr(official, field))
    differences = networks.describe_differences((found, expected))
    yield compare.Comparison(
      *(f'{tag}: names and shapes', f'{field} of {tag}.pkl'),
      *((math.inf, differences) if differences else (0.0,)),
    )


def _continue_run(
  tag: str,
  built: experiment.Experiment,
  official: deepmind.OfficialCheckpoint,
  batches: Sequence[Arrays],
  devices: Sequence[jax.Device],
) -> tuple[byol.ByolState, dict[str, list[float]]]:
  """Returns our state after the batches, and the scalars of each step."""
  if official.momentum is None:
    raise errors.DataError(
      f'{tag}.pkl: expected the momentum of LARS in opt_state, a tree like'
      ' online_params, found none'
    )
  trees: Any = {field: getattr(official, field) for field in deepmind.TREES}
  state = built.state_at(
    official.step, official.rng, official.momentum, **trees
  )
  update = placement.pmap(built.update, devices=devices)
  replicas = placement.replicate(state, devices)
  logs: dict[str, list[float]] = collections.defaultdict(list)
  for batch in batches:
    replicas, scalars = update(replicas, placement.shard(dict(batch), devices))
    for name, value in placement.fetch_first_replica(scalars).items():
      logs[name].append(float(value))
  return placement.fetch_first_replica(replicas), logs
