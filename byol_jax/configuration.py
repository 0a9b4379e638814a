"""Finds and loads a configuration: a file or preset by name, with overrides.

`configs/pretrain.py:300`, `pretrain.py:300` and `pretrain:300` are the same;
a path of the user's own comes first. The presets lie beside the package in a
checkout and inside it once it is installed.

A configuration is Python that defines `get_config`, with or without an
argument.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import difflib
import importlib.util
import inspect
from pathlib import Path
import sys
import types
from typing import Any

from ml_collections import config_dict

from byol_jax import errors, overrides as overriding

PACKAGE = Path(__file__).resolve().parent
PREFIX = '--config.'


def root() -> Path:
  """The folder that holds `configs/`."""
  if (PACKAGE.parent / 'configs' / 'pretrain.py').is_file():
    return PACKAGE.parent
  return PACKAGE / 'shipped'


def names() -> list[str]:
  """The presets' files, as `configs/small/shapes.py`."""
  files = (root() / 'configs').rglob('*.py')
  return sorted(
    path.relative_to(root()).as_posix()
    for path in files
    if path.name != '__init__.py'
  )


def find(name: str) -> Path:
  """The file of a configuration.

  Raises:
    ConfigError: there is none; names the nearest.
  """
  suffixed = name if name.endswith('.py') else name + '.py'
  configs = root() / 'configs'
  candidates = (
    Path(name).expanduser(),
    root() / suffixed,
    configs / suffixed,
    configs / 'small' / suffixed,
  )
  for path in candidates:
    if path.is_file():
      return path
  # By their last part: `shape` is nearer to small/shapes than to evals/knn.
  by_end = {Path(file).name: file for file in names()}
  near = difflib.get_close_matches(Path(suffixed).name, by_end, 1, cutoff=0.0)
  raise errors.ConfigError(
    f'--config: no file or preset {name!r}; nearest: {by_end[near[0]]}'
  )


def load(
  spec: str, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> config_dict.ConfigDict:
  """A locked configuration.

  Args:
    spec: FILE[:ARGUMENT]; see the module.
    overrides: `--config.section.key=value` arguments, or a mapping from
      `section.key` to values.

  Raises:
    ConfigError: no such file or argument; an unknown key (names the nearest);
      a value of the wrong type.
  """
  config = read(spec)
  if isinstance(overrides, Mapping):
    for key, value in overrides.items():
      overriding.assign(config, key, value, key)
    return config
  for argument in overrides:
    name, equals, text = argument.partition('=')
    if not name.startswith(PREFIX) or not equals:
      raise errors.ConfigError(
        f'unknown argument {argument!r}: expected {PREFIX}section.key=value;'
        ' see --help'
      )
    overriding.assign(
      config, name.removeprefix(PREFIX), overriding.Word(text), name
    )
  return config


def read(spec: str) -> config_dict.ConfigDict:
  """A configuration as its file makes it, locked."""
  name, colon, argument = spec.partition(':')
  path = find(name)
  arguments = (argument,) if colon else ()
  with presets_first():
    try:
      module = run_file(path)
      get_config = getattr(module, 'get_config', None)
      if get_config is None:
        raise ValueError(f'{path} defines no function get_config')
      if colon and not inspect.signature(get_config).parameters:
        raise ValueError(f"{name} takes no argument after ':'")
      config = get_config(*arguments)
    except Exception as error:  # a file of the user's own raises anything
      kind = type(error).__name__
      lines = str(error).strip().splitlines() or [kind]
      reason = lines[0] if kind == 'ValueError' else f'{kind}: {lines[0]}'
      raise errors.ConfigError(f'--config={spec}: {reason}') from error
  if not isinstance(config, config_dict.ConfigDict):
    raise errors.ConfigError(
      f'--config={spec}: get_config returns {type(config).__name__}, expected'
      ' a ConfigDict of ml_collections'
    )
  return config.lock()


def run_file(path: Path) -> types.ModuleType:
  """Runs a Python file as a module that nobody else can import."""
  spec = importlib.util.spec_from_file_location('byol_jax_config', path)
  if spec is None or spec.loader is None:
    raise ValueError(f'{path} is no Python file')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@contextlib.contextmanager
def presets_first() -> Iterator[None]:
  """Within it `import configs` means ours.

  Many projects have a package of that name; a user's stays what it is.
  """
  ours = types.ModuleType('configs')
  ours.__path__ = [str(root() / 'configs')]
  is_config = lambda name: name.partition('.')[0] == 'configs'
  theirs = {k: v for k, v in sys.modules.items() if is_config(k)}
  for name in theirs:
    del sys.modules[name]
  sys.modules['configs'] = ours
  try:
    yield
  finally:
    for name in [name for name in sys.modules if is_config(name)]:
      del sys.modules[name]
    sys.modules.update(theirs)
