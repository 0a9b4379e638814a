"""A pretraining run on disk, and its frozen encoders with parameters."""

from collections.abc import Callable, Sequence
import functools
import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import config_dict
import numpy as np

from byol_jax import configuration, errors, experiment, files, networks
from byol_jax.checkpoints import checkpointer, trees
from byol_jax.data import from_config
from byol_jax.data.sampling import resize
from byol_jax.evals import features
from byol_jax.training import provenance, workdir as workdir_lib

WEIGHTS = ('online', 'target', 'random', 'random_calibrated')
# What a config.json raises that holds something else.
_NOT_A_CONFIG = (
  *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
  errors.ConfigError,
)
_MAX_IMAGES = 64  # on the device at once


class Run(NamedTuple):
  """A pretraining run on disk, its functions built."""

  path: Path  # on this machine
  checkpoints: str  # a path or a URL
  config: config_dict.ConfigDict
  experiment: experiment.Experiment
  training_set: dict[str, Any]  # see `train.describe_dataset`


def open_run(workdir: str | Path) -> Run:
  """Reads and builds a pretraining run.

  Encoders of one `Run` share their compiled functions.

  Raises:
    ConfigError: `workdir` can be no path.
    DataError: there is no such run, or its configuration is damaged.
  """
  files.check_path('workdir', workdir)
  try:
    values = read_config(workdir).to_dict()
    training_set = values.pop('training_set')
    config = configuration.validate(config_dict.ConfigDict(values), 'pretrain')
    facts = training_set['num_examples'], training_set['num_classes']
    return Run(
      path=workdir_lib.local_folder(workdir),
      checkpoints=workdir_lib.checkpoint_folder(
        workdir, config.checkpoint.folder
      ),
      config=config,
      experiment=experiment.build(config, *facts),
      training_set=training_set,
    )
  except _NOT_A_CONFIG as error:
    raise errors.DataError(
      f'{errors.quote(workdir)}: config.json is damaged:'
      f' {errors.first_line(error)}'
    ) from error


def read_config(workdir: str | Path) -> config_dict.ConfigDict:
  """Returns the configuration of a pretraining run, with its `training_set`.

  Raises:
    DataError: there is none.
  """
  try:
    saved = workdir_lib.read_config_file(workdir_lib.local_folder(workdir))
  except errors.DataError:
    # A bucket, or a copy of one, has the configuration in its checkpoints.
    folder = workdir_lib.checkpoint_folder(workdir)
    record = checkpointer.read_record(folder) or {}
    if 'config' not in record:
      raise
    saved = record['config']
  if 'training_set' not in saved:
    raise errors.DataError(
      f'{errors.quote(workdir)} holds no pretraining run of byol_jax'
    )
  return config_dict.ConfigDict(experiment.add_old_values(saved)).lock()


def find_old_values(
  config: config_dict.ConfigDict, workdir: str | Path
) -> dict[str, Any]:
  """Returns the values with which the run in `workdir`, if any, goes on.

  They are the `experiment.OLD_VALUES` of the keys that its newest checkpoint
  lacks and that have their default in `config`: so the same command resumes a
  run of an earlier version.

  Raises:
    DataError: the checkpoints cannot be listed.
  """
  folder = workdir_lib.checkpoint_folder(workdir, config.checkpoint.folder)
  record = checkpointer.read_record(folder) or {}
  if 'config' not in record:
    return {}
  saved = provenance.flatten_config(record['config'])
  now = configuration.flatten(config)
  defaults = configuration.flatten(configuration.read_preset('pretrain'))
  old = {
    key: value
    for key, value in experiment.OLD_VALUES.items()
    if key not in saved and now[key] == defaults[key] != value
  }
  for key, value in old.items():
    logging.warning('%s: %r, as when this run began', key, value)
  return old


def open_encoder(
  run: Run, weights: str = 'online', *, calibration_batches: int = 50
) -> features.Encoder:
  """Returns the frozen encoder of a pretraining run.

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
      f'weights: expected one of {list(WEIGHTS)}, found {errors.quote(weights)}'
    )
  is_random = weights.startswith('random')
  state = run.experiment.init_on_host() if is_random else _read_state(run)
  params, net_state = state.online_params, state.online_state
  if weights == 'target':
    params, net_state = state.target_params, state.target_state
  forward = run.experiment.forward
  if weights == 'random_calibrated':
    dataset = from_config.make_image_set(run.config, 'train', cropped=False)
    # In random order: a batch of one class has other statistics.
    batches = dataset.crop_batches(
      run.config.batch_size, 0, calibration_batches
    )
    net_state = features.estimate_batch_norm(
      forward, params, net_state, batches, max_batches=calibration_batches
    )
  return features.make_encoder(forward, params, net_state, weights)


def make_image_encoder(
  encoder: features.Encoder, *, image_size: int, eval_crop: str
) -> Callable[[Any], np.ndarray]:
  """Returns images in memory -> representations; see `api.load_encoder`."""
  represent = jax.jit(functools.partial(networks.represent, encoder.forward))
  # Arguments, not constants of the program.
  frozen = jax.device_put((encoder.params, encoder.state))

  def encode(images: Any) -> np.ndarray:
    images, found = _list_images(images), []
    for start in range(0, len(images), _MAX_IMAGES):
      part = images[start : start + _MAX_IMAGES]
      # Zeros up to a power of two: few batch sizes, so few programs.
      padded = 1 << (len(part) - 1).bit_length()
      crops = np.zeros((padded, image_size, image_size, 3), np.float32)
      for i, image in enumerate(part):
        pixels = resize.convert_image(image)
        crops[i] = resize.crop_for_evaluation(pixels, image_size, eval_crop)
      found.append(np.asarray(represent(*frozen, crops))[: len(part)])
    return np.concatenate(found).astype(np.float32)

  return encode


def _read_state(run: Run) -> Any:
  """Returns the newest saved `ByolState`, leaves as numpy."""
  folder = run.checkpoints
  if checkpointer.latest_step(folder) is None:
    raise errors.DataError(
      f'{errors.quote(folder)} has no checkpoint yet; wait for its pretraining'
    )
  arrays, facts = checkpointer.read_arrays(folder)
  where = f'{folder}/{facts["step"]}'
  config = run.config.to_dict() | {'training_set': run.training_set}
  workdir_lib.require_same_run(config, facts['record'], where)
  template = jax.eval_shape(run.experiment.initial_state)
  return trees.unflatten(template, arrays, where)


def _list_images(images: Any) -> Sequence[Any]:
  """Returns one [H, W, 3], [B, H, W, 3] or a list of [H, W, 3] as a sequence.

  Raises:
    DataError: no image, or an array of another shape.
  """
  if not isinstance(images, list | tuple):
    images = np.asarray(images)
    if images.ndim not in (3, 4):
      raise errors.DataError(
        'images: expected [H, W, 3], [B, H, W, 3] or a list, found'
        f' {list(images.shape)}'
      )
    images = images[None] if images.ndim == 3 else images
  if not len(images):
    raise errors.DataError('images: expected at least one, found none')
  return images
