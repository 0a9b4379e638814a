"""Reads a checkpoint of the official code; executes nothing of the file.

The file is a dill pickle of {'experiment_state', 'step', 'rng'}, the first a
named tuple of five trees: method.md 9.2; names of modules in method.md 9.3.
"""

from collections.abc import Iterator
import itertools
import os
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from byol_jax import errors, networks
from byol_jax.convert import safe_pickle, shapes, weights as weights_lib

Tree = dict[str, dict[str, np.ndarray]]

KEYS = ('experiment_state', 'step', 'rng')
TREES = ('online_params', 'target_params', 'online_state', 'target_state')
FIELDS = (*TREES, 'opt_state')
# Parameters and batch-norm averages, in a run, a linear evaluation, or alone.
PAIRS = {
  'online': (
    ('online_params', 'online_state'),
    ('backbone_params', 'backbone_state'),
    ('params', 'state'),
  ),
  'target': (('target_params', 'target_state'),),
}
LICENCE = 'CC BY-NC 4.0 (published weights: no commercial use)'
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
  """Reads a checkpoint of the official code, a `.pkl` that may be hostile.

  The trees {module: {leaf: array}} are of read-only arrays.

  Raises:
    DataError: the file is missing or damaged, asks for something outside its
      format (nothing is executed), or lacks a part of a checkpoint.
  """
  content = safe_pickle.load_pickle(path)
  return _read_whole(content, errors.quote(path))


def _read_whole(content: Any, path: str) -> OfficialCheckpoint:
  is_whole = isinstance(content, dict) and content.keys() >= set(KEYS)
  _require(is_whole, f'{path}: expected the keys {list(KEYS)}', content)
  state = content['experiment_state']
  names = getattr(state, 'fields', None) or FIELDS  # by position without names
  _require(
    isinstance(state, safe_pickle.Record)
    and len(state) == len(names)
    and set(names) >= set(FIELDS),
    f'{path}: expected experiment_state with the fields {list(FIELDS)}',
    state,
  )
  fields = dict(zip(names, state, strict=True))
  trees: dict[str, Any] = {name: read_tree(fields[name]) for name in TREES}
  for name, tree in trees.items():
    expected = f'{path}: {name}: expected {{module: {{leaf: array}}}}'
    _require(tree is not None, expected, fields[name])
  shapes_of = {k: networks.list_shapes(tree) for k, tree in trees.items()}
  differences = networks.describe_differences(
    (shapes_of['target_params'], shapes_of['online_params']),
    (shapes_of['target_state'], shapes_of['online_state']),
  )
  if differences:
    raise errors.DataError(
      f'{path}: expected the target network like the online one: {differences}'
    )
  return OfficialCheckpoint(
    step=_read_step(content['step'], path),
    rng=_read_rng(content['rng'], path),
    momentum=_find_momentum(fields['opt_state'], trees['online_params']),
    **trees,
  )


def read_published(
  path: str | os.PathLike, network: str = 'online'
) -> tuple[weights_lib.EncoderWeights, OfficialCheckpoint | None]:
  """Reads a published file: a whole checkpoint, or an encoder only.

  The architecture is found from names and shapes. A file of less than a run
  holds, by name, one of `PAIRS`, at the top or in `experiment_state`; of a
  linear evaluation `classif_params` too, whose layer becomes the classifier.

  Args:
    path: a `.pkl` that may be hostile.
    network: 'online' or 'target', whose weights to take from a checkpoint.

  Returns:
    The weights, checked, with the heads and the classifier that the file has;
    and the state of a run, None of a file from which none can go on.

  Raises:
    DataError: see `read_checkpoint`; or lists what is missing, unknown or of
      another shape.
  """
  content = safe_pickle.load_pickle(os.fspath(path))
  where = errors.quote(path)
  fields = _name_fields(content)
  fields |= _name_fields(fields.get('experiment_state'))
  checkpoint = None
  if fields.keys() >= {*KEYS, *FIELDS}:
    checkpoint = _read_whole(content, where)
  params: Any
  params, state = _find_pair(fields, network, where)
  classifier = (read_tree(fields.get('classif_params')) or {}).get('linear')
  if classifier is not None:  # of a linear evaluation
    params = params | {'classifier': classifier}
  found = shapes.describe_network(params, where)
  kernel = params.get('classifier', {}).get('w')
  weights = weights_lib.EncoderWeights(
    *(params, state, found),
    num_classes=None if kernel is None else np.atleast_1d(kernel).shape[-1],
    image_size=weights_lib.IMAGE_SIZE,
    eval_crop='crop',
    card=weights_lib.complete_card(
      pathlib.Path(path), {'weights': network, 'licence': LICENCE}
    ),
  )
  weights = shapes.check_weights(weights, where)
  if checkpoint and not shapes.has_heads(weights.params, weights.network):
    checkpoint = None
  return weights, checkpoint


