"""Finds, loads, changes and checks configurations.

A configuration is a Python file that defines `get_config`, with or without an
argument, and returns a ConfigDict. `configs/pretrain.py:300`,
`pretrain.py:300` and `pretrain:300` name the same file and argument; a path of
the user's own comes first. The presets lie beside the package in a checkout
and inside it once it is installed.

Of each kind (`KINDS`) one file has all keys, with their types; every other
configuration of that kind has the same. Only light packages are imported, so
that a mistake is named at once.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import difflib
import functools
import inspect
import os
from pathlib import Path
import runpy
import sys
import types
from typing import Any
import warnings

from ml_collections import config_dict

from byol_jax import errors, files, ranges

PREFIX = '--config.'
_EVALS = ['knn', 'linear', 'online', 'finetune', 'semisup', 'transfer', 'suite']
# Section -> the table, in configs/pretrain.py, of the settings that a value of
# its key `name` brings.
TABLES = {'optimizer': 'OPTIMIZERS', 'objective': 'OBJECTIVES'}
KINDS = ('pretrain', *(f'evals/{name}' for name in _EVALS))

_PACKAGE = Path(__file__).resolve().parent


def load(
  spec: str,
  overrides: Sequence[str] | Mapping[str, Any] = (),
  kind: str | None = None,
) -> config_dict.ConfigDict:
  """Returns a configuration with overrides, checked and locked.

  Args:
    spec: FILE[:ARGUMENT]; see the module.
    overrides: `--config.section.key=value` arguments, or a mapping from
      `section.key` to values. Values keep the type of their key: an int may
      stand for a float, a list for a tuple, a path for text. The last of a key
      counts. Another `optimizer.name` or `objective.name` first replaces the
      section by the settings of that name in configs/pretrain.py; `steps`
      without `epochs` sets these to 0, and the reverse.
    kind: one of `KINDS`; None for the one with the most keys of the file.

  Raises:
    ConfigError: no such file or argument; a key is unknown (names the nearest)
      or missing; a value of another type or out of its range.
  """
  config = read_preset(spec)
  if isinstance(overrides, Mapping):
    prefix, values = '', [*overrides.items()]
  else:
    prefix, values = PREFIX, [*map(_split_argument, overrides)]
  kind = _conform(config, kind, f'--config={errors.quote(spec)}: ')
  for section, table in read_tables(kind).items():
    name = str(dict(values).get(f'{section}.name'))
    if name in table and name != config[section].name:
      with config.unlocked():
        config[section] = config_dict.ConfigDict({'name': name, **table[name]})
  defaults = _read_defaults(kind, flatten(config))
  for key, (other, off) in ranges.EXCLUSIVE.items():
    if key in dict(values) and other in defaults:
      _set_value(config, defaults, other, off)
  for key, value in values:
    _set_value(config, defaults, key, value, prefix=prefix)
  check_ranges(config)
  return config


def _split_argument(argument: str) -> tuple[str, str]:
  """Returns key and text of `--config.section.key=value`."""
  name, equals, text = argument.partition('=')
  if not name.startswith(PREFIX) or not equals:
    raise errors.ConfigError(
      f'unknown argument {errors.quote(argument)}: expected'
      f' {PREFIX}section.key=value'
    )
  return name.removeprefix(PREFIX), text


def read_preset(spec: str) -> config_dict.ConfigDict:
  """Returns a configuration as its file makes it, locked and not checked.

  Raises:
    ConfigError: no such file, or it raises anything.
  """
  name, colon, argument = spec.partition(':')
  path = _find_file(name)
  with import_our_configs():
    try:
      get_config = runpy.run_path(str(path)).get('get_config')
      if get_config is None:
        raise ValueError(f'{path} defines no function get_config')
      if colon and not inspect.signature(get_config).parameters:
        raise ValueError(f'takes no argument; give --config={name}')
      config = get_config(*([argument] if colon else []))
      if not isinstance(config, config_dict.ConfigDict):
        found = type(config).__name__
        raise TypeError(f'get_config returns {found}, expected a ConfigDict')
      flatten(config)  # computes its references
      config = config_dict.ConfigDict(config)  # a frozen one has no `lock`
    except KeyboardInterrupt:
      raise
    except BaseException as error:  # whatever a user's file raises
      raise errors.ConfigError(
        f'--config={errors.quote(spec)}: {errors.first_line(error)}'
      ) from error
  return config.lock()


def validate(
  config: config_dict.ConfigDict, kind: str
) -> config_dict.ConfigDict:
  """Returns a checked and locked copy of a configuration made in Python.

  Raises:
    ConfigError: see `load`.
  """
  if not isinstance(config, config_dict.ConfigDict):
    raise errors.ConfigError(
      'config: expected the name of a preset or a ConfigDict, found'
      f' {type(config).__name__}'
    )
  config = config_dict.ConfigDict(config).copy_and_resolve_references()
  _conform(config, kind)
  check_ranges(config)
  return config.lock()


def list_presets() -> list[str]:
  """Returns the presets' files, as `configs/small/shapes.py`."""
  root = find_root()
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


