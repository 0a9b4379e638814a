"""Makes a workdir of weights from elsewhere: the verb `import`."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import errno
import os
import pathlib
import shutil
from typing import Any

import jax
from ml_collections import config_dict
import numpy as np

from byol_jax import configuration, errors, experiment, files
from byol_jax.checkpoints import checkpointer
from byol_jax.convert import deepmind, from_file, shapes, weights as weights_lib
from byol_jax.data import catalog, from_config
from byol_jax.evaluation import pretrained
from byol_jax.training import workdir as workdir_lib


def import_weights(
  path: str | os.PathLike,
  workdir: str | os.PathLike,
  config: str = 'pretrain',
  overrides: Sequence[str] | Mapping[str, Any] = (),
  log: Callable[[str], None] = lambda text: None,
) -> int:
  """Makes a workdir of a published checkpoint or of weights of another library.

  The run in it continues training, is evaluated and exported like our own. It
  is at the step of the checkpoint; a file of an encoder only is at step 0, with
  heads of random weights. The workdir appears whole or not at all.

  Args:
    path: see `pretrained.read_weights`.
    workdir: must not exist yet, or be empty.
    config: a preset, for what the file does not say: images, augmentation,
      rates. All of it but `network` may differ when the run goes on.
    overrides: of the preset; see `configuration.load`.
    log: called with lines for the user, the licence of the weights among them.

  Returns:
    The step.

  Raises:
    ConfigError: a value of the configuration cannot be used, or contradicts
      the weights.
    DataError: the file cannot be used, or the workdir cannot be written.
  """
  files.check_path('path', path)
  folder = files.find_free_folder('workdir', workdir)
  preset = configuration.load(config, overrides, 'pretrain')
  found, checkpoint = _read_weights(path)
  filled = _fill_config(found, preset, overrides)
  if checkpoint and filled.optimizer.name == 'adamw':
    raise errors.ConfigError(
      'optimizer.name: the checkpoint has the momentum of LARS, found adamw;'
      ' leave it out, or pretrain with --config.init.checkpoint'
    )
  num_examples, num_classes = _describe_images(filled)
  if found.num_classes is not None:
    num_classes = found.num_classes
  training_set = {
    'num_examples': num_examples,
    'num_classes': num_classes,
    'fingerprint': None,  # the file does not say which images
  }
  method = experiment.build(filled, num_examples, num_classes)
  state = _make_state(method, found, checkpoint)
  record = filled.to_dict() | {'training_set': training_set}
  step = int(state.step)
  origin = workdir_lib.describe_origin(found.card)
  _write_workdir(folder, record, state, step, origin)
  what = f'step {step}' if checkpoint else 'weights without a run: step 0'
  log(f'{found.network["encoder"]}, {what}; {folder}')
  if found.card['licence']:
    log(f'licence of these weights: {found.card["licence"]}')
  return step


def _read_weights(
  path: str | os.PathLike,
) -> tuple[weights_lib.EncoderWeights, deepmind.OfficialCheckpoint | None]:
  """Returns the weights of a file, and its run if it is a whole checkpoint."""
  file = files.expand_home(path)
  if file.suffix == from_file.PUBLISHED:
    return deepmind.read_published(file)
  return pretrained.read_weights(path), None


def _fill_config(
  found: weights_lib.EncoderWeights,
  preset: config_dict.ConfigDict,
  overrides: Sequence[str] | Mapping[str, Any],
) -> config_dict.ConfigDict:
  """Returns the preset with the network of the weights.

  What leaves no trace in names and shapes is that of an override, if any.

  Raises:
    ConfigError: an override of the network contradicts the weights.
  """
  given = {
    key.partition('=')[0].removeprefix(configuration.PREFIX)
    for key in overrides
  }
  hidden = {x for x in ('stem', *shapes.UNSEEN) if f'network.{x}' in given}
  if not shapes.has_heads(found.params, found.network):
    hidden |= {'projector', 'predictor'}
  values = {key: preset.network[key] for key in hidden}
  found = found._replace(network=found.network | values)
  # What a file without a size has, too.
  is_unknown = found.image_size == weights_lib.IMAGE_SIZE
  if 'image_size' in given or is_unknown:
    found = found._replace(image_size=preset.image_size)
  if 'data.eval_crop' in given:
    found = found._replace(eval_crop=preset.data.eval_crop)
  filled = from_config.resolve_paths(pretrained.make_config(found, preset))
  before, after = map(configuration.flatten, (preset, filled))
  for key in sorted(given & after.keys()):
    if key.startswith('network.') and before[key] != after[key]:
      raise errors.ConfigError(
        f'{key}: the weights have {after[key]!r}, found {before[key]!r}; leave'
        ' it out'
      )
  shapes.check_weights(found, errors.quote(found.card['source']))
  return filled


def _describe_images(config: config_dict.ConfigDict) -> tuple[int, int | None]:
  """Returns images and classes of the training set, by its facts if known."""
  facts = catalog.find_facts(config.dataset)
  if facts is not None and config.data_dir is None:
    return facts.num_train, facts.num_classes
  images = from_config.make_image_set(config, 'train')
  return images.num_examples, images.num_classes


def _make_state(
  method: experiment.Experiment,
  found: weights_lib.EncoderWeights,
  checkpoint: deepmind.OfficialCheckpoint | None,
) -> Any:
  """Returns the state of a checkpoint, or before step 0 with the weights."""
  if checkpoint is None:
    weights = experiment.Weights(found.params, found.state, found.card)
    return method._replace(weights=weights).init_on_host()
  trees = {name: getattr(checkpoint, name) for name in deepmind.TREES}
  state = method.state_at(
    checkpoint.step, checkpoint.rng, checkpoint.momentum, **trees
  )
  template = jax.eval_shape(method.initial_state)
  # A restore compares dtypes.
  return jax.tree.map(
    lambda x, leaf: np.asarray(leaf, x.dtype), template, state
  )


def _write_workdir(
  folder: pathlib.Path,
  record: dict[str, Any],
  state: Any,
  step: int,
  origin: Mapping[str, Any],
) -> None:
  """Writes the workdir whole; DataError if it cannot be written."""
  with (
    files.refuse_unwritable(f'workdir {errors.quote(folder)}'),
    files.fill_folder(folder) as temporary,
  ):
    _require_space(temporary, state)
    saver = checkpointer.Checkpointer(
      workdir_lib.checkpoint_folder(temporary),
      keep=1,
      record=workdir_lib.make_record(record, origin),
    )
    with contextlib.closing(saver):
      saver.save(step, state, {})
    workdir_lib.write_record(temporary, record, origin)


def _require_space(folder: pathlib.Path, state: Any) -> None:
  """Raises OSError if a state does not fit on the disk.

  Orbax writes on for a while after a failure, and prints tracebacks.
  """
  needed = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state))
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise OSError(
      errno.ENOSPC,
      f'{os.strerror(errno.ENOSPC)}, {free / 1e6:,.1f} MB for'
      f' {needed / 1e6:,.1f} MB',
    )
