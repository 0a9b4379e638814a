"""How a tree of arrays is written as the two items of an Orbax checkpoint."""

import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from byol_jax import errors, orbax_noise, trees

FORMAT = 1

Json = dict[str, Any]


def document(arrays: trees.Arrays, meta: Json) -> Json:
  """The item `meta`: format, shapes, dtypes, digests, the caller's values."""
  entries = {name: _entry(array) for name, array in arrays.items()}
  # As JSON gives it back: its order, lists for tuples, strings for keys.
  text = json.dumps({'arrays': entries, 'meta': meta})
  return {
    'format': FORMAT,
    'content': json.loads(text),
    'sha256': hashlib.sha256(text.encode()).hexdigest(),
  }


def _entry(array: np.ndarray) -> Json:
  octets = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
  return {
    'shape': list(array.shape),
    'dtype': array.dtype.name,
    'sha256': hashlib.sha256(octets.data).hexdigest(),
  }


def load(path: pathlib.Path) -> tuple[trees.Arrays, Json]:
  """Arrays in the order of the tree, and the caller's meta, or any error."""
  items = ocp.args.Composite(
    arrays=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore()
  )
  with (
    orbax_noise.silenced(),
    ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as loader,
  ):
    restored = loader.restore(path, args=items)
  if restored.meta['format'] != FORMAT:
    raise errors.DataError(
      f'{path} has format {restored.meta["format"]}, this version of byol_jax'
      f' reads {FORMAT}'
    )
  content = restored.meta['content']
  text = json.dumps(content)
  if hashlib.sha256(text.encode()).hexdigest() != restored.meta['sha256']:
    raise ValueError('meta is not what was saved')
  arrays: trees.Arrays = {}
  for name, entry in content['arrays'].items():
    if 0 in entry['shape']:
      arrays[name] = np.zeros(entry['shape'], entry['dtype'])
    else:
      arrays[name] = restored.arrays[name]
    if _entry(arrays[name]) != entry:
      raise ValueError(f'array {name!r} is not what was saved')
  return arrays, content['meta']
