"""What can be known of a plan without compiling: in seconds, without libtpu."""

import json
import pathlib
import re
import tarfile
from typing import Any, NamedTuple
import zipfile

from ml_collections import config_dict

from byol_jax import errors, experiment as experiments
from byol_jax.data import catalog
from byol_jax.data.sources import layouts, locate, paths, storage, tfds
from byol_jax.planning import cost, topologies

_SHARD = re.compile(r'-train\.\w+-\d{5}-of-\d{5}$')


class Found(NamedTuple):
  """A training set, as far as one look tells; None where it does not."""

  place: str
  num_examples: int | None
  num_classes: int | None


def check(
  config: config_dict.ConfigDict, topology: topologies.Topology
) -> dict[str, Any]:
  """The facts that a check rests on.

  Raises:
    ConfigError: a value of the configuration that no part takes.
    DataError: the training set is not where the configuration says.
  """
  found = training_set(config)
  # Without a count any does: the other values are checked all the same.
  count = found.num_examples or config.batch_size
  experiment = experiments.build(config, count, found.num_classes)
  return {
    'topology': topology._asdict(),
    'batch_size': config.batch_size,
    'per_device_batch': config.batch_size // topology.devices,
    'data': found.place,
    'num_examples': found.num_examples,
    'steps': experiment.num_steps if found.num_examples else None,
  }


def training_set(config: config_dict.ConfigDict) -> Found:
  """Finds the training set; no image is read.

  Raises:
    DataError: it is not there, or not whole as far as names tell.
  """
  facts = catalog.find(config.dataset)
  if config.dataset == 'shapes' and facts is not None:
    return Found('made when needed', facts.num_train, facts.num_classes)
  root = locate.find(config.dataset, config.data_dir)
  if locate.is_prepared(root):
    return _prepared(root)
  if root.is_dir():
    names = paths.Directory(pathlib.Path(root)).names
    if not any(name.lower().endswith(layouts.EXTENSIONS) for name in names):
      raise errors.DataError(
        f'{root}: no image files found, expected some with one of the'
        f' extensions {" ".join(layouts.EXTENSIONS)}'
      )
  elif not (zipfile.is_zipfile(root) or tarfile.is_tarfile(root)):
    raise errors.DataError(f'{root}: expected a .tar or .npz file')
  return Found(str(root), None, None)


def _prepared(root: storage.Path) -> Found:
  """A prepared set; refused if shards of 'train' are missing."""
  prepared = tfds.Prepared(root)
  if 'train' not in prepared.split_names:
    raise errors.DataError(
      f"{root}: no split 'train', found {list(prepared.split_names)}"
    )
  splits = json.loads((root / 'dataset_info.json').read_text())['splits']
  (lengths,) = (s['shardLengths'] for s in splits if s['name'] == 'train')
  shards = sum(_SHARD.search(path.name) is not None for path in root.iterdir())
  if shards != len(lengths):
    raise errors.DataError(
      f"{root}: expected {len(lengths):,} files of split 'train', found"
      f' {shards:,}; copy or prepare it again'
    )
  count = sum(int(length) for length in lengths)
  return Found(str(root), count, prepared.features.num_classes)


def described(found: dict[str, Any]) -> list[str]:
  """The check in words."""
  topology, counted = found['topology'], cost.counted
  size = 'images not counted'
  if found['num_examples']:
    images = counted(found['num_examples'], 'image')
    size = f'{images}, {counted(found["steps"], "step")}'
  return [
    f'configuration: good, batch {found["batch_size"]:,}',
    f'topology: {topology["name"]}, {counted(topology["devices"], "device")} on'
    f' {counted(topology["hosts"], "host")},'
    f' {counted(found["per_device_batch"], "image")} a device',
    f'data: {found["data"]}, {size}',
    'checked; nothing was compiled',
  ]
