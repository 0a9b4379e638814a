"""Configurations: found by name, changed by key, and wrong ones refused."""

import json
import pathlib
import sys
import types

from ml_collections import config_dict
import pytest

from byol_jax import (
  configuration,
  errors,
  losses,
  optimizers,
  parallel,
  ranges,
)

OWN = """
from ml_collections import config_dict
from configs.small import shapes

def get_config():
  config = shapes.get_config()
  config.seed = 77
  return config
"""

# Without the types that ml_collections keeps.
REBUILT = 'config = config_dict.ConfigDict(dict(config.to_dict(), {}))'


def refused(spec, overrides=(), kind=None):
  """The one line of an error."""
  with pytest.raises(errors.ConfigError) as caught:
    configuration.load(spec, overrides, kind)
  assert str(caught.value).isprintable() and len(str(caught.value)) < 2000
  return str(caught.value)


def flat_keys(kind):
  """{key: default} of all keys of a kind."""
  return configuration.flatten(configuration.read_preset(kind))


@pytest.mark.parametrize(
  'spec',
  (
    *configuration.list_presets(),
    *('pretrain:40', 'pretrain:1000_batch512', 'pretrain:7', 'cifar10:cpu'),
    *('imagenette:cpu', 'folder:cpu', 'evals/linear:cpu'),
  ),
)
def test_every_preset_is_valid_and_locked(spec):
  config = configuration.load(spec)
  assert config.is_locked
  with pytest.raises(AttributeError):
    config.misspelt = 1


def test_a_file_of_the_user_comes_first_and_may_use_ours(tmp_path, monkeypatch):
  found = [configuration.load(f'{x}pretrain:300') for x in ('', 'configs/')]
  assert found == [configuration.load('pretrain.py:300')] * 2
  assert found[0].epochs == 300
  (tmp_path / 'shapes.py').write_text(OWN)
  assert configuration.load('shapes.py').seed == 0
  monkeypatch.chdir(tmp_path)
  assert configuration.load('shapes.py').seed == 77
  assert configuration.load('shapes').seed == 0  # no path, so a preset's name
  assert configuration.load(str(tmp_path / 'shapes.py')).seed == 77


def test_a_package_configs_of_the_user_stays_what_it_is(monkeypatch):
  for name in [n for n in sys.modules if n.split('.')[0] == 'configs']:
    monkeypatch.delitem(sys.modules, name)
  users = types.ModuleType('configs')
  monkeypatch.setitem(sys.modules, 'configs', users)
  assert configuration.load('imagenette:cpu').dataset.startswith('imagenette')
  assert [m for n, m in sys.modules.items() if n.startswith('configs')] == [
    users
  ]


@pytest.mark.parametrize(
  'preset, given, expected',
  (
    ('folder', [], (0.0, 'auto')),
    ('folder', ['epochs=5'], (5.0, 0)),
    ('folder:cpu', ['steps=70'], (0.0, 70)),
    ('shapes', ['steps=70'], (0.0, 70)),
    ('shapes', ['steps=auto'], (0.0, 'auto')),
    ('shapes', ['steps=0', 'epochs=5'], (5.0, 0)),
  ),
)
def test_a_run_has_epochs_or_steps(preset, given, expected):
  texts = [f'--config.{text}' for text in given]
  config = configuration.load(preset, texts)
  assert (config.epochs, config.steps) == expected
  assert isinstance(config.epochs, float)


@pytest.mark.parametrize(
  'values',
  (
    {'epochs': 5, 'steps': 70},
    {'epochs': 5, 'steps': 'auto'},
    {'epochs': 0},
    {'steps': 0},
  ),
)
@pytest.mark.parametrize('preset', ('folder', 'shapes'))
def test_both_lengths_or_none_are_refused(preset, values):
  assert refused(preset, values).startswith('epochs, steps: expected one of')


