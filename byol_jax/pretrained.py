"""A pretraining run on disk, and its frozen encoders."""

from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import config_dict

from byol_jax import configuration, errors, experiment as experiments
from byol_jax.checkpoints import checkpointer, trees
from byol_jax.data import from_config
from byol_jax.evals import features
from byol_jax.training import workdir as workdirs

WEIGHTS = ('online', 'target', 'random', 'random_calibrated')


def read_config(workdir: str | Path) -> config_dict.ConfigDict:
  """The configuration of a pretraining run, with its `training_set`.

  Raises:
    DataError: there is none.
  """
  try:
    saved = workdirs.read_config(workdirs.local_folder(workdir))
  except errors.DataError:
    # A bucket, or a copy of one: its checkpoints know.
    record = checkpointer.read_record(workdirs.checkpoint_folder(workdir)) or {}
    if 'config' not in record:
      raise
    saved = record['config']
  if 'training_set' not in saved:
    raise errors.DataError(f'{workdir} holds no pretraining run of byol_jax')
  config = config_dict.ConfigDict(saved, convert_dict=True)
  # A run of an earlier version lacks what these sections have gained since.
  now = configuration.load('pretrain')
  for section in ('data', 'input', 'checkpoint', 'faults'):
    if section not in config:
      config[section] = config_dict.ConfigDict()
    for key, value in now[section].items():
      if key not in config[section]:
        config[section][key] = value
  config.lock()
  return config


class Run(NamedTuple):
  """A pretraining run on disk, its functions built."""

  path: Path  # of this machine
  checkpoints: str  # where they are, a path or a URL
  config: config_dict.ConfigDict
  experiment: experiments.Experiment


def open_run(workdir: str | Path) -> Run:
  """Reads and builds a pretraining run.

  Encoders of one `Run` share their compiled functions.

  Raises:
    DataError: there is no such run.
  """
  config = read_config(workdir)
  experiment = experiments.build(
    config, config.training_set.num_examples, config.training_set.num_classes
  )
  place = workdirs.checkpoint_folder(workdir, config.checkpoint.folder)
  return Run(workdirs.local_folder(workdir), place, config, experiment)


def open_encoder(
  run: Run, weights: str = 'online', *, calibration_batches: int = 50
) -> features.Encoder:
  """The frozen encoder of a pretraining run.

  Args:
    run: from `open_run`.
    weights: 'online' (the result), 'target', 'random' (the run's own start) or
      'random_calibrated' (the start, its batch-norm averages estimated on
      training images by forward passes without any update).
    calibration_batches: of the run's batch size.

  Raises:
    ConfigError: unknown weights.
    DataError: no checkpoint yet.
  """
  if weights not in WEIGHTS:
    raise errors.ConfigError(
      f'weights: expected one of {list(WEIGHTS)}, found {weights!r}'
    )
  if weights in ('online', 'target'):
    folder = run.checkpoints
    if checkpointer.latest_step(folder) is None:
      raise errors.DataError(
        f'{folder} has no checkpoint yet: its pretraining has not saved;'
        ' wait for it or start it again'
      )
    arrays, _ = checkpointer.read_arrays(folder)
    template = jax.eval_shape(run.experiment.initial_state)
    state = trees.unflatten(template, arrays, str(folder))
  else:
    state = run.experiment.init_on_host()
  if weights == 'target':
    params, net_state = state.target_params, state.target_state
  else:
    params, net_state = state.online_params, state.online_state
  if weights == 'random_calibrated':
    net_state = features.calibrate(
      run.experiment.forward,
      params,
      net_state,
      # In random order: a batch of one class has other statistics.
      from_config.make_image_set(
        run.config, 'train', cropped=False
      ).crop_batches(run.config.batch_size, 0, calibration_batches),
      max_batches=calibration_batches,
    )
  return features.make_encoder(
    run.experiment.forward, params, net_state, weights
  )
