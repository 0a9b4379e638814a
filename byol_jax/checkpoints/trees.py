"""Trees of arrays as flat dicts from a leaf's path to the leaf.

A path is the keys, field names and indices that lead to a leaf, joined by
'/': 'online_params/res_net50/~/initial_conv/w', 'opt_state/0/count'. So a
checkpoint depends on names, not on Python classes.
"""

from typing import Any

import jax
import numpy as np

from byol_jax import errors

Arrays = dict[str, np.ndarray]


def flatten(tree: Any) -> dict[str, Any]:
  """Returns {path: leaf} of any pytree; nodes without leaves are left out.

  Raises:
    ValueError: two leaves have the same path ({'a/b': x, 'a': {'b': y}}).
  """
  leaves: dict[str, Any] = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if name in leaves:
      raise ValueError(f'two leaves have the path {name!r}')
    leaves[name] = leaf
  return leaves


def unflatten(template: Any, arrays: Arrays, where: str) -> Any:
  """Returns the arrays, {path: array}, in the tree structure of `template`.

  Only shapes and dtypes of the template's leaves count (arrays, numbers,
  ShapeDtypeStruct). `where` is what an error calls the place of the arrays.

  Raises:
    DataError: names the first leaf whose path, shape or dtype differs.
  """
  expected = {k: _describe(leaf) for k, leaf in flatten(template).items()}
  found = {name: _describe(array) for name, array in arrays.items()}
  for name in expected | found:
    old, new = expected.get(name, 'nothing'), found.get(name, 'nothing')
    if old != new:
      raise errors.DataError(
        f'{errors.quote(where)}: {errors.quote(name)} differs: expected {old},'
        f' found {new}; it was saved by another model'
      )
  leaves = [arrays[name] for name in expected]
  return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _describe(leaf: Any) -> str:
  if not hasattr(leaf, 'dtype'):
    leaf = np.asarray(leaf)
  return f'{np.dtype(leaf.dtype).name}{list(leaf.shape)}'