@pytest.mark.parametrize(
  'override, expected',
  (
    ('seed=3', 3),
    ('epochs=7', 7.0),
    ('schedule.base_rate=1e-2', 0.01),
    ('network.projector=(32,16,64)', (32, 16, 64)),
    ('network.projector=[32, 64]', (32, 64)),
    ('network.predictor=()', ()),
    ('network.predictor=64', (64,)),
    ('augment.view1.crop.area=(1,1)', (1.0, 1.0)),
    ('log.tensorboard=false', False),
    ('log.tensorboard=True', True),
    ('data_dir=here', 'here'),
    ('data_dir=None', None),
    # Text is text, though it looks like a number or holds an equals sign.
    ('dataset=1e3', '1e3'),
    ('dataset=a=b', 'a=b'),
    ('dataset=(x)', '(x)'),
  ),
)
def test_a_text_takes_the_type_of_its_key(override, expected):
  key = override.partition('=')[0]
  config = configuration.load('shapes', [f'--config.{override}'])
  found = configuration.flatten(config)[key]
  assert found == expected and type(found) is type(expected)
  if isinstance(expected, tuple):
    assert [*map(type, found)] == [*map(type, expected)]
  # Nothing else changes.
  before = configuration.flatten(configuration.load('shapes'))
  assert configuration.flatten(config) == before | {key: expected}


def test_the_last_of_a_key_counts_and_values_of_python_do_as_text():
  texts = [f'--config.network.predictor={x}' for x in ('()', '9', '(8,64)')]
  config = configuration.load('shapes', [*texts, '--config.epochs=2'])
  values = {'epochs': 2, 'network.predictor': [8, 64]}
  assert config == configuration.load('shapes', values)
  assert config.network.predictor == (8, 64)
  path = configuration.load('shapes', {'dataset': pathlib.Path('a')}).dataset
  assert path == 'a' and type(path) is str


@pytest.mark.parametrize(
  'key, value',
  (
    *(('seed', x) for x in (1.5, True, None)),
    *(('epochs', 'ten'), ('dataset', ''), ('log.tensorboard', 'maybe')),
    *(('network.projector', x) for x in ((1.5, 2), ((1, 2), 3))),
  ),
)
def test_another_type_is_refused(key, value):
  message = refused('shapes', {key: value})
  assert message.startswith(f'{key}: expected ')
  assert message.endswith(f'found {value!r}')
  text = refused('shapes', [f'--config.{key}={value}'])
  assert text.startswith(f'--config.{message.rpartition(", found")[0]}, found ')


@pytest.mark.parametrize(
  'key, named',
  (
    ('sead', 'seed'),
    ('weight_decay', 'optimizer.weight_decay'),
    ('network.stm', 'network.stem'),
    ('sigma', 'augment.view1.blur.sigma, --config.augment.view2.blur.sigma'),
    ('name', 'objective.name, --config.optimizer.name'),
    (
      'rate',
      'schedule.base_rate, --config.schedule.predictor_rate,'
      ' --config.schedule.projector_rate',
    ),
    ('optim.name', 'objective.name, --config.optimizer.name'),
    ('augmnt', 'augment'),
  ),
)
def test_an_unknown_key_names_those_near_it(key, named):
  assert refused('pretrain', [f'--config.{key}=1']) == (
    f'--config.{key}: no such key; nearest: --config.{named}'
  )


def test_an_unknown_key_near_to_none_names_the_sections():
  message = refused('pretrain', ['--config.lr=1'])
  assert message.startswith('--config.lr: no such key; keys and sections: ')
  tops = {key.partition('.')[0] for key in flat_keys('pretrain')}
  assert {*message.rpartition(': ')[2].split(', ')} == tops
  message = refused('pretrain', ['--config.optimizer.wd=1'])
  assert 'keys of optimizer: --config.optimizer.clip_trust_ratio, ' in message
  assert 'optimizer.momentum' in message and 'schedule' not in message


def test_what_is_no_key():
  # Of LARS, which this preset does not use.
  key = 'optimizer.trust_coefficient'
  assert 'no such key' in refused('shapes', {key: 1})
  assert 'is a section' in refused('shapes', {'optimizer': 1})
  assert 'is a section' in refused('shapes', {'augment.view1': None})
  for text in ('seed=1', '--seed=1', '--config.seed', '-x'):
    message = refused('shapes', [text])
    assert 'expected --config.section.key=value' in message