def _name_fields(value: Any) -> dict[str, Any]:
  """Returns the entries of a dict or named tuple by name, {} of another."""
  if isinstance(value, safe_pickle.Record):
    return dict(zip(value.fields or FIELDS, value))
  return dict(value) if isinstance(value, dict) else {}


def _find_pair(
  fields: dict[str, Any], network: str, where: str
) -> tuple[Any, Any]:
  """Returns the parameters and batch-norm averages of an encoder."""
  for pair in PAIRS[network]:
    if all(isinstance(fields.get(name), dict) for name in pair):
      params, state = (read_tree(fields[name]) for name in pair)
      if params is not None and state is not None:
        return params, state
  raise errors.DataError(
    f'{where}: expected one of {PAIRS[network]}, each {{module: {{leaf:'
    f' array}}}}, found {describe_value(fields)}'
  )


def _require(condition: bool, expected: str, value: Any) -> None:
  if not condition:
    raise errors.DataError(f'{expected}, found {describe_value(value)}')


def read_tree(value: Any) -> Tree | None:
  """Returns a dict of dicts of `Array`s with plain arrays, else None."""
  if not isinstance(value, dict) or not value:
    return None
  if not all(isinstance(leaves, dict) and leaves for leaves in value.values()):
    return None
  if sum(len(leaves) for leaves in value.values()) > MAX_LEAVES:
    return None
  tree: Any = {
    NUMBERED.sub(r'/\1', module): {k: _as_array(v) for k, v in leaves.items()}
    for module, leaves in value.items()
  }
  found = (v for leaves in tree.values() for v in leaves.values())
  return None if any(v is None for v in found) else tree


def _as_array(value: Any) -> np.ndarray | None:
  return value.value if isinstance(value, safe_pickle.Array) else None


def _read_step(value: Any, path: str) -> int:
  array = _as_array(value)
  step = value if array is None or array.size != 1 else array.item()
  is_step = type(step) is int and 0 <= step < 2**31
  _require(is_step, f'{path}: expected step to be in [0, 2^31)', value)
  return step


def _read_rng(value: Any, path: str) -> np.ndarray:
  """Returns a key, or the first of one key for each device."""
  array: Any = _as_array(value)
  is_key = array is not None and array.dtype == np.uint32 and array.size
  is_key = is_key and array.shape[-1:] == (2,)
  _require(is_key, f'{path}: expected rng to be uint32 [2]', value)
  return array.reshape(-1, 2)[0]


def _find_momentum(opt_state: Any, params: Tree) -> Tree | None:
  """Returns the only tree in the optimizer's state with the params' shapes.

  None if there is no such tree or more than one: an unknown optimizer.
  """
  expected = networks.list_shapes(params)
  candidates = itertools.islice(find_outermost_dicts(opt_state), MAX_CANDIDATES)
  trees = filter(None, map(read_tree, candidates))
  found = [tree for tree in trees if networks.list_shapes(tree) == expected]
  return found[0] if len(found) == 1 else None


def find_outermost_dicts(value: Any) -> Iterator[dict]:
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


def describe_value(value: Any) -> str:
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
