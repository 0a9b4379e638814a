"""What a run of the reference was given: its configuration and its batches."""

from collections.abc import Mapping, Sequence
import json
from pathlib import Path
import re
from typing import Any, NamedTuple

from ml_collections import config_dict
import numpy as np

from byol_jax import configuration, errors

Arrays = Mapping[str, np.ndarray]

BATCH_KEY = re.compile(r'batch(\d+)/(view1|view2|labels)')
EVAL_IMAGES = 'eval/images'


def is_input(key: str) -> bool:
  """Whether a key holds what the network was given."""
  return key == EVAL_IMAGES or bool(BATCH_KEY.fullmatch(key))


def num_devices(keys_and_shapes: Mapping[str, tuple[int, ...]]) -> int:
  """The leading axis of the batches; 1 without any."""
  shapes = [
    shape for key, shape in keys_and_shapes.items() if BATCH_KEY.fullmatch(key)
  ]
  return max([1, *(shape[0] for shape in shapes if shape)])


def read_batches(tag: str, arrays: Arrays) -> list[dict[str, np.ndarray]]:
  """The batches in order, leaves [devices, per device, ...].

  Raises:
    DataError: a batch or a part of one is missing, or their sizes differ.
  """
  found: dict[int, dict[str, np.ndarray]] = {}
  for key, value in arrays.items():
    if match := BATCH_KEY.fullmatch(key):
      found.setdefault(int(match[1]), {})[match[2]] = value
  if sorted(found) != list(range(len(found))) or not found:
    raise errors.DataError(
      f'{tag}.npz: expected batch0, batch1, …, found {sorted(found)}'
    )
  shapes = set()
  for number, batch in found.items():
    for part in ('view1', 'view2', 'labels'):
      if part not in batch:
        raise errors.DataError(f'{tag}.npz: expected batch{number}/{part}')
      shapes.add(batch[part].shape[:2])
  if len(shapes) != 1:
    raise errors.DataError(
      f'{tag}.npz: expected batches of one size [devices, per device], found'
      f' {sorted(shapes)}'
    )
  return [found[i] for i in range(len(found))]


class RunConfig(NamedTuple):
  """The reference's configuration in our words."""

  # As in `configs/pretrain.py`. The data set is one batch: an epoch is a step.
  run: config_dict.ConfigDict
  classes: int  # of the online classifier


def translate(
  theirs: Mapping[str, Any], devices: int, image_size: int
) -> RunConfig:
  """Spec 2.2, 2.3, 4: each value of theirs in its place in ours.

  Raises:
    KeyError: theirs lacks a key.
    TypeError: a value has another type than ours.
    ValueError: a value that we cannot say.
  """
  network, optimizer = theirs['network_config'], theirs['optimizer_config']
  norm, rate = network['bn_config'], theirs['lr_schedule_config']
  out = network['projector_output_size']
  if not (norm['create_scale'] and norm['create_offset']):
    raise ValueError('batch norms without scale or offset are not ours')
  if devices > 1 and not norm['cross_replica_axis']:
    raise ValueError('batch norms of one device are not ours')
  run = configuration.load('configs/pretrain.py:1000')
  run.update_from_flattened_dict(
    {
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
    }
  )
  switch_off(run.augment)
  return RunConfig(run, theirs['num_classes'])


def switch_off(section: config_dict.ConfigDict) -> None:
  """Sets every probability to 0."""
  for key in section:
    if isinstance(section[key], config_dict.ConfigDict):
      switch_off(section[key])
    elif key == 'probability':
      section[key] = 0.0


def our_config(path: Path, batches: Sequence[Arrays]) -> RunConfig:
  """Translates the reference's configuration.

  Raises:
    DataError: it is not JSON, lacks a key, or has a value that is not ours.
  """
  devices, _, image_size = batches[0]['view1'].shape[:3]
  try:
    theirs = json.loads(path.read_text(encoding='utf-8'))
    return translate(theirs, devices, image_size)
  except KeyError as error:
    raise errors.DataError(
      f'{path}: expected a configuration of the official code, found no key'
      f' {error}'
    ) from error
  except (ValueError, TypeError) as error:
    raise errors.DataError(f'{path}: {error}') from error
