"""The functions of byol_jax: what Python callers and the command line share."""

from collections.abc import Callable, Mapping, Sequence
import functools
import os
from pathlib import Path
from typing import Any

import jax
from ml_collections import config_dict
import numpy as np

from byol_jax import configuration, errors, experiment, files
from byol_jax.checkpoints import checkpointer
from byol_jax.data import from_config
from byol_jax.data.loading import in_memory
from byol_jax.distributed import placement, processes
from byol_jax.evals import embed as embed_lib, while_training
from byol_jax.evaluation import (
  functions,
  origins,
  pretrained,
  protocols,
  suite as suite_lib,
)
from byol_jax.training import (
  hardware,
  loop,
  old_values,
  train,
  workdir as workdir_lib,
)

PROTOCOLS = protocols.PROTOCOLS
evaluate = protocols.evaluate
finetune = functions.finetune
knn = functions.knn
linear = functions.linear
online = functions.online
semisup = functions.semisup
suite = suite_lib.suite
transfer = functions.transfer


def pretrain(
  config: str | config_dict.ConfigDict,
  workdir: str | Path,
  overrides: Mapping[str, Any] | None = None,
  *,
  on_log: Callable[[int, dict[str, float]], None] | None = None,
  profile: str | Path | None = None,
) -> dict[str, float]:
  """Pretrains BYOL, or resumes what `workdir` holds.

  Args:
    config: a preset by name or path ('shapes', 'configs/pretrain.py:300'), or
      a configuration.
    workdir: where checkpoints, logs and the configuration go.
    overrides: {'section.key': value}, for a preset by name.
    on_log: called with the step and the scalars (docs/logs.md) of each line of
      scalars.jsonl, in process 0 only; its exceptions end the run.
    profile: a folder for a trace of the sixth to tenth call of the devices, of
      process 0 (docs/speed.md).

  Returns:
    The last scalars, `step`, `seconds`, and `unusable_images`: how many images
    were replaced by another one, on this process.

  Raises:
    UserError: one of `byol_jax.errors`.
  """
  files.check_path('workdir', workdir)
  config = configuration.load_or_validate(config, overrides, 'pretrain')
  hardware.share_one_heap(config)
  _check_profile(profile)
  config, record = _read_record(config, workdir)
  config = from_config.resolve_engine(from_config.resolve_paths(config))
  notes: list[str] = []  # about the images
  open_set = functools.partial(
    from_config.make_image_set, config, 'train', held=True, log=notes.append
  )
  dataset = processes.raise_on_all('data', open_set)
  load = functools.partial(from_config.make_image_set, config, labelled=True)
  last = _pretrain(
    *(dataset, config, record, workdir, load, on_log, notes), profile
  )
  return last | {'unusable_images': dataset.num_failures}


def pretrain_on(
  dataset: Any,
  config: config_dict.ConfigDict,
  workdir: str | Path,
  load: Callable[[str], Any] | None = None,
  *,
  on_log: Callable[[int, dict[str, float]], None] | None = None,
  profile: str | Path | None = None,
) -> dict[str, float]:
  """Pretrains on a given data set, or resumes what `workdir` holds.

  Args:
    dataset: this process's part of the training set: a `train.TrainingSet`
      that has `view_batches` (a `multi_step.MakeBatches`), or that is also a
      `multi_step.ResidentSet`.
    config: as in `configs/pretrain.py`; its sections `dataset`, `data` and
      `input` are only recorded, but for `input.steps_per_call`.
    workdir: see `pretrain`.
    load: 'train' and 'test' -> image set (`evals.splits.Split`), for
      `eval.knn_every_steps`.
    on_log, profile: see `pretrain`.

  Returns:
    The last scalars, `step` and `seconds`.

  Raises:
    UserError: see `train.train`.
  """
  config = configuration.validate(config, 'pretrain')
  hardware.share_one_heap(config)
  _check_profile(profile)
  config, record = _read_record(config, workdir)
  return _pretrain(
    *(dataset, config, record, workdir, load, on_log), profile=profile
  )


