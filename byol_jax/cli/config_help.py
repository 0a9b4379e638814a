"""What the keys of a configuration mean, and which values they may have.

The meaning of a key is the comment beside its default in `configs/`: behind
the value, or in the lines above the key. `ranges` knows the values.
"""

import ast
from collections.abc import Iterator, Mapping
import functools
import itertools
import textwrap
from typing import Any

from ml_collections import config_dict

from byol_jax import configuration, errors, files, ranges

_INTRO = """\
<!-- Written by `make docs` from the comments in configs/; change those. -->

# Configuration

`--config=NAME` takes a preset, with an argument after a colon (`pretrain:300`,
`cifar10:cpu`), or the path of a Python file of your own that has a function
`get_config`. `--config.section.key=value` changes one value. From Python:
`byol_jax.pretrain('shapes', 'runs/demo', {'optimizer.name': 'sgd'})`.

```
byol-jax config                            # all keys of a pretraining
byol-jax config optimizer --config=shapes  # a section, in a preset
byol-jax config memory                     # keys whose explanation has a word
byol-jax config --config=evals/linear:cpu  # the keys of an evaluation
```

A value has the type of its default; a whole number may stand for any number,
and several numbers are `'(256, 64)'`. An unknown key is refused at once, with
those near it, and so is a value that is not allowed. `None` is no value.
"""


@functools.cache
def read_meanings(kind: str) -> dict[str, str]:
  """Returns {key or section: meaning} of a kind of `configuration.KINDS`.

  Keys are as `ranges.get_rule` gives them, in the order of the file; '' where
  no comment is. A file has the meanings of those of `configs.evals` that it
  imports, too.
  """
  text = (configuration.find_root() / 'configs' / f'{kind}.py').read_text()
  tree = ast.parse(text)
  found: dict[str, str] = {}
  for node in tree.body:
    if isinstance(node, ast.ImportFrom) and node.module == 'configs.evals':
      for alias in node.names:
        found |= read_meanings(f'evals/{alias.name}')
  dicts = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
  inner = {id(value) for node in dicts for value in node.values}
  # `OPTIMIZERS['lars']`, which other dictionaries take in -> its dictionary.
  named = {
    f'{ast.unparse(node.target)}[{ast.unparse(key)}]': value
    for node in tree.body
    if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)
    for key, value in zip(node.value.keys, node.value.values)
    if key and isinstance(value, ast.Dict)
  }
  lines = text.splitlines()
  for outer in dicts:
    if id(outer) not in inner:
      for key, meaning in _read_dict(outer, lines, named):
        found[key] = meaning or found.get(key, '')
  for section, table in configuration.TABLES.items():
    for name, value in named.items():
      if name.startswith(f'{table}['):
        for key, meaning in _read_dict(value, lines, named, f'{section}.'):
          found.setdefault(key, meaning)
  return found


def _read_dict(
  node: ast.Dict,
  lines: list[str],
  named: Mapping[str, ast.Dict],
  prefix: str = '',
) -> Iterator[tuple[str, str]]:
  """Yields (key, meaning) of a dictionary and of those in it."""
  for key, value in zip(node.keys, node.values):
    if key is None and (other := named.get(ast.unparse(value))):  # `**other`
      yield from _read_dict(other, lines, named, prefix)
    if not isinstance(key, ast.Constant):
      continue
    name = f'{prefix}{key.value!s}'
    before = (line.strip() for line in reversed(lines[: key.lineno - 1]))
    above = [*itertools.takewhile(lambda line: line.startswith('#'), before)]
    rest = lines[(value.end_lineno or 0) - 1][value.end_col_offset :]
    behind = '' if isinstance(value, ast.Dict) else rest.partition('#')[2]
    comments = (line.strip('# ') for line in (*above[::-1], behind))
    yield name, ' '.join(filter(None, comments))
    if isinstance(value, ast.Dict):
      yield from _read_dict(value, lines, named, f'{name}.')


def explain_key(kind: str, key: str, default: Any = None) -> str:
  """Returns the meaning of a key, or of a section, and its allowed values."""
  section = f'evals/{key.partition(".")[0]}'
  kind = section if '.' in key and section in configuration.KINDS else kind
  meaning = read_meanings(kind).get(ranges.get_rule(key), '')
  values = ranges.describe_values(key)
  if isinstance(default, bool):
    values = 'True or False'
  elif isinstance(default[0] if isinstance(default, tuple) else default, int):
    values = values.replace('number', 'whole number')
  elif values == files.EXPECTED_PATH:
    values = 'a path, gs://BUCKET/... or a name'
  return ' '.join(_to_sentence(text) for text in (meaning, values) if text)


