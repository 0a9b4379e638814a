"""Changes of single values of a configuration, which keep their types.

From Python or, as `Word`, from the command line; the last of a key counts.
"""

import ast
import contextlib
import difflib
import os
from typing import Any

from ml_collections import config_dict

from byol_jax import errors

KINDS = {
  bool: 'True or False',
  int: 'a whole number',
  float: 'a number',
  str: 'text',
  tuple: 'numbers',
}


class Word(str):
  """A value as the command line gives it: its type is not known yet."""


def keys(config: config_dict.ConfigDict, prefix: str = '') -> list[str]:
  """All keys that hold values, flattened with dots."""
  found = []
  for key in config:
    value = config[key]
    if isinstance(value, config_dict.ConfigDict):
      found += keys(value, f'{prefix}{key}.')
    else:
      found.append(prefix + key)
  return found


def lookup(config: config_dict.ConfigDict, key: str) -> Any:
  """The value, or section, of a key with dots."""
  value: Any = config
  for name in key.split('.'):
    value = value[name]
  return value


def assign(
  config: config_dict.ConfigDict, key: str, value: Any, shown: str
) -> None:
  """Sets one value, in place.

  Args:
    config: locked.
    key: with dots.
    value: of the type that the key has (an int may stand for a float, a list
      for a tuple, a path for text), or a `Word`.
    shown: the key, in messages.

  Raises:
    ConfigError: no such key, or another type.
  """
  known = keys(config)
  inside = [name for name in known if name.startswith(key + '.')]
  if inside:
    raise errors.ConfigError(
      f'{shown}: is a section; set one of its keys, as {shown}'
      f'{inside[0].removeprefix(key)}'
    )
  if key not in known:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    before = shown.removesuffix(key)
    raise errors.ConfigError(
      f'{shown}: no such key; nearest: {before}{near[0]}'
    )
  path, _, name = key.rpartition('.')
  section = lookup(config, path) if path else config
  old, kind = section[name], section.get_type(name)
  found = parsed(value, kind) if isinstance(value, Word) else value
  if not fits(found, old, kind):
    raise errors.ConfigError(
      f'{shown}: expected {KINDS.get(kind, kind.__name__)} like {old!r}, found'
      f' {value!r}'
    )
  section[name] = converted(found, old, kind)


def parsed(word: Word, kind: type) -> Any:
  """What a word means where a type is expected; itself if it means nothing."""
  if kind is str:
    return None if word == 'None' else str(word)
  if kind is bool:
    return {'true': True, 'false': False}.get(word.lower(), word)
  with contextlib.suppress(ValueError, SyntaxError):
    value = float(word) if kind is float else ast.literal_eval(word.strip())
    # One number stands for a tuple of one.
    return (value,) if kind is tuple and is_number(value, float) else value
  return word


def fits(value: Any, old: Any, kind: type) -> bool:
  """Whether a value may replace `old`, whose type is `kind`."""
  if kind is str:
    if value is None:
      return old is None
    return isinstance(value, str | os.PathLike) and bool(os.fspath(value))
  if kind is tuple:
    numbers = isinstance(value, list | tuple)
    return numbers and all(is_number(x, element(old)) for x in value)
  if kind in (int, float):
    return is_number(value, kind)
  return isinstance(value, kind)


def converted(value: Any, old: Any, kind: type) -> Any:
  """A value that fits, in exactly the type; None stays."""
  if kind is str and value is not None:
    return os.fspath(value)
  if kind is tuple:
    return tuple(element(old)(x) for x in value)
  return kind(value) if kind in (int, float) else value


def element(old: Any) -> type:
  """The type of a tuple's numbers: float if one of them is."""
  return float if any(isinstance(x, float) for x in old) else int


def is_number(value: Any, kind: type) -> bool:
  """Whether it is a number that an int, or a float, can hold as it is."""
  if isinstance(value, bool):
    return False
  return isinstance(value, int) or (kind is float and isinstance(value, float))