def _check_profile(folder: str | Path | None) -> None:
  """Refuses a folder that process 0 cannot write, before images are read."""

  def check() -> None:
    if folder is not None and jax.process_index() == 0:
      files.find_writable_folder('profile', folder)

  # Others may have no folder, and take part too.
  processes.raise_on_all('profile', check)


def _pretrain(
  dataset: Any,
  config: config_dict.ConfigDict,
  record: dict[str, Any] | None,
  workdir: str | Path,
  load: Callable[[str], Any] | None,
  on_log: Callable[[int, dict[str, float]], None] | None = None,
  notes: Sequence[str] = (),
  profile: str | Path | None = None,
) -> dict[str, float]:
  """Pretrains, or resumes the run of a checkpoint with the given record.

  The log begins with `notes`.
  """
  if config.init.checkpoint and '://' not in config.init.checkpoint:
    # So that the same command resumes from any folder.
    path = os.path.abspath(os.path.expanduser(config.init.checkpoint))
    config = _replace(config, {'init.checkpoint': path})
  placement.check_batch_size(
    *('batch_size', config.batch_size),
    accumulate=config.batch.accumulate,
    bn_group=config.network.bn_group,
  )
  train.require_same_dataset(dataset)
  method = experiment.build(config, dataset.num_examples, dataset.num_classes)
  if config.steps == 'auto':  # a run that resumes has this number of steps
    config = _replace(config, {'steps': method.num_steps})
  method = _start_from_weights(method, config, record)
  method = method._replace(derived=(*notes, *method.derived))
  evaluate = None
  if config.eval.knn_every_steps:
    evaluate = processes.raise_on_all(
      'eval', lambda: while_training.make_knn(method.forward, load)
    )
  origin = _find_origin(method, record, workdir)
  with hardware.explain_out_of_memory(
    config.batch_size, config.batch.accumulate
  ):
    return train.train(
      method,
      dataset,
      str(workdir),
      loop.TrainingOptions(
        loop.CheckpointOptions(**config.checkpoint),
        loop.FaultOptions(**config.faults),
        loop.LogOptions(**config.log),
        config.eval.knn_every_steps,
        '' if profile is None else str(profile),
      ),
      config=config.to_dict(),
      steps_per_call=config.input.steps_per_call,
      origin=origin,
      evaluate=evaluate,
      on_log=on_log,
    )


def _replace(
  config: config_dict.ConfigDict, values: dict[str, Any]
) -> config_dict.ConfigDict:
  """Returns a locked copy of a configuration with some values."""
  config = config.copy_and_resolve_references()
  with config.ignore_type():
    config.update_from_flattened_dict(values)
  return config.lock()


def _find_origin(
  method: experiment.Experiment,
  record: dict[str, Any] | None,
  workdir: str | Path,
) -> dict[str, Any] | None:
  """Returns which weights a run started from; None of random ones."""
  if record is None:
    return method.weights and workdir_lib.describe_origin(method.weights.card)
  return workdir_lib.read_origin(workdir_lib.local_folder(workdir), record)


def _start_from_weights(
  method: experiment.Experiment,
  config: config_dict.ConfigDict,
  record: dict[str, Any] | None,
) -> experiment.Experiment:
  """Returns the method with the weights of `init.checkpoint`, if any.

  Process 0 reads them, unless the workdir already holds a checkpoint.
  """
  path = config.init.checkpoint
  if not path:
    return method

  def read() -> experiment.Experiment:
    if jax.process_index() or record is not None:
      return method
    found = pretrained.read_weights(path)
    weights = experiment.Weights(found.params, found.state, found.card)
    state = jax.eval_shape(method.initial_state)
    parts = experiment.find_fitting_parts(state, weights)
    note = f'starts from {errors.quote(path)}: {", ".join(sorted(parts))}'
    if found.card['licence']:
      note += f'; its weights are {found.card["licence"]}'
    return method._replace(weights=weights, derived=(*method.derived, note))

  return processes.raise_on_all('init.checkpoint', read)


