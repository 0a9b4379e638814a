"""What `data check` found in a set, kept as JSON for people and for runs.

A manifest says of the whole set: format, version (of byol_jax), dataset,
fingerprint, and `splits`: those of `survey.splits`, each as
`survey.summary` describes it, with its `duplicates`.
"""

import json
import os
import pathlib
from typing import Any

from byol_jax import errors, files
from byol_jax.data.sources import index_cache

FORMAT = 1


def place(fingerprint: str, output: str | None) -> pathlib.Path:
  """Where the manifest of a set goes: `output`, or where `find` looks.

  Raises:
    DataError: nothing can be written there.
  """
  name = f'{fingerprint}.json'
  path = pathlib.Path(output).expanduser() if output else _folder() / name
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    reason = 'it is a folder' if path.is_dir() else ''
    if not os.access(path.parent, os.W_OK):
      reason = 'permission denied'
  except OSError as error:
    reason = error.strerror or type(error).__name__
  if reason:
    raise errors.DataError(
      f'{path} cannot be written: {reason}; choose another --output'
    )
  return path


def write(path: pathlib.Path, manifest: dict[str, Any]) -> None:
  """Writes a manifest to its place.

  Of one of the same set that lies there, the splits that were not checked
  again are kept.
  """
  splits = _splits(path, manifest['fingerprint']) | manifest['splits']
  files.write(path, {'format': FORMAT, **manifest, 'splits': splits})


def find(fingerprint: str) -> dict[str, Any] | None:
  """What is known of the split with a fingerprint, or None.

  Returns:
    num_images, encoded_bytes, decoded_bytes and the rest of the split's part
    of a manifest in the cache.
  """
  for path in sorted(_folder().glob('*.json')):
    for split in _splits(path).values():
      if split['fingerprint'] == fingerprint:
        return split
  return None


def _splits(
  path: pathlib.Path, fingerprint: str | None = None
) -> dict[str, dict[str, Any]]:
  """Those of a manifest; none if it is absent, cut or of another format.

  fingerprint: none either, if it is of another set than this.
  """
  try:
    found = json.loads(path.read_text())
    same = fingerprint in (None, found['fingerprint'])
    return found['splits'] if same and found['format'] == FORMAT else {}
  except (OSError, ValueError, KeyError, TypeError):
    return {}


def _folder() -> pathlib.Path:
  return index_cache.cache_folder() / 'manifests'
