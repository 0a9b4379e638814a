"""Reads a checkpoint of the official implementation; runs none of its code.

The file is a dill pickle of {'experiment_state', 'step', 'rng'}, the first a
named tuple of five trees. Spec 9.2; names of modules in spec 9.3.
"""

from collections.abc import Iterator, Mapping
import re
from typing import Any, NamedTuple

import numpy as np

from byol_jax import errors
from byol_jax.convert import safe_pickle, stand_ins

Tree = dict[str, dict[str, np.ndarray]]

KEYS = ('experiment_state', 'step', 'rng')
TREES = ('online_params', 'target_params', 'online_state', 'target_state')
FIELDS = (*TREES, 'opt_state')
# Some files number the first layers.
NUMBERED = re.compile(r'/(initial_conv|initial_batchnorm)_1(?=/|$)')
# ResNet-200 has 2,000; a file may repeat one leaf without limit.
MAX_LEAVES = 20_000


class OfficialCheckpoint(NamedTuple):
  """One checkpoint: the trees as they stand before `step`."""

  step: int
  rng: np.ndarray  # uint32 [2]
  online_params: Tree
  target_params: Tree
  online_state: Tree
  target_state: Tree
  momentum: Tree | None  # like online_params; None if the file tells none


def read_checkpoint(path: str) -> OfficialCheckpoint:
  """Reads a file of the official implementation.

  Args:
    path: the `.pkl` file; trusted in no way.

  Returns:
    Trees {module: {leaf: array}} of read-only numpy arrays.

  Raises:
    DataError: the file is missing or damaged, asks for something outside its
      format (nothing is executed), or a part of the checkpoint is absent.
  """
  content = safe_pickle.load(path)
  if not isinstance(content, dict) or any(key not in content for key in KEYS):
    raise errors.DataError(
      f'{path}: expected a checkpoint with the keys {list(KEYS)}, found'
      f' {describe(content)}'
    )
  fields = experiment_fields(content['experiment_state'], path)
  trees = {name: read_tree(fields[name], f'{path}: {name}') for name in TREES}
  for kind in ('params', 'state'):
    check_alike(trees[f'online_{kind}'], trees[f'target_{kind}'], kind, path)
  return OfficialCheckpoint(
    step=read_step(content['step'], path),
    rng=read_rng(content['rng'], path),
    momentum=find_momentum(fields['opt_state'], trees['online_params']),
    **trees,
  )


def experiment_fields(state: Any, path: str) -> Mapping[str, Any]:
  """The named tuple's fields; those of a class given by name, by position."""
  if isinstance(state, stand_ins.Record):
    names = [name for name, _ in state.items]
    if names == [str(i) for i in range(len(FIELDS))]:
      names = list(FIELDS)
    if set(FIELDS) <= set(names):
      return dict(zip(names, (value for _, value in state.items), strict=True))
  raise errors.DataError(
    f'{path}: expected experiment_state with the fields {list(FIELDS)}, found'
    f' {describe(state)}'
  )


def read_tree(value: Any, what: str) -> Tree:
  """A two-level dict of arrays."""
  tree = as_tree(value)
  if tree is None:
    raise errors.DataError(
      f'{what}: expected {{module: {{leaf: array}}}}, found {describe(value)}'
    )
  return tree


def as_tree(value: Any) -> Tree | None:
  """`value` as a tree of arrays, or None if it is none."""
  if not isinstance(value, dict) or not value:
    return None
  if not all(isinstance(leaves, dict) for leaves in value.values()):
    return None
  if sum(len(leaves) for leaves in value.values()) > MAX_LEAVES:
    return None
  tree: Tree = {}
  for module, leaves in value.items():
    arrays = {name: as_array(leaf) for name, leaf in leaves.items()}
    present = {k: leaf for k, leaf in arrays.items() if leaf is not None}
    if not leaves or len(present) != len(leaves):
      return None
    tree[NUMBERED.sub(r'/\1', module)] = present
  return tree


def as_array(value: Any) -> np.ndarray | None:
  """The numbers of an array, None for anything else."""
  return value.value if isinstance(value, stand_ins.Array) else None


def check_alike(online: Tree, target: Tree, kind: str, path: str) -> None:
  """Both networks have the same names and shapes."""
  ours, theirs = shapes(online), shapes(target)
  for name in sorted(ours.keys() | theirs.keys()):
    if ours.get(name) != theirs.get(name):
      raise errors.DataError(
        f'{path}: expected target_{kind} like online_{kind}, found {name}'
        f' {theirs.get(name)} in the target, {ours.get(name)} in the online'
        ' network'
      )


def shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
  """{'module|leaf': shape}."""
  return {
    f'{module}|{name}': leaf.shape
    for module, leaves in tree.items()
    for name, leaf in leaves.items()
  }


def read_step(value: Any, path: str) -> int:
  """A Python or numpy integer that is not negative."""
  array = as_array(value)
  step = value if array is None or array.size != 1 else array.item()
  if type(step) is not int or step < 0:
    raise errors.DataError(
      f'{path}: expected step to be a count, found {describe(value)}'
    )
  return step


def read_rng(value: Any, path: str) -> np.ndarray:
  """A key, or one per device, of which the first is taken."""
  array = as_array(value)
  if array is None or array.dtype != np.uint32 or array.shape[-1:] != (2,):
    raise errors.DataError(
      f'{path}: expected rng to be uint32 [2], found {describe(value)}'
    )
  return array.reshape(-1, 2)[0]


def find_momentum(opt_state: Any, params: Tree) -> Tree | None:
  """The one tree in the optimiser's state that is shaped like the parameters.

  None if there is no such tree or more than one: an unknown optimiser.
  """
  expected = shapes(params)
  trees = (as_tree(part) for part in walk(opt_state))
  found = [tree for tree in trees if tree and shapes(tree) == expected]
  return found[0] if len(found) == 1 else None


def walk(value: Any) -> Iterator[dict]:
  """The outermost dicts of nested tuples, lists and named tuples, once each."""
  waiting, seen = [value], set()
  while waiting:
    part = waiting.pop()
    if id(part) in seen:
      continue
    seen.add(id(part))
    if isinstance(part, dict):
      yield part
    elif isinstance(part, stand_ins.Record):
      waiting.extend(item for _, item in part.items)
    elif isinstance(part, tuple | list):
      waiting.extend(part)


def describe(value: Any) -> str:
  """What a value is, in a few words; never its contents."""
  array = as_array(value)
  if array is not None:
    return f'an array {array.dtype} {array.shape}'
  if isinstance(value, dict):
    return f'a dict of {[str(key)[:60] for key in list(value)[:8]]}'
  if isinstance(value, stand_ins.Record):
    names = [name[:60] for name, _ in value.items[:8]]
    return f'a named tuple {value.name[:60]!r} of {names}'
  return f'a {type(value).__name__}'