def _read_record(
  config: config_dict.ConfigDict, workdir: str | Path
) -> tuple[config_dict.ConfigDict, dict[str, Any] | None]:
  """Reads what a run to resume has recorded.

  Only process 0 need see the workdir.

  Returns:
    The configuration with the values of an earlier version's run; and the
    record of the newest checkpoint, None without one and on other processes.
  """
  folder = workdir_lib.checkpoint_folder(workdir, config.checkpoint.folder)

  def read() -> tuple[dict[str, Any] | None, dict[str, Any]]:
    record = checkpointer.read_record(folder)
    return record, old_values.find_old_values(config, record or {})

  is_first = jax.process_index() == 0
  record, old = processes.raise_on_all(
    'old values', read if is_first else lambda: (None, {})
  )
  old = processes.broadcast_json('old values/values', old)
  return _replace(config, old), record


def load(
  path: str | Path, weights: str = 'online', axis_name: str | None = None
) -> pretrained.PretrainedEncoder:
  """Returns the encoder of a run, an exported or a published file.

  Args:
    path: a workdir; a file or folder of `export`; a published checkpoint; see
      `pretrained.read_weights`.
    weights: 'online' (the result), 'target', 'random' or 'random_calibrated'
      of a workdir; see `pretrained.open_encoder`.
    axis_name: of a mapped axis over which batch norm averages its statistics
      in training mode; None keeps them local.

  Returns:
    An object that maps images to representations when called, and has
    `params`, `state`, `apply`, `preprocess`, `config`, `dim`, `image_size`.

  Raises:
    UserError: one of `byol_jax.errors`.
  """
  return pretrained.load(path, weights, axis_name)


def load_encoder(
  workdir: str | Path, weights: str = 'online'
) -> Callable[[Any], np.ndarray]:
  """Returns `load(workdir, weights)` as a function of images."""
  return load(workdir, weights)


def embed(
  workdir: str | Path,
  images: Any,
  output: str | Path,
  weights: str = 'online',
  *,
  step: int | None = None,
  labels: str = 'auto',
  log: Callable[[str], None] = lambda text: None,
) -> int:
  """Writes the representations and names of all images of a set.

  Args:
    workdir: as of `knn`, also `step`.
    images: a folder, or anything that `dataset` takes; or images: paths of
      files, arrays [H, W, 3] or images of Pillow in a list.
    output: the .npz file.
    weights: see `pretrained.open_encoder`.
    step: of an older checkpoint.
    labels: 'folders' takes folders that look like parts of a set or like masks
      for any others; see `data.labels` of configs/pretrain.py.
    log: called with lines on what is done.

  Returns:
    The number of images in the file; one that cannot be read is left out.

  Raises:
    UserError: one of `byol_jax.errors`.
  """
  is_path = isinstance(images, str | os.PathLike)
  for name, path in (
    ('images', images if is_path else '.'),
    ('output', output),
  ):
    files.check_path(name, path)
  origin, encoder = origins.open_origin(workdir, weights, step=step)
  config = origin.config.copy_and_resolve_references()
  source = None
  if is_path:
    config.dataset = os.fspath(images)
  else:
    pixels = from_config.make_pixel_options(config)
    source = in_memory.ListedImages(images, pixels)
  config.data.labels = labels
  config.input.max_bad_share = 1.0  # `names` tells which images have a row
  configuration.check_ranges(config)
  # Without `log`, whose line tells what a run would train on.
  dataset = from_config.make_image_set(
    config, 'all', source=source, labels_key='--labels'
  )
  names = [dataset.file_name(i) for i in range(dataset.num_examples)]
  count = embed_lib.write_embeddings(encoder, dataset, names, output, log)
  if count < len(names):
    images = errors.format_count(len(names) - count, 'image')
    log(f'{images} could not be used; see above')
  return count