def load_or_validate(
  config: str | config_dict.ConfigDict,
  overrides: Mapping[str, Any] | None,
  kind: str,
) -> config_dict.ConfigDict:
  """Returns what `load` gives of a preset, or `validate` of a configuration."""
  if isinstance(config, str):
    return load(config, overrides or {}, kind)
  if overrides:
    raise errors.ConfigError('overrides: expected a preset by name with them')
  return validate(config, kind)


def check_ranges(config: config_dict.ConfigDict) -> None:
  """Raises ConfigError for a value out of its range; see `ranges`."""
  ranges.check_values(flatten(config))


@functools.cache
def _read_kind(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns {key: default} of all keys of a kind, and its `TABLES`."""
  with import_our_configs():
    found = runpy.run_path(str(find_root() / 'configs' / f'{kind}.py'))
    tables = {k: found[name] for k, name in TABLES.items() if name in found}
    return flatten(found['get_config']()), tables


def read_tables(kind: str = 'pretrain') -> dict[str, dict[str, dict[str, Any]]]:
  """Returns {section: {name: settings}}, see `TABLES`."""
  return _read_kind(kind)[1]


def _read_defaults(kind: str, found: Mapping[str, Any]) -> dict[str, Any]:
  """Returns {key: default} of a kind, with the names that were found."""
  defaults = _read_kind(kind)[0]
  for section, table in read_tables(kind).items():
    name = found.get(f'{section}.name')
    if name in [*table]:
      other = {'name': name, **table[name]}
      defaults = {
        k: v for k, v in defaults.items() if not k.startswith(f'{section}.')
      } | {f'{section}.{key}': value for key, value in other.items()}
  return defaults


def _conform(
  config: config_dict.ConfigDict, kind: str | None, source: str = ''
) -> str:
  """Gives a configuration, in place, the types of its kind.

  Args:
    config: any.
    kind: None for the nearest one of `KINDS`.
    source: begins the message of an error.

  Returns:
    The kind.

  Raises:
    ConfigError: a key is missing or unknown, or a value has another type.
  """
  found = flatten(config)
  kind = kind or find_kind(found)
  defaults = _read_defaults(kind, found)
  # An augmentation that is None is left out.
  left_out = tuple(
    f'{section}.'
    for section in {key.rpartition('.')[0] for key in defaults}
    if section.startswith('augment.view') and found.get(section, 0) is None
  )
  missing = [
    key for key in defaults if key not in found and not key.startswith(left_out)
  ]
  if missing:
    sections = {key.partition('.')[0] for key in found}
    names = [
      k if (top := k.partition('.')[0]) in sections else top for k in missing
    ]
    listed = ', '.join(dict.fromkeys(names))
    raise errors.ConfigError(
      f'{source}expected the keys of configs/{kind}.py, missing: {listed}'
    )
  for key, value in found.items():
    if f'{key}.' not in left_out:
      _set_value(config, defaults, key, value, source=source)
  return kind


def find_kind(found: Mapping[str, Any]) -> str:
  """Returns the kind of `KINDS` that shares most keys, of several the least."""
  keys = {kind: _read_kind(kind)[0].keys() for kind in KINDS}
  return max(KINDS, key=lambda k: (len(found.keys() & keys[k]), -len(keys[k])))


def _set_value(
  config: config_dict.ConfigDict,
  defaults: Mapping[str, Any],
  key: str,
  value: Any,
  *,
  source: str = '',
  prefix: str = '',
) -> None:
  """Sets one value of a configuration, in place.

  Args:
    config: any.
    defaults: of the keys of its kind, whose types count.
    key: with dots.
    value: of the type of the key, or text after a prefix.
    source: begins the message of an error.
    prefix: of the key on the command line.
  """
  path, _, name = key.rpartition('.')
  section = None
  if key in defaults:
    section = config[path] if path else config
  if section is None:  # unknown, or the augmentation is left out
    known = [other for other in flatten(config) if other in defaults]
    raise errors.ConfigError(
      source + ranges.describe_unknown(key, known, prefix)
    )
  kind = str if defaults[key] is None else type(defaults[key])
  words = ranges.WORDS.get(key, ())
  try:
    parsed = _parse_text(value, kind) if prefix else value
    new = parsed if parsed in words else _convert(parsed, kind, defaults[key])
  except TypeError:
    likes = ' or '.join(map(repr, (defaults[key], *words)))
    raise errors.ConfigError(
      f'{source}{prefix}{key}: expected {kind.__name__} like {likes}, found'
      f' {errors.quote(value)}'
    ) from None
  if repr(new) != repr(section[name]):  # else a reference stays one
    with section.unlocked(), section.ignore_type():
      section[name] = new


def _parse_text(text: str, kind: type) -> Any:
  """Returns what a text means where a type is expected, or the text."""
  if kind is str:
    return None if text == 'None' else text
  try:
    text = text.capitalize() if kind is bool else text.strip()
    # Python 3.12 warns of '1if' and of '"\\d"'.
    with warnings.catch_warnings(action='ignore'):
      value = ast.literal_eval(text)
  except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
    return text
  is_item = kind is tuple and not isinstance(value, tuple | list)
  return (value,) if is_item else value


def _convert(value: Any, kind: type, default: Any) -> Any:
  """Returns a value in exactly the type of a default, or raises TypeError.

  ConfigDict would take a bool for an int, anything within a tuple, and None.
  """
  if kind is tuple:
    if not isinstance(value, tuple | list):
      raise TypeError
    element = float if any(isinstance(x, float) for x in default) else int
    return tuple(_convert(x, element, 0) for x in value)
  if value is default is None:
    return None
  if kind is str:  # a text, a path, or several
    listed = value if isinstance(value, tuple | list) else [value]
    value = ','.join(map(os.fspath, listed))
  if kind is float and type(value) is int and abs(value) < 2**63:
    value = float(value)
  if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
    raise TypeError
  if isinstance(value, int) and abs(value) >= 2**63:  # its text may have no end
    raise TypeError
  if value == '' != default:  # would mean the current folder
    raise TypeError
  return value


def find_root() -> Path:
  """Returns the folder that holds `configs/`."""
  if (_PACKAGE.parent / 'configs' / 'pretrain.py').is_file():
    return _PACKAGE.parent
  return _PACKAGE / 'shipped'


def _find_file(name: str) -> Path:
  """Returns a configuration's file; ConfigError names the nearest preset."""
  suffixed = name if name.endswith('.py') else name + '.py'
  root = find_root()
  folders = (root, root / 'configs', root / 'configs' / 'small')
  if files.is_path(name):
    for path in (Path(name).expanduser(), *(f / suffixed for f in folders)):
      if path.is_file():
        return path
  # By their last part: `shape` is nearer to small/shapes than to evals/knn.
  by_name = {Path(file).stem: file for file in list_presets()}
  stem = suffixed.removesuffix('.py').rpartition('/')[2]
  near = difflib.get_close_matches(stem, by_name)
  # `byol-jax ablate --list` has the many others.
  listed = [x for x in by_name if '/ablations/' not in by_name[x]]
  raise errors.ConfigError(
    f'--config: no file or preset {errors.quote(name)};'
    f' {"nearest" if near else "presets"}:'
    f' {", ".join(by_name[x] for x in near or listed)}'
  )


@contextlib.contextmanager
def import_our_configs() -> Iterator[None]:
  """Makes `import configs` mean the presets, whatever package a user has."""

  def remove() -> dict[str, types.ModuleType]:
    names = [n for n in sys.modules if n.partition('.')[0] == 'configs']
    return {name: sys.modules.pop(name) for name in names}

  users = remove()
  package = types.ModuleType('configs')
  package.__path__ = [str(find_root() / 'configs')]
  sys.modules['configs'] = package
  try:
    yield
  finally:
    remove()
    sys.modules.update(users)
