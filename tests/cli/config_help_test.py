"""Each key of a configuration is explained once, beside its default."""

import pytest

from byol_jax import __main__ as command, configuration, ranges
from byol_jax.cli import config_help
from tests.helpers import tiny_run

PAGE = tiny_run.ROOT / 'docs' / 'configuration.md'
ALL = [
  (kind, key, value)
  for kind in configuration.KINDS
  for key, value in configuration.flatten(
    configuration.read_preset(kind)
  ).items()
]


def test_every_key_says_what_it_means_and_which_values_it_takes():
  """Write it behind the default in configs/, or in the lines above the key."""
  for kind, key, value in ALL:
    text = config_help.explain_key(kind, key, value)
    values = ranges.describe_values(key) or 'True or False'
    assert len(text) > len(values) + 10, f'{kind}: {key} has no comment'


def test_settings_of_every_optimizer_and_objective_are_explained():
  meanings = config_help.read_meanings('pretrain')
  for section, table in configuration.read_tables().items():
    for settings in table.values():
      for key in settings:
        assert meanings[f'{section}.{key}']
        assert f'`{section}.{key}` = ' in PAGE.read_text()


def test_the_page_is_what_the_comments_say():
  assert PAGE.read_text() == config_help.make_page(), 'run: make docs'
  assert max(map(len, PAGE.read_text().splitlines())) <= 120


@pytest.mark.parametrize(
  'words, expected',
  (
    ('schedule.base_rate', '--config.schedule.base_rate=0.2\n    The highest'),
    ('hue --config=shapes', '--config.augment.view2.jitter.hue=0.5\n    '),
    ('optimizer', '--config.optimizer.trust_coefficient=0.001\n    Scales'),
    ('optimizer --config.optimizer.name=adamw', 'weight_decay=0.0001\n'),
    ('ks --config=evals/suite:cpu', '--config.knn.ks=(1, 20, 200)\n    Num'),
    ('--config=evals/linear:cpu', 'features=cached\n'),
    ('GiB', '--config.input.cache_gib='),  # a word of the explanation
    ('Tau', '--config.target.base_tau='),  # a part of a name
  ),
)
def test_the_verb_explains_a_key_or_a_section(words, expected, capsys):
  assert command.main(['config', *words.split()]) == 0
  printed = capsys.readouterr().out
  assert expected in printed
  assert max(map(len, printed.splitlines())) <= 80


def test_a_misspelt_key_names_the_one_near_it(capsys):
  assert command.main(['config', 'optimizer.momentun']) == 2
  assert 'nearest: optimizer.momentum' in capsys.readouterr().err
