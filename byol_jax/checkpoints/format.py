"""One step of a checkpoint as a local folder: written, and read in any format.

Format 2: `arrays`, an Orbax checkpoint of a flat dict from a leaf's path to its
array, and `manifest.json`. An array without elements, which Orbax refuses,
lives in the manifest alone. Format 1, which is read for ever, was written by
Orbax's manager: the items `arrays` and `meta`, JSON with the digest of each
array and nothing of the files.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from byol_jax.checkpoints import manifest as manifests, orbax_noise, trees

Json = manifests.Json
# What a complete step has, by format; the manifest is the last to come.
MARKS = (manifests.NAME, 'meta/metadata')


def write(
  folder: pathlib.Path,
  step: int,
  arrays: trees.Arrays,
  meta: Json,
  record: Json,
) -> Json:
  """Writes one step into the empty `folder`; its manifest's content."""
  stored = {name: array for name, array in arrays.items() if array.size}
  if stored:
    with _orbax() as saver:
      saver.save(folder / 'arrays', args=ocp.args.StandardSave(stored))
  found = manifests.content(folder, step, arrays, meta, record)
  manifests.write(folder, found)
  return found


def load(folder: pathlib.Path) -> tuple[trees.Arrays, Json]:
  """Arrays in the order of the tree, and the caller's meta, or any error.

  Raises:
    Different: it is not what was saved.
    DataError: it is of a newer format.
  """
  if not (folder / MARKS[0]).exists() and (folder / MARKS[1]).exists():
    return _load_1(folder)
  found = manifests.read(folder)
  manifests.check_files(folder, found)
  entries = found['arrays'].items()
  # Without a template Orbax asks TensorStore what is there, by `to_json`, of
  # which each call keeps some memory for ever (tensorstore 0.1.86).
  template = {
    name: np.empty(entry['shape'], entry['dtype'])
    for name, entry in entries
    if 0 not in entry['shape']
  }
  stored: dict[str, Any] = {}
  if template:
    with _orbax() as loader:
      stored = loader.restore(
        folder / 'arrays', args=ocp.args.StandardRestore(template)
      )
  return _checked(found['arrays'], stored), found['meta']


def _load_1(folder: pathlib.Path) -> tuple[trees.Arrays, Json]:
  items = ocp.args.Composite(
    arrays=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore()
  )
  with _orbax(is_composite=True) as loader:
    restored = loader.restore(folder, args=items)
  if restored.meta['format'] != 1:
    raise manifests.Different(
      f'{MARKS[1]}: expected format 1, found {restored.meta["format"]}'
    )
  content = restored.meta['content']
  text = json.dumps(content)
  if hashlib.sha256(text.encode()).hexdigest() != restored.meta['sha256']:
    raise manifests.Different('meta is not what was saved')
  return _checked(content['arrays'], restored.arrays), content['meta']


def _checked(entries: Json, stored: dict[str, Any]) -> trees.Arrays:
  """The stored arrays and the empty ones, each the one that was saved."""
  arrays: trees.Arrays = {}
  for name, entry in entries.items():
    if 0 in entry['shape']:
      arrays[name] = np.zeros(entry['shape'], entry['dtype'])
    elif name in stored:
      arrays[name] = stored[name]
    else:
      raise manifests.Different(f'array {name!r} is missing')
    manifests.check_array(name, arrays[name], entry)
  return arrays


@contextlib.contextmanager
def _orbax(*, is_composite: bool = False) -> Iterator[ocp.Checkpointer]:
  """Orbax, in this process alone, waiting for no other one, and silent."""
  index = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=index,
    active_processes={index},
    barrier_sync_key_prefix=f'process_{index}',
  )
  with orbax_noise.silenced():
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    if is_composite:
      handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
      )
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as orbax:
      yield orbax
