"""Values that would fail late are refused by key."""

import math

import pytest

from byol_jax import checks, configuration, errors

BAD = (
  ('epochs', 0.0),
  ('epochs', math.inf),
  ('epochs', math.nan),
  ('batch_size', 0),
  ('image_size', 4),
  ('seed', -1),
  ('network.bn_decay', 2.0),
  ('network.bn_epsilon', -1e-5),
  ('target.base_tau', 1.1),
  ('target.schedule', 'linear'),
  ('objective.name', 'none'),
  ('optimizer.weight_decay', -1e-6),
  ('optimizer.momentum', 1.0),
  ('schedule.base_rate', math.nan),
  ('schedule.warmup_epochs', -1.0),
  ('input.threads', -3),
  ('input.resident_gib', 0.0),
  ('input.steps_per_call', -1),
  ('checkpoint.keep', 0),
  ('checkpoint.every_steps', -1),
  ('log.every_steps', 0),
  ('augment.view1.crop.area', (0.5,)),
  ('augment.view1.crop.area', (0.5, 0.1)),
  ('augment.view1.crop.area', (0.0, 1.0)),
  ('augment.view2.crop.area', (0.5, 2.0)),
  ('augment.view2.crop.ratio', (0.0, 1.0)),
  ('augment.view1.flip.probability', 2.0),
  ('augment.view1.jitter.hue', 7.0),
  ('augment.view1.jitter.brightness', -1.0),
  ('augment.view2.blur.sigma', (0.0, 1.0)),
  ('augment.view2.solarize.threshold', math.nan),
)


@pytest.mark.parametrize(('key', 'value'), BAD)
def test_a_value_out_of_range_is_refused_by_its_key(key, value):
  config = configuration.load('pretrain:300')
  config.update_from_flattened_dict({key: value})
  with pytest.raises(errors.ConfigError, match=f'^{key}: expected') as caught:
    checks.check(config)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'name',
  (
    'pretrain:40',
    'pretrain:1000_batch512',
    'pretrain:7',
    'shapes',
    'cifar10',
    'cifar10:cpu',
    'imagenette',
    'imagenette:cpu',
  ),
)
def test_every_preset_passes(name):
  config = configuration.load(name)
  checks.check(config)


def test_every_rule_names_a_key_of_the_configuration():
  config = configuration.load('pretrain:300')
  found = {key for key, _, _ in checks.rules(config)}
  expected = len(checks.RULES) + 2 * len(checks.VIEW_RULES)
  assert len(found) == expected


def test_an_operation_that_is_left_out_has_no_rule():
  config = configuration.load('pretrain:300')
  with config.unlocked():
    config.augment.view1.blur = None
  checks.check(config)
