"""Finds, loads, changes and checks configurations.

A configuration is a Python file that defines `get_config`, with or without an
argument, and returns a ConfigDict. `configs/pretrain.py:300`,
`pretrain.py:300` and `pretrain:300` name the same file and argument; a path of
the user's own comes first. The presets lie beside the package in a checkout
and inside it once it is installed.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import difflib
import os
from pathlib import Path
import re
import runpy
import sys
import types
from typing import Any

from ml_collections import config_dict

from byol_jax import errors

PREFIX = '--config.'

_PACKAGE = Path(__file__).resolve().parent

# The interval that a number, or each number of a tuple, must lie in. The same
# rules hold for both views, `augment.view1` and `augment.view2`.
_RANGES = {
  'epochs': '(0, inf)',
  'batch_size': '[1, inf)',
  'image_size': '[8, inf)',
  'seed': f'[0, {2**32})',
  'network.bn_decay': '[0, 1)',
  'network.bn_epsilon': '(0, inf)',
  'target.base_tau': '[0, 1]',
  'optimizer.weight_decay': '[0, inf)',
  'optimizer.momentum': '[0, 1)',
  'optimizer.trust_coefficient': '(0, inf)',
  'schedule.base_rate': '[0, inf)',
  'schedule.warmup_epochs': '[0, inf)',
  'input.threads': '[0, inf)',
  'input.cache_gib': '[0, inf)',
  'input.max_bad_share': '[0, 1]',
  'input.resident_gib': '(0, inf)',
  'input.steps_per_call': '[0, inf)',
  'log.every_steps': '[1, inf)',
  'faults.max_skips': '[0, inf)',
  'faults.max_rollbacks': '[0, inf)',
  'faults.stall_seconds': '[0, inf)',
  'checkpoint.keep': '[1, inf)',
  'checkpoint.every_steps': '[0, inf)',
  'checkpoint.every_minutes': '[0, inf)',
  # One view.
  'crop.area': '(0, 1]',
  'crop.ratio': '(0, inf)',
  'flip.probability': '[0, 1]',
  'jitter.probability': '[0, 1]',
  'jitter.brightness': '[0, 1]',
  'jitter.contrast': '[0, 1]',
  'jitter.saturation': '[0, 1]',
  'jitter.hue': '[0, 0.5]',
  'grayscale.probability': '[0, 1]',
  'blur.probability': '[0, 1]',
  'blur.sigma': '(0, inf)',
  'solarize.probability': '[0, 1]',
  'solarize.threshold': '[0, 1]',
  # Evaluations.
  'ks': '[1, inf)',
  'temperature': '(0, inf)',
  'rates': '(0, inf)',
  'momentum': '[0, 1)',
}
# Tuples of a lower and an upper bound.
_PAIRS = ('crop.area', 'crop.ratio', 'blur.sigma')
_CHOICES = {
  'target.schedule': ('cosine', 'constant'),
  'data.eval_crop': ('resize', 'crop', 'whole'),
  'data.decoding': ('once', 'crops'),
  'data.transfer': ('float32', 'uint8'),
  'input.cache': ('none', 'encoded', 'decoded'),
  'features': ('augmented', 'cached'),
}


def load(
  spec: str, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> config_dict.ConfigDict:
  """Returns a configuration with overrides, checked and locked.

  Args:
    spec: FILE[:ARGUMENT]; see the module.
    overrides: `--config.section.key=value` arguments, or a mapping from
      `section.key` to values. Values keep the type of their key: an int may
      stand for a float, a list for a tuple, a path for text. The last of a key
      counts.

  Raises:
    ConfigError: no such file or argument; an unknown key (names the nearest);
      a value of another type or out of its range.
  """
  config = read_preset(spec)
  if isinstance(overrides, Mapping):
    for key, value in overrides.items():
      _set_value(config, key, value, shown=key)
  else:
    for argument in overrides:
      name, equals, text = argument.partition('=')
      if not name.startswith(PREFIX) or not equals:
        raise errors.ConfigError(
          f'unknown argument {argument!r}: expected {PREFIX}section.key=value;'
          ' see --help'
        )
      key = name.removeprefix(PREFIX)
      _set_value(config, key, text, shown=name, parse=True)
  check_ranges(config)
  return config


def read_preset(spec: str) -> config_dict.ConfigDict:
  """Returns a configuration as its file makes it, locked and not checked.

  Raises:
    ConfigError: no such file, or it raises anything.
  """
  name, colon, argument = spec.partition(':')
  path = _find_file(name)
  with _import_our_configs():
    try:
      get_config = runpy.run_path(str(path)).get('get_config')
      if get_config is None:
        raise ValueError(f'{path} defines no function get_config')
      config = get_config(*([argument] if colon else []))
    except Exception as error:  # a user's file may raise anything
      raise errors.ConfigError(
        f'--config={spec}: {errors.first_line(error)}'
      ) from error
  if not isinstance(config, config_dict.ConfigDict):
    raise errors.ConfigError(
      f'--config={spec}: get_config returns {type(config).__name__}, expected'
      ' a ConfigDict of ml_collections'
    )
  return config.lock()


def list_presets() -> list[str]:
  """Returns the presets' files, as `configs/small/shapes.py`."""
  root = _find_root()
  files = (root / 'configs').rglob('*.py')
  return sorted(path.relative_to(root).as_posix() for path in files)