@pytest.mark.parametrize(
  'text, reason',
  (
    ('x = 1', 'defines no function get_config'),
    ('def get_config(: pass', 'SyntaxError'),
    ('def get_config(): return {}', 'returns dict, expected a ConfigDict'),
    ('def get_config(): return 1 / 0', 'ZeroDivisionError: division by zero'),
    ('import no_such_module', "ModuleNotFoundError: No module named 'no_such"),
    ('import sys\nsys.exit(0)', 'SystemExit: 0'),
    ('def get_config(): exit()', 'SystemExit'),
    ('raise BaseException("no")', 'BaseException: no'),
  ),
)
def test_a_broken_file_is_one_line(tmp_path, text, reason):
  path = tmp_path / 'own.py'
  path.write_text(text + '\n')
  message = refused(str(path))
  assert message.startswith(f"--config='{path}': ") and reason in message


@pytest.mark.parametrize(
  'spec, reason',
  (
    ('shape', "'shape'; nearest: configs/small/shapes.py"),
    ('no/such/thing.py', "no file or preset 'no/such/thing.py'; presets: "),
    ('', "''; presets: "),
    ('~nosuchuser/own.py', "'~nosuchuser/own.py'; presets: "),
    ('x' * 9999, 'xxx...; presets: '),
    ('shapes:cpu', 'takes no argument; give --config=shapes'),
    *(
      (f'pretrain:{x}', f'unknown preset {x!r}: expected one of ')
      for x in ('many', '', '1000_batch256')
    ),
    ('cifar10:tpu', "expected 'gpu', '200' or 'cpu', found 'tpu'"),
    ('evals/linear:gpu', "unknown argument 'gpu'"),
  ),
)
def test_an_unknown_preset(spec, reason):
  assert reason in refused(spec)


def own_file(folder, *lines):
  """A configuration of the user: the demo's, and lines that change it."""
  path = folder / 'own.py'
  body = ''.join(f'  {line}\n' for line in lines)
  path.write_text(OWN.replace('  config.seed = 77\n', body))
  return str(path)


@pytest.mark.parametrize(
  'line, reason',
  (
    ('config.seeed = 3', 'seeed: no such key; nearest: seed'),
    ('config.seed = None', 'seed: expected int like 0, found None'),
    (REBUILT.format("epochs='ten'"), "float like 1000.0, found 'ten'"),
    (REBUILT.format('epochs=None'), 'float like 1000.0, found None'),
    (REBUILT.format('network=3'), 'missing: network'),
    ('config.network = None', 'missing: network.bn_decay, '),
    ('config.augment.view1.blurr = None', 'nearest: augment.view1.blur, '),
    ('del config.faults.max_skips', 'missing: faults.max_skips'),
    ('config = config_dict.ConfigDict()', 'expected the keys of configs/'),
    ('config.optimizer.momentum = 0.9', 'optimizer.momentum: no such key'),
    ("config.optimizer.name = 'lars'", 'missing: optimizer.momentum, '),
    ('config.network.width = float("nan")', 'network.width: expected a number'),
    ('config.augment.view1.blur.sigma = (2.0, None)', 'blur.sigma: expected'),
  ),
)
def test_a_file_is_checked_as_overrides_are(tmp_path, line, reason):
  assert reason in refused(own_file(tmp_path, line))


def test_a_file_may_hold_ints_lists_references_and_no_blur(tmp_path):
  lines = (
    'config.epochs = 7',
    'config.network.predictor = [8, 64]',
    'config.schedule.warmup_epochs = config.get_oneway_ref("epochs") / 7',
    'config.augment.view2.blur = None',
  )
  spec = own_file(tmp_path, *lines)
  config = configuration.load(spec, ['--config.epochs=10.5'], 'pretrain')
  assert config.network.predictor == (8, 64)
  assert (config.epochs, config.schedule.warmup_epochs) == (10.5, 1.5)
  assert config.augment.view2.blur is None
  key = 'augment.view2.blur.sigma'
  assert 'nearest: augment.view1.blur.sigma' in refused(spec, {key: (1, 2)})


