"""What an evaluation may evaluate: a run, or an encoder from elsewhere."""

import os
from typing import NamedTuple

from ml_collections import config_dict

from byol_jax import errors, files, parallel
from byol_jax.convert import from_file, shapes
from byol_jax.data import from_config
from byol_jax.evals import features
from byol_jax.evaluation import pretrained


class Export(NamedTuple):
  """An exported encoder or a published checkpoint, in the place of a `Run`."""

  name: str  # its path
  config: config_dict.ConfigDict  # of the pretraining, as far as it is known
  has_dataset: bool  # whether `config` says on which images it was trained


Origin = pretrained.Run | Export


def get_path(origin: Origin) -> str:
  """Returns the path of a run or a file, for records and messages."""
  return origin.name if isinstance(origin, Export) else str(origin.path)


def open_origin(
  path: str | os.PathLike,
  weights: str = 'online',
  *,
  calibration_batches: int = 50,
  step: int | None = None,
) -> tuple[Origin, features.Encoder]:
  """Opens what `pretrained.read_weights` reads, to evaluate it.

  Args:
    path: a workdir, or a file or folder of weights.
    weights: see `pretrained.open_encoder`; of a file 'online', or 'target' if
      it has them.
    calibration_batches: see `pretrained.open_encoder`.
    step: of the checkpoint of a workdir; None for the newest one.

  Raises:
    ConfigError: weights or a step that the origin does not have.
    DataError: there is nothing of the kind, or it is damaged.
  """
  files.check_path('workdir', path)
  if from_file.find_file(path) is None:
    run = pretrained.open_run(path)
    encoder = pretrained.open_encoder(
      run, weights, calibration_batches=calibration_batches, step=step
    )
    return run, encoder
  found = pretrained.read_weights(path, weights, step)
  export = Export(
    name=os.fspath(path),
    config=pretrained.make_config(found),
    has_dataset=found.card['config'] is not None,
  )
  forward = shapes.make_forward(found, parallel.AXIS)
  encoder = features.make_encoder(forward, found.params, found.state, weights)
  return export, encoder._replace(network=found.network)


def make_data_config(
  origin: Origin, config: config_dict.ConfigDict
) -> config_dict.ConfigDict:
  """Returns the configuration of the images of an evaluation.

  It is that of the pretraining, with `dataset`, `data_dir` and `labels` of the
  evaluation's `config` where it has them, and its `seed`.

  Raises:
    ConfigError: neither of them says which images.
  """
  data = origin.config.copy_and_resolve_references()
  is_other = 'datasets' in config or config.dataset is not None
  if config.labels != 'pretraining':
    data.data.labels = config.labels
  elif is_other and data.data.labels == 'none':
    data.data.labels = 'auto'
  if 'datasets' in config:  # which the protocol opens by their names
    data.data_dir = config.data_dir or data.data_dir
  elif config.dataset is not None:
    data.dataset = config.dataset
    data.data_dir = config.data_dir
  elif isinstance(origin, Export) and not origin.has_dataset:
    raise errors.ConfigError(
      f'dataset: {errors.quote(origin.name)} does not say of which images it'
      ' is; give --config.dataset'
    )
  elif config.data_dir is not None:
    data.data_dir = config.data_dir
  data.seed = config.seed
  return data


def list_fingerprints(
  origin: Origin, config: config_dict.ConfigDict, dataset: str | None = None
) -> list[str | None]:
  """Returns the fingerprint of each split of an evaluation.

  It is None of a split that cannot be opened. `dataset` is another set than
  that of `config`.
  """
  found: list[str | None] = []
  for split in ('train', 'valid', 'test'):
    try:
      data = from_config.resolve_paths(make_data_config(origin, config))
      found.append(from_config.open_split(data, split, dataset).fingerprint)
    except errors.UserError:
      found.append(None)
  return found
