"""Reads a checkpoint of the official code; executes nothing of the file.

The file is a dill pickle of {'experiment_state', 'step', 'rng'}, the first a
named tuple of five trees: method.md 9.2; names of modules in method.md 9.3.
"""

from collections.abc import Iterator, Mapping
import itertools
import re
from typing import Any, NamedTuple

import numpy as np

from byol_jax import errors
from byol_jax.convert import safe_pickle

Tree = dict[str, dict[str, np.ndarray]]

KEYS = ('experiment_state', 'step', 'rng')
TREES = ('online_params', 'target_params', 'online_state', 'target_state')
FIELDS = (*TREES, 'opt_state')
# Some files number the first layers.
NUMBERED = re.compile(r'/(initial_conv|initial_batchnorm)_1(?=/|$)')
# ResNet-200 has 2,000; a file may refer to one leaf any number of times.
MAX_LEAVES = 20_000
MAX_CANDIDATES = 100  # trees in `opt_state` that may be the momentum


class OfficialCheckpoint(NamedTuple):
  """One checkpoint: the state before `step`."""

  step: int
  rng: np.ndarray  # uint32 [2]
  online_params: Tree
  target_params: Tree
  online_state: Tree
  target_state: Tree
  momentum: Tree | None  # like online_params; None if it was not found


def read_checkpoint(path: str) -> OfficialCheckpoint:
  """Reads a checkpoint of the official code.

  Args:
    path: the `.pkl` file; it may be hostile.

  Returns:
    The step, the key and trees {module: {leaf: array}} of read-only arrays.

  Raises:
    DataError: the file is missing or damaged, asks for something outside its
      format (nothing is executed), or lacks a part of a checkpoint.
  """
  content = safe_pickle.load_pickle(path)
  if not isinstance(content, dict) or any(key not in content for key in KEYS):
    raise errors.DataError(
      f'{path}: expected a checkpoint with the keys {list(KEYS)}, found'
      f' {describe(content)}'
    )
  fields = _read_fields(content['experiment_state'], path)
  trees = {name: _read_tree(fields[name], f'{path}: {name}') for name in TREES}
  for kind in ('params', 'state'):
    _check_same_shapes(
      trees[f'online_{kind}'], trees[f'target_{kind}'], kind, path
    )
  return OfficialCheckpoint(
    step=_read_step(content['step'], path),
    rng=_read_rng(content['rng'], path),
    momentum=_find_momentum(fields['opt_state'], trees['online_params']),
    **trees,
  )


def _read_fields(state: Any, path: str) -> Mapping[str, Any]:
  """Returns a named tuple's fields; by position if only its class is named."""
  if isinstance(state, safe_pickle.Record):
    names = state.fields
    if names is None and len(state) == len(FIELDS):
      names = FIELDS
    if names is not None and set(FIELDS) <= set(names):
      return dict(zip(names, state, strict=True))
  raise errors.DataError(
    f'{path}: expected experiment_state with the fields {list(FIELDS)}, found'
    f' {describe(state)}'
  )


def _read_tree(value: Any, what: str) -> Tree:
  tree = as_tree(value)
  if tree is None:
    raise errors.DataError(
      f'{what}: expected {{module: {{leaf: array}}}}, found {describe(value)}'
    )
  return tree


def as_tree(value: Any) -> Tree | None:
  """Returns a dict of dicts of `Array`s with plain arrays, else None."""
  if not isinstance(value, dict) or not value:
    return None
  if not all(isinstance(leaves, dict) for leaves in value.values()):
    return None
  if sum(len(leaves) for leaves in value.values()) > MAX_LEAVES:
    return None
  tree: Tree = {}
  for module, leaves in value.items():
    arrays = {name: _as_array(leaf) for name, leaf in leaves.items()}
    present = {k: leaf for k, leaf in arrays.items() if leaf is not None}
    if not leaves or len(present) != len(leaves):
      return None
    tree[NUMBERED.sub(r'/\1', module)] = present
  return tree


def _as_array(value: Any) -> np.ndarray | None:
  return value.value if isinstance(value, safe_pickle.Array) else None


def _check_same_shapes(
  online: Tree, target: Tree, kind: str, path: str
) -> None:
  ours, theirs = shapes(online), shapes(target)
  for name in sorted(ours.keys() | theirs.keys()):
    if ours.get(name) != theirs.get(name):
      raise errors.DataError(
        f'{path}: expected target_{kind} like online_{kind}, found {name}'
        f' {theirs.get(name)} in the target, {ours.get(name)} in the online'
        ' network'
      )


def shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
  """Returns {'module|leaf': shape}."""
  return {
    f'{module}|{name}': leaf.shape
    for module, leaves in tree.items()
    for name, leaf in leaves.items()
  }


def _read_step(value: Any, path: str) -> int:
  """Returns a Python or numpy integer that is not negative."""
  array = _as_array(value)
  step = value if array is None or array.size != 1 else array.item()
  if type(step) is not int or step < 0:
    raise errors.DataError(
      f'{path}: expected step to be an integer from 0, found {describe(value)}'
    )
  return step


def _read_rng(value: Any, path: str) -> np.ndarray:
  """Returns a key, or the first of one key for each device."""
  array = _as_array(value)
  if (
    array is None
    or array.dtype != np.uint32
    or array.shape[-1:] != (2,)
    or not array.size
  ):
    raise errors.DataError(
      f'{path}: expected rng to be uint32 [2], found {describe(value)}'
    )
  return array.reshape(-1, 2)[0]


def _find_momentum(opt_state: Any, params: Tree) -> Tree | None:
  """Returns the only tree in the optimizer's state with the params' shapes.

  None if there is no such tree or more than one: an unknown optimizer.
  """
  expected = shapes(params)
  candidates = itertools.islice(outermost_dicts(opt_state), MAX_CANDIDATES)
  trees = [tree for tree in map(as_tree, candidates) if tree]
  found = [tree for tree in trees if shapes(tree) == expected]
  return found[0] if len(found) == 1 else None


def outermost_dicts(value: Any) -> Iterator[dict]:
  """Yields the outermost dicts of nested tuples and lists, each once."""
  waiting, seen = [value], set()
  while waiting:
    part = waiting.pop()
    if id(part) in seen:
      continue
    seen.add(id(part))
    if isinstance(part, dict):
      yield part
    elif isinstance(part, tuple | list):
      waiting.extend(part)


def describe(value: Any) -> str:
  """Returns a short description of a value, without its contents."""
  array = _as_array(value)
  if array is not None:
    return f'an array {array.dtype} {array.shape}'
  if isinstance(value, dict):
    return f'a dict of {[key[:60] for key in list(value)[:8]]}'
  if isinstance(value, safe_pickle.Record):
    names = value.fields or map(str, range(len(value)))
    return f'a named tuple of {[name[:60] for name in names][:8]}'
  return f'a {type(value).__name__}'
