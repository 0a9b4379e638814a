"""What the values of a pretraining configuration may be.

One rule a key: a value outside its range would fail late, in words of another
library, or not at all.
"""

from collections.abc import Callable, Iterator
import math
from typing import Any

from ml_collections import config_dict

from byol_jax import errors, losses

# What holds for a value, and how an error says it.
Rule = tuple[Callable[[Any], bool], str]

POSITIVE: Rule = (lambda x: 0 < x < math.inf, 'a positive number')
NOT_NEGATIVE: Rule = (lambda x: 0 <= x < math.inf, 'a number from 0')
SHARE: Rule = (lambda x: 0 <= x <= 1, 'a number in [0, 1]')
BELOW_ONE: Rule = (lambda x: 0 <= x < 1, 'a number in [0, 1)')
SEED: Rule = (lambda x: 0 <= x < 2**32, 'a whole number in [0, 2^32)')


def span(low: float, high: float) -> Rule:
  """Two numbers, rising, in (low, high]."""
  return (
    lambda x: len(x) == 2 and low < x[0] <= x[1] <= high,
    f'two rising numbers above {low:g}'
    + (f', at most {high:g}' if high < math.inf else ''),
  )


def one_of(*names: str) -> Rule:
  """A name out of a few."""
  return (lambda x: x in names, f'one of {list(names)}')


RULES: dict[str, Rule] = {
  'epochs': POSITIVE,
  'batch_size': POSITIVE,
  'image_size': (lambda x: x >= 8, 'at least 8'),
  'seed': SEED,
  'network.bn_decay': BELOW_ONE,
  'network.bn_epsilon': POSITIVE,
  'target.base_tau': SHARE,
  'target.schedule': one_of('cosine', 'constant'),
  'objective.name': one_of(*losses.OBJECTIVES),
  'optimizer.weight_decay': NOT_NEGATIVE,
  'optimizer.momentum': BELOW_ONE,
  'optimizer.trust_coefficient': POSITIVE,
  'schedule.base_rate': NOT_NEGATIVE,
  'schedule.warmup_epochs': NOT_NEGATIVE,
  'data.eval_crop': one_of('resize', 'crop', 'whole'),
  'data.decoding': one_of('once', 'crops'),
  'data.transfer': one_of('float32', 'uint8'),
  'input.threads': NOT_NEGATIVE,
  'input.cache': one_of('none', 'encoded', 'decoded'),
  'input.cache_gib': NOT_NEGATIVE,
  'input.max_bad_share': SHARE,
  'input.resident_gib': POSITIVE,
  'input.steps_per_call': NOT_NEGATIVE,
  'log.every_steps': POSITIVE,
  'faults.max_skips': NOT_NEGATIVE,
  'faults.max_rollbacks': NOT_NEGATIVE,
  'faults.stall_seconds': NOT_NEGATIVE,
  'checkpoint.keep': POSITIVE,
  'checkpoint.every_steps': NOT_NEGATIVE,
  'checkpoint.every_minutes': NOT_NEGATIVE,
}

VIEW_RULES: dict[str, Rule] = {
  'crop.area': span(0, 1),
  'crop.ratio': span(0, math.inf),
  'flip.probability': SHARE,
  'jitter.probability': SHARE,
  'jitter.brightness': SHARE,
  'jitter.contrast': SHARE,
  'jitter.saturation': SHARE,
  'jitter.hue': (lambda x: 0 <= x <= 0.5, 'a number in [0, 0.5] turns'),
  'grayscale.probability': SHARE,
  'blur.probability': SHARE,
  'blur.sigma': span(0, math.inf),
  'solarize.probability': SHARE,
  'solarize.threshold': SHARE,
}


def check(config: config_dict.ConfigDict) -> None:
  """Refuses values outside their ranges.

  Raises:
    ConfigError: names the key, what was expected and what was found.
  """
  for key, (holds, expected), found in rules(config):
    # Written so that a number that is none fails too.
    if not holds(found):
      raise errors.ConfigError(f'{key}: expected {expected}, found {found!r}')


def rules(config: config_dict.ConfigDict) -> Iterator[tuple[str, Rule, Any]]:
  """(key, rule, value) of everything that the configuration holds.

  An augmentation that is None, and what another optimiser lacks, has no rule.
  """
  table = RULES | {
    f'augment.{view}.{key}': rule
    for view in ('view1', 'view2')
    for key, rule in VIEW_RULES.items()
  }
  for key, rule in table.items():
    value: Any = config
    for part in key.split('.'):
      value = None if value is None or part not in value else value[part]
    if value is not None:
      yield key, rule, value