def test_a_frozen_configuration_is_taken_as_any_other(tmp_path):
  spec = own_file(tmp_path, 'return config_dict.FrozenConfigDict(config)')
  config = configuration.load(spec, {'seed': 5}, 'pretrain')
  assert config.seed == 5
  frozen = config_dict.FrozenConfigDict(config)
  assert configuration.validate(frozen, 'pretrain') == config


def test_a_resident_set_needs_random_crops(tmp_path):
  spec = own_file(tmp_path, 'config.augment.view2.crop = None')
  configuration.load(spec)
  assert 'augment.view2.crop: expected a random crop' in refused(
    spec, {'data.resident': True}
  )


def test_a_configuration_of_another_kind_is_refused():
  message = refused('evals/knn', kind='pretrain')
  assert 'expected the keys of configs/pretrain.py, missing: augment' in message
  assert 'configs/evals/knn.py' in refused('shapes', kind='evals/knn')
  for found in ({}, config_dict.ConfigDict(), None):
    with pytest.raises(errors.ConfigError, match='expected the'):
      configuration.validate(found, 'pretrain')


NAMES = [
  (section, name)
  for section in configuration.TABLES
  for name in ranges.CHOICES[f'{section}.name']
]


@pytest.mark.parametrize('preset', ('shapes', 'pretrain:300'))
@pytest.mark.parametrize('section, name', NAMES)
def test_an_optimizer_or_objective_is_chosen_by_its_name(preset, section, name):
  config = configuration.load(preset, [f'--config.{section}.name={name}'])
  optimizers.make_optimizer(learning_rate=lambda step: 0.1, **config.optimizer)
  losses.make_objective(devices=parallel, **config.objective)
  before = configuration.load(preset)
  if name == before[section].name:
    assert config == before
  key, value = [*config[section].items()][-1]
  new = not value if isinstance(value, bool) else value / 2
  values = {f'{section}.{key}': new, f'{section}.name': name}
  changed = configuration.load(preset, values)[section]
  assert changed.to_dict() == {**config[section], key: new}


@pytest.mark.parametrize(
  'preset, key, value',
  (
    *(('pretrain', 'batch_size', 0), ('pretrain', 'image_size', 4)),
    *(('pretrain', 'seed', x) for x in (-1, 2**32)),
    ('pretrain', 'network.bn_decay', 1.0),
    ('pretrain', 'target.base_tau', 1.1),
    ('pretrain', 'target.schedule', 'linear'),
    ('pretrain', 'objective.name', 'none'),
    ('pretrain', 'checkpoint.keep', 0),
    *(
      ('pretrain', 'augment.view1.crop.area', x)
      for x in ((0.5,), (0.5, 0.1), (0.0, 1.0), (0.5, 2.0))
    ),
    ('pretrain', 'augment.view2.jitter.hue', 0.6),
    *(('evals/knn', 'ks', (0,)), ('evals/knn', 'ks', ())),
    *(('evals/knn', 'temperatures', (0.0,)), ('evals/knn', 'batch_size', 0)),
    ('evals/linear', 'features', 'both'),
    *(('evals/linear', 'rates', x) for x in ((), (0.1, 0.1))),
    ('evals/linear', 'momentum', 1.0),
    ('evals/transfer', 'min_lambda', 1e6),
    ('evals/transfer', 'eval_crop', 'half'),
    ('evals/transfer', 'num_lambdas', 0),
  ),
)
def test_a_value_out_of_range_is_refused_by_its_key(preset, key, value):
  assert refused(preset, {key: value}).startswith(f'{key}: expected')
  # As in a configuration that a run has saved: tuples have become lists.
  config = configuration.read_preset(preset).unlock()
  config.update_from_flattened_dict({key: value})
  config = config_dict.ConfigDict(json.loads(json.dumps(config.to_dict())))
  with pytest.raises(errors.ConfigError, match=f'^{key}: expected'):
    configuration.check_ranges(config)


def test_an_augmentation_that_is_left_out_has_no_range():
  config = configuration.load('pretrain:300')
  with config.unlocked():
    config.augment.view1.blur = None
  configuration.check_ranges(config)
