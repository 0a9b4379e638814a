"""A configuration whose values all differ from the preset's, and spies.

Tests of the wiring collect where its values arrive and compare them with
`CHANGED`; a new key fails `experiment_test` until it is here and arrives.
"""

import inspect
from typing import Any, NamedTuple

from byol_jax import configuration, losses, optimizers, ranges


def change_view(i):
  """Values of view i that no other key has."""
  return {
    'crop.area': (0.1 + i / 100, 0.9),
    'crop.ratio': (0.5 + i / 100, 1.5),
    'flip.probability': 0.1 + i / 100,
    'jitter.probability': 0.2 + i / 100,
    'jitter.brightness': 0.3 + i / 100,
    'jitter.contrast': 0.5 + i / 100,
    'jitter.saturation': 0.6 + i / 100,
    'jitter.hue': 0.05 + i / 100,
    'grayscale.probability': 0.4 + i / 100,
    'blur.probability': 0.7 + i / 100,
    'blur.sigma': (0.2 + i / 100, 1.0),
    'solarize.probability': 0.8 + i / 100,
    'solarize.threshold': 0.9 + i / 100,
  }


CHANGED = {
  'preset': 'other',
  'preset_epochs': 33,
  'preset_batch_size': 128,
  'seed': 5,
  'dataset': 'no/set',
  'data_dir': 'no/folder',
  'image_size': 24,
  'epochs': 7.5,
  'steps': 17,
  'batch_size': 96,
  'precision': 'bfloat16',
  'shard_optimizer': True,
  'recompute_blocks': True,
  'batch.accumulate': 4,
  'network.encoder': 'TinyResNet',
  'network.width': 0.5,
  'network.version': 2,
  'network.gamma_init': 'zeros',
  'network.stem': 'small',
  'network.padding': 'torch',
  'network.projector': (12, 10, 6),
  'network.predictor': (14, 6),
  'network.bn_decay': 0.8,
  'network.bn_epsilon': 1e-4,
  'network.head_norm': 'layer',
  'network.init_scale': 2.0,
  'network.bn_group': 3,
  'init.checkpoint': 'no/weights',
  **{f'augment.view1.{k}': v for k, v in change_view(1).items()},
  **{f'augment.view2.{k}': v for k, v in change_view(2).items()},
  'target.base_tau': 0.75,
  'target.schedule': 'constant',
  'target.parameters': 'online_stopped',
  'target.start': 'online',
  'objective.name': 'other',
  'objective.normalization': 'none',
  'objective.symmetric': False,
  'optimizer.name': 'other',
  'optimizer.weight_decay': 0.125,
  'optimizer.momentum': 0.5,
  'optimizer.trust_coefficient': 0.25,
  'optimizer.clip_trust_ratio': True,
  'schedule.base_rate': 3.0,
  'schedule.warmup_epochs': 1.0,
  'schedule.max_warmup_share': 0.5,
  'schedule.scale_with_batch': False,
  'schedule.predictor_rate': 4.0,
  'schedule.projector_rate': 0.5,
  'data.holdout': 'official',
  'data.heldout_share': 0.3,
  'data.labels': 'folders',
  'data.eval_crop': 'whole',
  'data.decoding': 'crops',
  'data.exif': 'ignore',
  'data.background': 'black',
  'data.grey_range': (1.0, 4095.0),
  'data.transfer': 'uint8',
  'data.resident': True,
  'input.engine': 'tensorflow',
  'input.threads': 3,
  'input.cache': 'encoded',
  'input.cache_gib': 2.5,
  'input.max_bad_share': 0.25,
  'input.resident_gib': 1.5,
  'input.steps_per_call': 7,
  'checkpoint.every_steps': 11,
  'checkpoint.every_minutes': 1.5,
  'checkpoint.keep': 5,
  'checkpoint.folder': 'no/checkpoints',
  'faults.max_skips': 4,
  'faults.max_rollbacks': 6,
  'faults.stall_seconds': 12.5,
  'faults.collapse': 'stop',
  'log.every_steps': 9,
  'log.every_seconds': 2.5,
  'log.tensorboard': False,
  'eval.knn_every_steps': 13,
}

# By who reads the keys: `api` with `training`, `data.from_config` (the seed
# and the image size too), `experiment`.
TRAINING = {
  k
  for k in CHANGED
  if k.startswith(('checkpoint.', 'faults.', 'log.', 'eval.'))
} | {'input.steps_per_call', 'init.checkpoint'}
DATA = {
  k for k in CHANGED if k.startswith(('data', 'input.')) or '.crop.' in k
} - TRAINING
METHOD = CHANGED.keys() - TRAINING - DATA


def load(monkeypatch, **changes):
  """`CHANGED`, with an objective and an optimizer of the name `other`."""
  other = lambda *devices, **settings: losses.make_regression(
    *devices, **settings
  )
  monkeypatch.setitem(losses.OBJECTIVES, 'other', other)
  lars = lambda *rate, **settings: optimizers.lars(*rate, **settings)
  monkeypatch.setitem(optimizers.OPTIMIZERS, 'other', lars)
  for key in ('objective.name', 'optimizer.name'):
    choices = (*ranges.CHOICES[key], 'other')
    monkeypatch.setitem(ranges.CHOICES, key, choices)
  # That each value differs leaves some that do not go together.
  monkeypatch.setattr(ranges, '_check_combinations', lambda values: None)
  changes = {key.replace('__', '.'): value for key, value in changes.items()}
  return configuration.load('pretrain', CHANGED | changes)


class Call(NamedTuple):
  """A call of a function: its arguments by name, and its result."""

  arguments: dict[str, Any]
  result: Any


def spy(monkeypatch, owner, name, stand_in=None):
  """Returns the calls of owner.name, as they come; `stand_in` may answer."""
  function, calls = getattr(owner, name), []
  signature = inspect.signature(function)

  def call(*arguments, **keywords):
    found = signature.bind(*arguments, **keywords).arguments
    for parameter in signature.parameters.values():
      if parameter.kind == parameter.VAR_KEYWORD:
        found |= found.pop(parameter.name, {})
    result = (stand_in or function)(*arguments, **keywords)
    calls.append(Call(dict(found), result))
    return result

  monkeypatch.setattr(owner, name, call)
  return calls


def find_call(calls, result):
  """Returns the arguments of the call that gave a result."""
  (found,) = [call.arguments for call in calls if call.result is result]
  return found
