"""Configurations: found by name, changed by key, and wrong ones refused."""

import os
import pathlib
import subprocess
import sys

from ml_collections import config_dict
import pytest

from byol_jax import configuration, errors, overrides

ROOT = pathlib.Path(__file__).resolve().parent.parent
OWN = """
from ml_collections import config_dict
from configs.small import shapes

def get_config():
  config = shapes.get_config()
  config.seed = 77
  return config
"""


def refused(spec, overrides=()):
  """The one line of an error."""
  with pytest.raises(errors.ConfigError) as caught:
    configuration.load(spec, overrides)
  assert '\n' not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize(
  'spec', ('configs/pretrain.py:300', 'pretrain.py:300', 'pretrain:300')
)
def test_three_spellings_are_one(spec):
  assert configuration.load(spec) == configuration.load(
    'configs/pretrain.py:300'
  )
  assert configuration.load(spec).epochs == 300


def test_every_file_of_configs_is_a_preset_that_is_locked():
  found = configuration.names()
  assert {'configs/pretrain.py', 'configs/small/shapes.py'} <= set(found)
  for name in found:
    config = configuration.load(name)
    assert config.is_locked
    with pytest.raises(AttributeError):
      config.misspelt = 1


def test_a_file_of_the_users_own_comes_first_and_may_use_ours(
  tmp_path, monkeypatch
):
  (tmp_path / 'shapes.py').write_text(OWN)
  assert configuration.load('shapes.py').seed == 0
  monkeypatch.chdir(tmp_path)
  assert configuration.load('shapes.py').seed == 77
  assert configuration.load('shapes').seed == 0  # no path, so a preset's name
  assert configuration.load(str(tmp_path / 'shapes.py')).seed == 77


def test_a_package_configs_of_the_users_own_stays_what_it_is(
  tmp_path, monkeypatch
):
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / '__init__.py').write_text('MINE = True\n')
  code = (
    'import configs; from byol_jax import configuration;'
    "assert configuration.load('shapes').dataset == 'shapes';"
    "name = configuration.load('imagenette:cpu').dataset;"
    "assert name.startswith('imagenette');"
    'import configs; assert configs.MINE'
  )
  subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': f'{tmp_path}:{ROOT}'},
    check=True,
  )


@pytest.mark.parametrize(
  'word, key, expected',
  (
    ('seed=3', 'seed', 3),
    ('epochs=7', 'epochs', 7.0),
    ('schedule.base_rate=1e-2', 'schedule.base_rate', 0.01),
    ('network.projector=(32,16,8)', 'network.projector', (32, 16, 8)),
    ('network.projector=[32, 8]', 'network.projector', (32, 8)),
    ('network.projector=()', 'network.projector', ()),
    ('network.projector=8', 'network.projector', (8,)),
    ('augment.view1.crop.area=(1,1)', 'augment.view1.crop.area', (1.0, 1.0)),
    ('log.tensorboard=false', 'log.tensorboard', False),
    ('log.tensorboard=True', 'log.tensorboard', True),
    ('data_dir=here', 'data_dir', 'here'),
    ('data_dir=None', 'data_dir', None),
    # Text is text, though it looks like a number or holds an equals sign.
    ('dataset=1e3', 'dataset', '1e3'),
    ('dataset=a=b', 'dataset', 'a=b'),
    ('dataset=(x)', 'dataset', '(x)'),
  ),
)
def test_a_word_takes_the_type_of_its_key(word, key, expected):
  config = configuration.load('shapes', [f'--config.{word}'])
  found = config
  for part in key.split('.'):
    found = found[part]
  assert found == expected
  assert type(found) is type(expected)
  if isinstance(expected, tuple):
    assert [*map(type, found)] == [*map(type, expected)]


def test_the_last_of_a_key_counts():
  words = [
    '--config.network.projector=(1,2)',
    '--config.network.projector=(3,)',
  ]
  assert configuration.load('shapes', words).network.projector == (3,)


def test_words_and_values_of_python_are_the_same():
  words = ['--config.epochs=2', '--config.network.projector=(8,4)']
  values = {'epochs': 2, 'network.projector': [8, 4]}
  assert configuration.load('shapes', words) == configuration.load(
    'shapes', values
  )
  path = configuration.load('shapes', {'dataset': pathlib.Path('a')}).dataset
  assert path == 'a' and type(path) is str


def test_nothing_else_changes():
  before, after = (
    configuration.load('shapes'),
    configuration.load('shapes', {'seed': 1}),
  )
  assert after.seed == 1
  after.seed = 0
  assert before == after


@pytest.mark.parametrize(
  'key, value',
  (
    ('seed', 'x'),
    ('seed', 1.5),
    ('seed', True),
    ('seed', None),
    ('epochs', 'ten'),
    ('epochs', False),
    ('log.tensorboard', 'maybe'),
    ('log.tensorboard', 2),
    ('dataset', ''),
    ('network.projector', ('a', 'b')),
    ('network.projector', (1.5, 2)),
    ('network.projector', ((1, 2), 3)),
    ('augment.view1.crop.area', 'wide'),
  ),
)
def test_another_type_is_refused(key, value):
  words = refused('shapes', {key: value})
  assert words.startswith(f'{key}: expected ') and 'found' in words
  assert refused('shapes', [f'--config.{key}={value}']) == (
    f'--config.{words.rpartition(", found")[0]}, found {str(value)!r}'
  )


def test_an_unknown_key_names_the_nearest():
  assert refused('shapes', {'sed': 1}) == 'sed: no such key; nearest: seed'
  words = refused('shapes', ['--config.optimizer.weight_decy=1'])
  assert words.endswith('nearest: --config.optimizer.weight_decay')
  # Of LARS, which this preset's optimiser may not be.
  assert 'no such key' in refused('shapes', {'optimizer.frob': 1})
  assert 'is a section' in refused('shapes', {'optimizer': 1})
  assert 'is a section' in refused('shapes', {'augment.view1': None})


@pytest.mark.parametrize('word', ('seed=1', '--seed=1', '--config.seed', '-x'))
def test_a_word_of_another_form_is_refused(word):
  assert 'expected --config.section.key=value' in refused('shapes', [word])


@pytest.mark.parametrize(
  'text, reason',
  (
    ('x = 1', 'defines no function get_config'),
    ('def get_config(: pass', 'SyntaxError'),
    ('def get_config(): return {}', 'returns dict, expected a ConfigDict'),
    ('def get_config(): return 1 / 0', 'ZeroDivisionError: division by zero'),
    ('import no_such_module', "ModuleNotFoundError: No module named 'no_such"),
  ),
)
def test_a_broken_file_is_one_line(tmp_path, text, reason):
  path = tmp_path / 'own.py'
  path.write_text(text + '\n')
  words = refused(str(path))
  assert words.startswith(f'--config={path}: ') and reason in words


def test_an_argument_that_a_preset_does_not_take():
  assert "shapes takes no argument after ':'" in refused('shapes:1')
  assert "unknown preset 'x'" in refused('pretrain:x')


def test_values_may_be_of_any_numbers_where_none_were():
  config = config_dict.ConfigDict({'sizes': ()}).lock()
  overrides.assign(config, 'sizes', (3, 4), 'sizes')
  assert config.sizes == (3, 4)
