"""Digests of a checkpoint's arrays and of the manifest that holds them.

Orbax notices neither flipped nor zeroed bytes when it restores a step: hence a
SHA-256 of each array, and one of the manifest itself.
"""

import hashlib
import json
from typing import Any

import numpy as np

from byol_jax import errors
from byol_jax.checkpoints import trees

FORMAT = 3  # 1 and 2 were never released
Json = dict[str, Any]


def make_manifest(arrays: trees.Arrays, facts: Json) -> Json:
  """Returns what is stored beside the arrays of a step, as JSON values.

  `facts` is what the content holds besides an entry for each array.
  """
  entries = {name: _describe_array(array) for name, array in arrays.items()}
  content = facts | {'format': FORMAT, 'arrays': entries}
  return {'content': content, 'sha256': _digest_json(content)}


def check_manifest(manifest: Json) -> Json:
  """Returns the content of a manifest.

  Raises:
    ValueError: it is not as `make_manifest` made it.
    DataError: it has a format that this version does not read.
  """
  content, expected = manifest['content'], manifest['sha256']
  found = _digest_json(content)
  if found != expected:
    raise ValueError(f'manifest: expected sha256 {expected}, found {found}')
  # After the digest: a flipped bit here is damage, not a newer version.
  if content['format'] != FORMAT:
    raise errors.DataError(
      f'the checkpoint has format {errors.quote(content["format"])}, this'
      f' version of byol_jax reads {FORMAT}; use the version that wrote it'
    )
  return content


def check_arrays(entries: Json, arrays: trees.Arrays) -> None:
  """Raises ValueError for the first array that differs from its entry."""
  for name, expected in entries.items():
    found = _describe_array(arrays[name])
    if found != expected:
      raise ValueError(
        f'array {errors.quote(name)}: expected {expected}, found {found}'
      )


def digest_trees(*found: Any) -> str:
  """Returns the SHA-256 of arrays and their names, in hexadecimal."""
  digest = hashlib.sha256()
  for tree in found:
    for name, leaf in sorted(trees.flatten(tree).items()):
      digest.update(f'{name} {leaf.dtype} {leaf.shape}\0'.encode())
      digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()


def _describe_array(array: np.ndarray) -> Json:
  octets = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
  return {
    'shape': list(array.shape),
    'dtype': array.dtype.name,
    'sha256': hashlib.sha256(octets.data).hexdigest(),
  }


def _digest_json(value: Json) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()
