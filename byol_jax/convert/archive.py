"""An encoder as named arrays and one JSON text, and back to the same bits.

Names are 'params/MODULE/LEAF' and 'state/MODULE/LEAF'; the text holds the
other fields of `EncoderWeights`.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import numpy as np

from byol_jax import errors
from byol_jax.convert import weights as weights_lib

FORMAT, VERSION = 'byol_jax encoder', 1
_TREES = ('params', 'state')
# The fields beside the trees, with the types of their values.
_FIELDS: dict[str, type | tuple[type, ...]] = {
  'network': dict,
  'num_classes': (int, type(None)),
  'image_size': int,
  'eval_crop': str,
  'card': dict,
}
DTYPES = ('float32', 'int32')  # int32: how many steps an average has seen


def flatten_weights(
  weights: weights_lib.EncoderWeights,
) -> tuple[dict[str, np.ndarray], str]:
  """Returns the arrays of an encoder by name, sorted, and its JSON text."""
  arrays = {
    f'{tree}/{module}/{name}': np.asarray(leaf, order='C')
    for tree in _TREES
    for module, leaves in sorted(getattr(weights, tree).items())
    for name, leaf in sorted(leaves.items())
  }
  return arrays, describe_weights(weights)


def describe_weights(weights: weights_lib.EncoderWeights, **more: Any) -> str:
  """Returns the fields beside the trees, and others, as JSON."""
  facts = {field: getattr(weights, field) for field in _FIELDS}
  facts |= {'format': FORMAT, 'version': VERSION}
  return json.dumps(facts | more)


def restore_weights(
  arrays: Mapping[str, np.ndarray], text: Any, path: pathlib.Path
) -> weights_lib.EncoderWeights:
  """Returns what `flatten_weights` was given.

  Neither the values of `network` nor the shapes are compared with a network;
  `text` is None where the file has none.

  Raises:
    DataError: the file is not from `flatten_weights`, or of a later version.
  """
  where = errors.quote(path)
  facts = parse_description(text, where)
  trees: dict[str, Any] = {tree: {} for tree in _TREES}
  for name, array in arrays.items():
    tree, _, rest = name.partition('/')
    module, _, leaf = rest.rpartition('/')
    if tree not in trees or not module or array.dtype.name not in DTYPES:
      raise errors.DataError(
        f'{where}: expected arrays params/MODULE/LEAF and state/MODULE/LEAF of'
        f' {list(DTYPES)}, found {errors.quote(name)}, {array.dtype.name}'
      )
    trees[tree].setdefault(module, {})[leaf] = array
  return weights_lib.EncoderWeights(**trees, **facts)


def parse_description(text: Any, where: str) -> dict[str, Any]:
  """Returns the fields of `EncoderWeights` from `describe_weights`.

  Raises:
    DataError: it is of something else, or of a later version.
  """
  expected = f'{where}: expected a file of byol-jax export with its description'
  if not isinstance(text, str):
    raise errors.DataError(f'{expected}, found none')
  try:
    facts = json.loads(text)
    found = {field: facts[field] for field in ('format', 'version', *_FIELDS)}
  except (TypeError, KeyError, ValueError, RecursionError) as error:
    raise errors.DataError(
      f'{expected}, found {errors.first_line(error)}'
    ) from error
  name, version = found.pop('format'), found.pop('version')
  if (name, version) != (FORMAT, VERSION):
    raise errors.DataError(
      f'{where}: expected {FORMAT!r} {VERSION}, found {errors.quote(name)}'
      f' {errors.quote(version)}; use the version that wrote it'
    )
  for field, kind in _FIELDS.items():
    is_flag = isinstance(found[field], bool)
    if is_flag or not isinstance(found[field], kind):
      raise errors.DataError(
        f'{where}: {field}: found {errors.quote(found[field])}, which'
        ' byol-jax export does not write'
      )
  return found