def flatten(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Returns {'section.key': value} of all keys that hold values."""
  flat: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, config_dict.ConfigDict):
      flat |= {f'{key}.{k}': v for k, v in flatten(value).items()}
    else:
      flat[key] = value
  return flat


def check_ranges(config: config_dict.ConfigDict) -> None:
  """Raises ConfigError for a value out of its range, naming the key.

  Such a value would fail late, in the words of another library, or not at all.
  """
  from byol_jax import losses  # imports JAX, which --help does not need

  choices = _CHOICES | {'objective.name': tuple(losses.OBJECTIVES)}
  for key, value in flatten(config).items():
    rule = re.sub(r'^augment\.view\d\.', '', key)
    if rule in choices and value not in choices[rule]:
      expected = f'one of {list(choices[rule])}'
    elif rule in _RANGES and not _is_in_range(rule, value):
      is_number = isinstance(value, int | float)
      what = 'a number' if is_number else 'different numbers'
      what = 'two rising numbers' if rule in _PAIRS else what
      expected = f'{what} in {_RANGES[rule]}'
    else:
      continue
    raise errors.ConfigError(f'{key}: expected {expected}, found {value!r}')


def _is_in_range(rule: str, value: Any) -> bool:
  if isinstance(value, list | tuple):
    is_pair = rule in _PAIRS and len(value) == 2 and value[0] <= value[1]
    is_set = rule not in _PAIRS and 0 < len(value) == len({*value})
    return (is_pair or is_set) and all(_is_in_range(rule, x) for x in value)
  interval = _RANGES[rule]
  low, high = map(float, interval[1:-1].split(','))
  # Written so that NaN is in no interval.
  above = value >= low if interval[0] == '[' else value > low
  return above and (value <= high if interval[-1] == ']' else value < high)


def _set_value(
  config: config_dict.ConfigDict,
  key: str,
  value: Any,
  *,
  shown: str,
  parse: bool = False,
) -> None:
  """Sets one value of a configuration, in place.

  Args:
    config: any.
    key: with dots.
    value: of the type of the key, or text if `parse`.
    shown: the key as the user wrote it.
    parse: whether the value comes from a command line.
  """
  known = flatten(config)
  if key not in known:
    inside = [name for name in known if name.startswith(key + '.')]
    near = inside or difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    problem = (
      'is a section; one of its keys' if inside else ('no such key; nearest')
    )
    prefix = shown.removesuffix(key)
    raise errors.ConfigError(f'{shown}: {problem}: {prefix}{near[0]}')
  path, _, name = key.rpartition('.')
  section = config[path] if path else config
  kind, old = section.get_type(name), known[key]
  found = _parse_text(value, kind) if parse else value
  if isinstance(found, os.PathLike):
    found = os.fspath(found)
  if not _has_type(found, kind, old):
    raise errors.ConfigError(
      f'{shown}: expected {kind.__name__} like {old!r}, found {value!r}'
    )
  if kind is tuple:
    found = tuple(_element_type(old)(x) for x in found)
  section[name] = found  # ConfigDict makes a float of an int


def _parse_text(text: str, kind: type) -> Any:
  """Returns what a text means where a type is expected, or the text."""
  if kind is str:
    return None if text == 'None' else text
  with contextlib.suppress(ValueError, SyntaxError):
    text = text.capitalize() if kind is bool else text.strip()
    value = ast.literal_eval(text)
    return (value,) if kind is tuple and _is_number(value, float) else value
  return text


def _has_type(value: Any, kind: type, old: Any) -> bool:
  """Whether a value may replace `old`: stricter than ConfigDict."""
  if value is None:
    return old is None
  if kind is tuple:
    is_sequence = isinstance(value, list | tuple)
    return is_sequence and all(_is_number(x, _element_type(old)) for x in value)
  if kind in (int, float):
    return _is_number(value, kind)
  # An empty text would be the folder of the command.
  return isinstance(value, kind) and (value != '' or old == '')


def _is_number(value: Any, kind: type) -> bool:
  number = int if kind is int else int | float
  return isinstance(value, number) and not isinstance(value, bool)


def _element_type(old: tuple) -> type:
  return float if any(isinstance(x, float) for x in old) else int


def _find_root() -> Path:
  """Returns the folder that holds `configs/`."""
  if (_PACKAGE.parent / 'configs' / 'pretrain.py').is_file():
    return _PACKAGE.parent
  return _PACKAGE / 'shipped'


def _find_file(name: str) -> Path:
  """Returns a configuration's file; ConfigError names the nearest preset."""
  suffixed = name if name.endswith('.py') else name + '.py'
  root = _find_root()
  folders = (root, root / 'configs', root / 'configs' / 'small')
  for path in (Path(name).expanduser(), *(f / suffixed for f in folders)):
    if path.is_file():
      return path
  # By their last part: `shape` is nearer to small/shapes than to evals/knn.
  by_name = {Path(file).name: file for file in list_presets()}
  near = difflib.get_close_matches(Path(suffixed).name, by_name, 1, cutoff=0.0)
  raise errors.ConfigError(
    f'--config: no file or preset {name!r}; nearest: {by_name[near[0]]}'
  )


@contextlib.contextmanager
def _import_our_configs() -> Iterator[None]:
  """Makes `import configs` mean the presets, whatever package a user has."""

  def remove() -> dict[str, types.ModuleType]:
    names = [n for n in sys.modules if n.partition('.')[0] == 'configs']
    return {name: sys.modules.pop(name) for name in names}

  users = remove()
  package = types.ModuleType('configs')
  package.__path__ = [str(_find_root() / 'configs')]
  sys.modules['configs'] = package
  try:
    yield
  finally:
    remove()
    sys.modules.update(users)
