"""Every value has a finite range, and any text gives a line or a run."""

import contextlib
import math
import random

import jax
import pytest

from byol_jax import (
  __main__ as command,
  api,
  byol,
  configuration,
  errors,
  experiment,
  losses,
  networks,
  optimizers,
  ranges,
  resnet,
)
from byol_jax.data import catalog
from byol_jax.data.sampling import resize
from byol_jax.evaluation import pretrained
from configs import pretrain

KEYS = {
  kind: configuration.flatten(configuration.load(kind))
  for kind in configuration.KINDS
}
ALL = [(kind, key) for kind, keys in KEYS.items() for key in keys]
NUMBERS = [
  (kind, key)
  for kind, key in ALL
  if isinstance(KEYS[kind][key], int | float | tuple)
  and not isinstance(KEYS[kind][key], bool)
]
# Those of every optimizer and objective, with the name that has them.
SETTINGS = [
  (name, f'{section}.{key}')
  for section, table in configuration.read_tables().items()
  for name, settings in table.items()
  for key in settings
]
ENDLESS = (math.inf, -math.inf, math.nan, 1e300, -1e300, 2**62, -(2**62))


def test_names_are_those_of_the_method():
  for key, known in (
    ('network.encoder', resnet.ENCODERS),
    ('network.stem', resnet.STEMS),
    ('network.padding', resnet.PADDINGS),
    ('network.head_norm', networks.HEAD_NORMS),
    ('target.parameters', byol.TARGET_PARAMS),
    ('objective.name', losses.OBJECTIVES),
    ('objective.name', pretrain.OBJECTIVES),
    ('objective.normalization', losses.NORMALIZATIONS),
    ('optimizer.name', optimizers.OPTIMIZERS),
    ('optimizer.name', pretrain.OPTIMIZERS),
    ('data.holdout', catalog.HOLDOUTS),
    ('data.eval_crop', resize.METHODS),
    ('weights', pretrained.WEIGHTS),
  ):
    assert {*ranges.CHOICES[key]} == {*known}, key
  channels = {
    k: x.channels[len(x.blocks) - 1] for k, x in resnet.ENCODERS.items()
  }
  assert channels == ranges.CHANNELS


def test_every_key_has_a_range_or_choices_and_every_range_a_key():
  for kind, key in ALL:
    is_bool = isinstance(KEYS[kind][key], bool)
    assert is_bool or ranges.describe_values(key), (
      f'{key} has no range in ranges.py'
    )
  used = {ranges.get_rule(key) for _, key in (*ALL, *SETTINGS)}
  assert ranges.RANGE_OF.keys() | ranges.CHOICES.keys() <= used


@pytest.mark.parametrize('name, key', SETTINGS)
def test_no_setting_of_a_name_is_without_end(name, key):
  section = key.partition('.')[0]
  names = {f'{section}.name': name}
  default = configuration.flatten(configuration.load('pretrain', names))[key]
  for value in (math.inf, 1e300, -1.0) if type(default) is float else ():
    with pytest.raises(errors.ConfigError, match=f'^{key}: expected'):
      configuration.load('pretrain', {**names, key: value})


@pytest.mark.parametrize(
  'changes, refused',
  [
    ({'projector': (), 'predictor': (512, 2048)}, ''),
    ({'projector': (), 'predictor': ()}, ''),
    ({'projector': (), 'predictor': (512, 1024)}, 'representation, 2048'),
    ({'projector': (), 'predictor': (9, 1024), 'width': 0.5}, ''),
    ({'predictor': (512, 2048)}, 'network.projector, 256'),
    ({'head_norm': 'group', 'predictor': (48, 256)}, r'\(4096, 48\)'),
    ({'head_norm': 'group', 'predictor': (256,)}, ''),
  ],
)
def test_heads_fit_what_they_predict_and_their_norm(changes, refused):
  changes = {f'network.{key}': value for key, value in changes.items()}
  if not refused:
    configuration.load('pretrain', changes)
    return
  with pytest.raises(errors.ConfigError, match=refused):
    configuration.load('pretrain', changes)


