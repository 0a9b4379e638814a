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

# Interval -> the keys whose number, or numbers in a tuple, must lie in it. Keys
# of a view are given without `augment.view1.`.
_RANGES = {
  '[0, 1)': 'network.bn_decay optimizer.momentum momentum',
  '[0, 1]': """
    target.base_tau input.max_bad_share flip.probability jitter.probability
    jitter.brightness jitter.contrast jitter.saturation grayscale.probability
    blur.probability solarize.probability solarize.threshold""",
  '[0, 0.5]': 'jitter.hue',
  '(0, 1]': 'crop.area',
  '(0, inf)': """
    epochs network.bn_epsilon optimizer.trust_coefficient input.resident_gib
    crop.ratio blur.sigma temperature rates""",
  '[0, inf)': """
    optimizer.weight_decay schedule.base_rate schedule.warmup_epochs
    input.threads input.cache_gib input.steps_per_call faults.max_skips
    faults.max_rollbacks faults.stall_seconds checkpoint.every_steps
    checkpoint.every_minutes""",
  '[1, inf)': 'batch_size log.every_steps checkpoint.keep ks',
  '[8, inf)': 'image_size',
  f'[0, {2**32})': 'seed',
}
_RANGE_OF = {k: span for span, keys in _RANGES.items() for k in keys.split()}
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
      _set_value(config, key, value)
    overrides = ()
  for argument in overrides:
    name, equals, text = argument.partition('=')
    if not name.startswith(PREFIX) or not equals:
      raise errors.ConfigError(
        f'unknown argument {argument!r}: expected {PREFIX}section.key=value'
      )
    _set_value(config, name.removeprefix(PREFIX), text, prefix=PREFIX)
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
    found = type(config).__name__
    raise errors.ConfigError(
      f'--config={spec}: get_config returns {found}, expected a ConfigDict'
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
    elif rule in _RANGE_OF and not _is_in_range(rule, value):
      is_list = isinstance(value, list | tuple)
      what = 'different numbers' if is_list else 'a number'
      what = 'two rising numbers' if rule in _PAIRS else what
      expected = f'{what} in {_RANGE_OF[rule]}'
    else:
      continue
    raise errors.ConfigError(f'{key}: expected {expected}, found {value!r}')


def _is_in_range(rule: str, value: Any) -> bool:
  if isinstance(value, list | tuple):
    is_pair = rule in _PAIRS and len(value) == 2 and value[0] <= value[1]
    is_set = rule not in _PAIRS and 0 < len(value) == len({*value})
    return (is_pair or is_set) and all(_is_in_range(rule, x) for x in value)
  interval = _RANGE_OF[rule]
  low, high = map(float, interval[1:-1].split(','))
  # Written so that NaN is in no interval.
  above = value >= low if interval[0] == '[' else value > low
  return above and (value <= high if interval[-1] == ']' else value < high)


def _set_value(
  config: config_dict.ConfigDict, key: str, value: Any, prefix: str = ''
) -> None:
  """Sets one value of a configuration, in place.

  Args:
    config: any.
    key: with dots.
    value: of the type of the key, or text after a prefix.
    prefix: of the key on the command line.
  """
  known = flatten(config)
  if key not in known:
    inside = [name for name in known if name.startswith(key + '.')]
    near = inside or difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    problem = 'is a section; a key of it' if inside else 'no such key; nearest'
    raise errors.ConfigError(f'{prefix}{key}: {problem}: {prefix}{near[0]}')
  path, _, name = key.rpartition('.')
  section = config[path] if path else config
  kind, old = section.get_type(name), known[key]
  try:
    parsed = _parse_text(value, kind) if prefix else value
    section[name] = _convert(parsed, kind, old)
  except TypeError:
    raise errors.ConfigError(
      f'{prefix}{key}: expected {kind.__name__} like {old!r}, found {value!r}'
    ) from None


def _parse_text(text: str, kind: type) -> Any:
  """Returns what a text means where a type is expected, or the text."""
  if kind is str:
    return None if text == 'None' else text
  try:
    text = text.capitalize() if kind is bool else text.strip()
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text
  is_item = kind is tuple and not isinstance(value, tuple | list)
  return (value,) if is_item else value


def _convert(value: Any, kind: type, old: Any) -> Any:
  """Returns a value in exactly the type of the old one, or raises TypeError.

  ConfigDict would take a bool for an int, anything within a tuple, and None.
  """
  if kind is tuple:
    element = float if any(isinstance(x, float) for x in old) else int
    return tuple(_convert(x, element, 0) for x in value)
  if value is old is None:
    return None
  if isinstance(value, os.PathLike):
    value = os.fspath(value)
  if kind is float and type(value) is int:
    value = float(value)
  is_kind = isinstance(value, kind)
  is_empty = value == '' and old != ''  # would mean the current folder
  if not is_kind or isinstance(value, bool) != (kind is bool) or is_empty:
    raise TypeError
  return value


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
