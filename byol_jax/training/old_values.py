"""Values with which runs of earlier versions are read and resumed."""

from collections.abc import Mapping
import copy
import logging
from typing import Any

from ml_collections import config_dict

from byol_jax import configuration

# What the lack of a key in a saved configuration means: the value that gives
# the behaviour before the key existed. Every new key of a run is added here.
OLD_VALUES: dict[str, Any] = {
  'steps': 0,
  'precision': 'float32',
  'shard_optimizer': False,
  'recompute_blocks': False,
  'network.padding': 'same',
  'network.head_norm': 'batch',
  'network.init_scale': 1.0,
  'network.bn_group': 0,
  'batch.accumulate': 1,
  'target.parameters': 'average',
  'target.start': 'random',
  'objective.normalization': 'l2',
  'objective.symmetric': True,
  'optimizer.clip_trust_ratio': False,
  'schedule.max_warmup_share': 1.0,
  'schedule.predictor_rate': 1.0,
  'schedule.projector_rate': 1.0,
  'data.labels': 'auto',
  'data.eval_crop': 'resize',
  'data.decoding': 'once',
  'data.transfer': 'float32',
  'data.exif': 'ignore',
  'data.background': 'drop',
  'data.grey_range': (0.0, 65535.0),
  'data.resident': False,
  'input.engine': 'auto',
  'input.cache': 'none',
  'input.cache_gib': 0.0,
  'input.max_bad_share': 0.001,
  'input.resident_gib': 8.0,
  'input.steps_per_call': 0,
  'checkpoint.folder': '',
  'init.checkpoint': '',
  'faults.collapse': 'warn',
  'log.every_seconds': 10.0,
  'eval.knn_every_steps': 0,
}
# Section -> the name whose settings are in `OLD_VALUES`.
_OLD_NAMES = {'optimizer': 'lars', 'objective': 'regression'}


def add_old_values(saved: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a saved configuration with the keys of `OLD_VALUES` it lacks.

  Raises:
    AttributeError, TypeError: a section is not a dict.
  """
  filled = copy.deepcopy(dict(saved))
  for key, value in OLD_VALUES.items():
    *sections, name = key.split('.')
    section = filled
    for part in sections:
      section = section.setdefault(part, {})
    old_name = _OLD_NAMES.get(key.partition('.')[0])
    if section is None:  # an absent one is named by who checks the keys
      continue
    if not old_name or section.get('name', old_name) == old_name:
      section.setdefault(name, value)  # another name has other settings
  return filled


def find_old_values(
  config: config_dict.ConfigDict, record: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the values with which a run with a checkpoint's record goes on.

  They are the `OLD_VALUES` of the keys that the record lacks and
  that have their default in `config`: so the same command resumes a run of an
  earlier version. `steps` and `input.engine` of 'auto' are those that the run
  began with.
  """
  if 'config' not in record:
    return {}
  saved = configuration.flatten(config_dict.ConfigDict(record['config']))
  now = configuration.flatten(config)
  defaults = configuration.flatten(configuration.read_preset('pretrain'))
  old = {
    key: value
    for key, value in OLD_VALUES.items()
    if key not in saved and now.get(key) == defaults[key] != value
  }
  if config.steps == 'auto' and saved.get('steps'):
    old['steps'] = saved['steps']
  for key, value in old.items():
    logging.warning('%s: %r, as when this run began', key, value)
  engine, before = now['input.engine'], saved.get('input.engine', 'auto')
  if engine == 'auto' != before:
    old['input.engine'] = before
  elif before not in ('auto', engine):
    logging.warning(
      'input.engine: %r decodes from here on, %r did before; the pixels are the'
      ' same',
      *(engine, before),
    )
  return old
