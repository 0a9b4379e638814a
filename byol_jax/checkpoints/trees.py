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
  """Returns the arrays in the tree structure of `template`.

  Args:
    template: leaves with shape and dtype (arrays, ShapeDtypeStruct, numbers);
      their values are not used.
    arrays: {path: array}, as saved.
    where: what an error calls the place of the arrays.

  Raises:
    DataError: names the first leaf whose path, shape or dtype differs.
  """
  expected = {k: _describe(leaf) for k, leaf in flatten(template).items()}
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


def _describe(leaf: Any) -> str:
  if not hasattr(leaf, 'dtype'):
    leaf = np.asarray(leaf)
  return f'{np.dtype(leaf.dtype).name}{list(leaf.shape)}'