def _to_sentence(text: str) -> str:
  first = text.partition(' ')[0]
  text = text if not first.islower() else text[0].upper() + text[1:]
  return f'{text.removesuffix(".")}.'


def list_lines(
  spec: str, overrides: list[str], wanted: str | None
) -> Iterator[str]:
  """Yields lines that explain a configuration.

  `wanted` is a key, a section, or the last part of a key; None for all. Of any
  other word the keys that have it in their name or explanation.

  Raises:
    ConfigError: see `configuration.load`; no such key.
  """
  config = configuration.load(spec, overrides)
  kind = configuration.find_kind(configuration.flatten(config))
  flat = _sort_keys(kind, config)
  keys = [
    key
    for key in flat
    if wanted is None
    or f'{key}.'.startswith(f'{wanted}.')
    or key.endswith(f'.{wanted}')
  ]
  keys = keys or [
    key
    for key, value in flat.items()
    if f'{wanted}'.lower() in f'{key} {explain_key(kind, key, value)}'.lower()
  ]
  if not keys:
    raise errors.ConfigError(ranges.describe_unknown(wanted or '', [*flat], ''))
  seen: set[str] = set()
  for key in keys:
    for section in [*_list_beginnings(key)][:-1]:
      about = explain_key(kind, section)
      if about and section not in seen:
        yield textwrap.fill(f'{section}: {about}', 80)
      seen.add(section)
    yield f'{configuration.PREFIX}{key}={flat[key]}'
    text = explain_key(kind, key, flat[key])
    text = textwrap.fill(text, 76, break_on_hyphens=False)
    yield textwrap.indent(text, ' ' * 4)


def _list_beginnings(key: str) -> Iterator[str]:
  """Yields 'a', 'a.b' and 'a.b.c' of 'a.b.c'."""
  return itertools.accumulate(key.split('.'), '{}.{}'.format)


def _sort_keys(kind: str, config: config_dict.ConfigDict) -> dict[str, Any]:
  """Returns {key: value} in the order of the files, without sections first."""
  places = {name: i for i, name in enumerate(read_meanings(kind))}

  def find_place(key: str) -> tuple[bool, list[int]]:
    names = map(ranges.get_rule, _list_beginnings(key))
    return '.' in key, [places.get(name, len(places)) for name in names]

  flat = configuration.flatten(config)
  return {key: flat[key] for key in sorted(flat, key=find_place)}


def make_page() -> str:
  """Returns docs/configuration.md."""
  lines = [_INTRO, '## Presets', '']
  for path in configuration.list_presets():
    text = (configuration.find_root() / path).read_text()
    about = (ast.get_docstring(ast.parse(text)) or '').partition('\n')[0]
    lines += _wrap_item(f'[{path}](../{path}): {_to_sentence(about)}')
  for kind in configuration.KINDS:
    flat = _sort_keys(kind, configuration.read_preset(kind))
    verb = kind.rpartition('/')[2]
    lines += ['', f'## `byol-jax {verb}`', '', f'Defaults of `{kind}`.', '']
    lines += _list_keys(kind, flat)
  return '\n'.join(lines) + '\n'


def _wrap_item(text: str) -> list[str]:
  return textwrap.wrap(
    f'- {text}',
    120,
    subsequent_indent='  ',
    break_on_hyphens=False,
    break_long_words=False,
  )


def _list_keys(kind: str, flat: dict[str, Any]) -> Iterator[str]:
  """Yields the items of a page; both views are one."""
  section = ''
  for key, value in flat.items():
    top = key.partition('.')[0] if '.' in key else ''
    is_new, section = top != section, top
    if f'evals/{section}' in configuration.KINDS:
      if is_new:
        yield f'- `{section}`: a section with the keys of `evals/{section}`.'
      continue
    if is_new:
      about = explain_key(kind, section)
      yield from ['', f'### `{section}`', '']
      yield from [*textwrap.wrap(about, 120), ''] if about else []
    if key.startswith('augment.view2.'):
      continue
    shown = f'`{key}` = `{value}`'.replace('``', "`''`")
    other = flat.get(key.replace('.view1.', '.view2.'))
    if other != value:
      shown += f', of view 2 `{other}`'
    yield from _wrap_item(f'{shown}. {explain_key(kind, key, value)}')
    if key.endswith('.name') and kind == 'pretrain':
      yield from _list_settings(section, value)


def _list_settings(section: str, default: str) -> Iterator[str]:
  """Yields items of the settings that only other names of a section have."""
  table = configuration.read_tables()[section]
  for name, settings in table.items():
    for key, value in settings.items():
      if key in table[default]:
        continue
      about = explain_key('pretrain', f'{section}.{key}', value)
      with_name = f'with `{section}.name={name}`'
      yield from _wrap_item(
        f'`{section}.{key}` = `{value}`, {with_name}. {about}'
      )
