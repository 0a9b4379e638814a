"""Trees of arrays as flat dicts, path -> array: names, not classes.

A path is the keys, field names and indices that lead to a leaf, joined by
'/': 'online_params/res_net50/~/initial_conv/w', 'opt_state/0/count'.
"""

from typing import Any

import jax
import numpy as np

from byol_jax import errors

Arrays = dict[str, np.ndarray]


def flatten(tree: Any) -> Arrays:
  """Any pytree -> {path: host array}; nodes without leaves leave no trace.

  Raises:
    ValueError: two leaves have the same path ({'a/b': x, 'a': {'b': y}}).
  """
  arrays: Arrays = {}
  for name, leaf in _named_leaves(tree):
    if name in arrays:
      raise ValueError(f'two leaves have the path {name!r}')
    arrays[name] = np.asarray(leaf)
  return arrays


def unflatten(template: Any, arrays: Arrays, where: str) -> Any:
  """The arrays in the tree of `template`, whose leaves are only compared.

  Args:
    template: leaves with shape and dtype (arrays, ShapeDtypeStruct, numbers).
    arrays: {path: array}, as `flatten` makes it.
    where: what an error calls the place of the arrays.

  Raises:
    DataError: names the first leaf whose path, shape or dtype differs.
  """
  expected = {name: _describe(leaf) for name, leaf in _named_leaves(template)}
  found = {name: _describe(array) for name, array in arrays.items()}
  for name in expected | found:
    if expected.get(name) != found.get(name):
      raise errors.DataError(
        f'{where}: {name!r} differs: expected'
        f' {expected.get(name, "nothing")}, found'
        f' {found.get(name, "nothing")}; it was saved by another model'
      )
  leaves = [arrays[name] for name in expected]
  return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  join = jax.tree_util.keystr
  return [(join(p, simple=True, separator='/'), leaf) for p, leaf in leaves]


def _describe(leaf: Any) -> str:
  if not hasattr(leaf, 'dtype'):
    leaf = np.asarray(leaf)
  return f'{np.dtype(leaf.dtype).name}{list(leaf.shape)}'