@pytest.mark.parametrize('kind, key', NUMBERS)
def test_no_number_is_without_end(kind, key):
  default = KEYS[kind][key]
  for value in ENDLESS:
    changed = (value,) * len(default) if isinstance(default, tuple) else value
    with pytest.raises(errors.ConfigError, match=f'^{key}: expected'):
      ranges.check_values({key: changed})  # as a saved configuration has it
  with pytest.raises(errors.ConfigError, match=f'^{key}: expected'):
    configuration.load(kind, {key: changed})


def test_numbers_by_which_results_are_named_differ_in_six_digits():
  ranges.check_values(
    {'temperatures': (0.1, 0.100001), 'ks': (200_000, 199_999)}
  )
  for values in ((0.1, 0.1000001), (0.1, 0.1)):
    with pytest.raises(errors.ConfigError, match='that differ in six digits'):
      ranges.check_values({'temperatures': values})


def draw_text(rng, key, default):
  """A text for a key: half of them near its default."""
  if rng.random() < 0.5:
    scale = rng.choice([0.5, 0.9, 1.5])
    if isinstance(default, tuple):
      return str(tuple(type(x)(x * scale) for x in default))
    if isinstance(default, int | float) and not isinstance(default, bool):
      return str(type(default)(default * scale))
    rule = ranges.get_rule(key)
    return str(rng.choice(ranges.CHOICES.get(rule, [default, True, 'some'])))
  number = rng.choice([0, 1, 2, 3, 8, 1e-9, 0.5, 1e6, 1e26, -5, *ENDLESS])
  junk = ''.join(rng.choices('(),[]{}-+.~/:=\\\'"%$\n\x1b\udcff 0e9xñ', k=9))
  return rng.choice(
    [
      *(f'{default}0', str(number), f'({number}, {number})', junk, junk * 999),
      *('', 'None', 'True', 'nan', '[' * 999, '-' * 9999 + '1', '{[]}', '1if'),
      *('0x' + 'f' * 9999, '"\\d"', '~nosuchuser/x', 'http://x', 'gs://', '\0'),
    ]
  )


def draw_arguments(rng, kind):
  """One or two overrides, a tenth of them of keys that do not exist."""
  for _ in range(rng.randint(1, 2)):
    key = rng.choice([*KEYS[kind]])
    text = draw_text(rng, key, KEYS[kind][key])
    if rng.random() < 0.1:
      key = rng.choice([key[1:], key + 'x', key.rpartition('.')[0], text])
    yield f'--config.{key}={text}'


def test_random_overrides_give_one_line_or_a_run(monkeypatch, capsys, tmp_path):
  """150 command lines; nothing is written before the check, or by it."""
  rng, accepted = random.Random(0), []
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(
    *(api, 'pretrain'),
    lambda config, workdir, profile: accepted.append(config) or DONE,
  )
  for _ in range(150):
    count = len(accepted)
    arguments = [*draw_arguments(rng, 'pretrain')]
    code = command.main(
      ['pretrain', '--config=shapes', '--workdir=new', *arguments]
    )
    found = capsys.readouterr()
    if len(accepted) > count:
      assert (code, found.err) == (0, ''), arguments
    else:
      line = found.err.removesuffix('\n')
      assert code == 2 and line.startswith('byol_jax: '), arguments
      assert line.isprintable() and len(line) < 2000, arguments
  assert 15 < len(accepted) < 135
  assert not [*tmp_path.iterdir()]
  for config in rng.sample(accepted, 4):
    built = experiment.build(config, 10_000, 10)
    jax.eval_shape(built.initial_state)


DONE = {'unusable_images': 0, 'step': 1}


@pytest.mark.parametrize('kind', configuration.KINDS[1:])
def test_random_overrides_of_an_evaluation(kind):
  rng, lines = random.Random(1), []
  for _ in range(60):
    with contextlib.suppress(errors.ConfigError):
      configuration.load(kind, [*draw_arguments(rng, kind)], kind)
      lines.append(kind)
  assert 5 < len(lines) < 55
