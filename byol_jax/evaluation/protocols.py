"""Runs protocols of evaluation: opens their images, records their results."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import pathlib
from typing import Any

import jax
from ml_collections import config_dict

from byol_jax import configuration, errors, experiment, files
from byol_jax.checkpoints import digests
from byol_jax.data import from_config
from byol_jax.distributed import processes
from byol_jax.evals import (
  features,
  finetune,
  headlines,
  knn,
  linear,
  online,
  semi_supervised,
  transfer,
)
from byol_jax.evaluation import origins, pretrained, saved
from byol_jax.training import provenance, resumable, train

RESULTS, UNFINISHED = 'evaluations.jsonl', 'evaluations'  # in a workdir
# Modules as `byol_jax.evals` says, by the name of the verb and the function.
# Where `measure_accuracy` has such an argument it gets `train`, and `augment`,
# that of view 1 of the pretraining.
PROTOCOLS: dict[str, Any] = {
  'knn': knn,
  'linear': linear,
  'online': online,
  'finetune': finetune,
  'semisup': semi_supervised,
  'transfer': transfer,
}


def evaluate(
  name: str,
  config: config_dict.ConfigDict,
  origin: origins.Origin,
  encoder: features.Encoder,
  log: Callable[[str], None] = lambda text: None,
  output: str | os.PathLike | None = None,
  save: str | os.PathLike | None = None,
) -> dict[str, Any]:
  """Evaluates an encoder by a protocol, and records and returns the results.

  Args:
    name: of `PROTOCOLS`.
    config: as in `configs/evals/<name>.py`.
    origin: from `origins.open_origin` or `pretrained.open_run`.
    encoder: from `open_origin` or `pretrained.open_encoder`.
    log: called with lines of progress.
    output: see `functions.knn`.
    save: see `functions.finetune`; of a protocol that trains the encoder.

  Raises:
    UserError: one of `byol_jax.errors`.
  """
  protocol = PROTOCOLS[name]
  config = configuration.validate(config, f'evals/{name}')
  data = origins.make_data_config(origin, config)
  load = from_config.make_load(data, log)
  options = make_options(name, config)
  given: dict[str, Any] = {'log': log}
  parameters = inspect.signature(protocol.measure_accuracy).parameters
  if 'augment' in parameters:
    given['augment'] = experiment.make_augments(data)[0]
  if save is not None:
    given['save'] = processes.raise_on_all(
      'evaluation/save',
      functools.partial(saved.make_save, save, origin, encoder),
    )
  file = origin.path / RESULTS if isinstance(origin, pretrained.Run) else None
  if output is not None:
    files.check_path('output', output)
    file = files.expand_home(output)
  with contextlib.ExitStack() as stack:
    processes.raise_on_all(
      'evaluation/results', lambda: stack.enter_context(open_results(file))
    )
    if 'train' in parameters:
      images = load('fit').fingerprint
      folder = find_saves(name, config, images, origin, encoder)
      saves = stack.enter_context(resumable.open_saves(folder, log))
      given['train'] = functools.partial(train.train_in_memory, saves=saves)
    results = protocol.measure_accuracy(options, encoder, load, **given)
    record = make_record(name, config, origin, encoder, results)
    if file is not None and jax.process_index() == 0:
      files.append_json(file, record)
  return results


def make_options(name: str, config: config_dict.ConfigDict) -> Any:
  """Returns the options of a protocol that a configuration holds."""
  options = PROTOCOLS[name].Options
  names = [field.name for field in dataclasses.fields(options)]
  return options(**{key: config[key] for key in names})


def describe_results(name: str, results: dict[str, Any]) -> list[str]:
  """Returns a sentence for each headline of the results of a protocol."""
  found = PROTOCOLS[name].list_headlines(results)
  return [headlines.format_headline(headline) for headline in found]


def make_record(
  name: str,
  config: config_dict.ConfigDict,
  origin: origins.Origin,
  encoder: features.Encoder,
  results: dict[str, Any],
) -> dict[str, Any]:
  """Returns a line of the file of results; arguments as of `evaluate`."""
  data = origins.make_data_config(origin, config)
  return {
    'protocol': name,
    'origin': origins.get_path(origin),
    'weights': encoder.name,
    'step': encoder.step,
    'dataset': from_config.resolve_paths(data).dataset,
    'headlines': describe_results(name, results),
    'results': results,
    'config': config.to_dict(),
  }


def find_saves(
  name: str,
  config: config_dict.ConfigDict,
  images: str,
  origin: origins.Origin,
  encoder: features.Encoder,
) -> pathlib.Path | None:
  """Returns where a run keeps an evaluation that is not done.

  All that changes its trainings changes the folder: `images` is the fingerprint
  of those that it trains on.
  """
  if not isinstance(origin, pretrained.Run):
    return None
  facts = {
    'config': config.to_dict(),
    'images': images,
    'weights': digests.digest_trees(
      *jax.device_get((encoder.params, encoder.state))
    ),
    'versions': provenance.list_versions(),
  }
  text = json.dumps(facts, sort_keys=True, default=str)
  digest = hashlib.sha256(text.encode()).hexdigest()[:16]
  return origin.path / UNFINISHED / f'{name}-{digest}'


@contextlib.contextmanager
def open_results(path: pathlib.Path | None) -> Iterator[None]:
  """Opens the file of the results before the work; only process 0 does.

  A file and folders that were made for it go again if nothing was written.

  Raises:
    DataError: it cannot be written.
  """
  if path is None or jax.process_index() != 0:
    yield
    return
  is_new = not os.path.lexists(path)
  new_folders = [folder for folder in path.parents if not folder.exists()]
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(files.open_own(path))
  except OSError as error:
    raise errors.DataError(
      f'{errors.quote(path)}: the results cannot be written'
      f' ({error.strerror}); --output=FILE writes them elsewhere'
    ) from error
  try:
    yield
  finally:
    with contextlib.suppress(OSError):
      if is_new and not path.stat().st_size:
        path.unlink()
        for folder in new_folders:
          folder.rmdir()
