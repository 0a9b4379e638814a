"""Evaluates each checkpoint of a run: the online classifier and kNN.

The run may be going on, in another process or on another machine, and may not
have begun. Encoders of one run share their compiled functions.
"""

from collections.abc import Callable
import contextlib
import functools
import json
import os
import time
from typing import Any

from ml_collections import config_dict

from byol_jax import configuration, errors, files
from byol_jax.checkpoints import checkpointer
from byol_jax.data import from_config
from byol_jax.evals import features, splits
from byol_jax.evaluation import origins, pretrained, protocols
from byol_jax.training import events, workdir as workdir_lib

Log = Callable[[str], None]
# What a line of evaluations.jsonl may raise that is none of ours.
_NO_RECORD = ValueError, TypeError, KeyError, RecursionError
_RETRIES = 3  # of a checkpoint that may be being deleted


def run(
  workdir: str | os.PathLike,
  config: config_dict.ConfigDict,
  *,
  once: bool = False,
  seconds: float = 10.0,
  log: Log = print,
) -> None:
  """Evaluates the checkpoints of a run, the oldest first, as they appear.

  Ends after the last step of the run. What evaluations.jsonl has already, of
  the same configuration, is not repeated.

  Args:
    workdir: of the pretraining; waited for if there is none yet.
    config: as in `configs/evals/knn.py`.
    once: whether to end after the checkpoints that are there now.
    seconds: between two looks at the workdir.
    log: called with lines.

  Raises:
    ConfigError: the weights are random ones.
    DataError: `once`, and there is no checkpoint; a checkpoint is damaged, all
      of them were deleted, or the images cannot be used.
  """
  if config.weights.startswith('random'):
    raise errors.ConfigError(
      f"weights: expected 'online' or 'target', found {config.weights!r}: no"
      ' step changes random weights'
    )
  found = _wait_for_checkpoint(workdir, None if once else seconds, log)
  watcher = Watcher(found, config, log)
  last = found.experiment.num_steps
  while True:
    if steps := watcher.list_new_steps():
      watcher.evaluate(steps[0], seconds)
      continue
    if last in watcher.done:
      log(f'step {last} is the last of this run: all is evaluated')
      return
    if once:
      return
    if not checkpointer.list_steps(found.checkpoints):
      raise errors.DataError(
        f'{errors.quote(found.checkpoints)}: all checkpoints were deleted; the'
        ' same command waits for new ones'
      )
    time.sleep(seconds)


def _wait_for_checkpoint(
  workdir: str | os.PathLike, seconds: float | None, log: Log
) -> pretrained.Run:
  """Returns a run that has a checkpoint; with None it must have one now.

  A run may change its configuration until then.
  """
  said = ''
  while True:
    config = workdir_lib.local_folder(workdir) / 'config.json'
    folder = workdir_lib.checkpoint_folder(workdir)
    has_run = config.exists() or bool(checkpointer.list_steps(folder))
    if has_run or seconds is None:
      found = pretrained.open_run(workdir)
      if checkpointer.list_steps(found.checkpoints):
        return found
      if seconds is None:
        pretrained.open_encoder(found)  # says that there is none
    what = 'first checkpoint' if has_run else 'pretraining'
    if what != said:
      log(f'waiting for the {what} in {errors.quote(workdir)}')
      said = what
    time.sleep(seconds or 0)


class Watcher:
  """Evaluates checkpoints of one run on the same images.

  Attributes:
    done: the steps that are evaluated, or were skipped.
  """

  def __init__(
    self, run: pretrained.Run, config: config_dict.ConfigDict, log: Log
  ) -> None:
    """Opens the splits, and what was evaluated before.

    Raises:
      DataError: the images cannot be used, or no results can be written.
    """
    config = from_config.resolve_paths(config)
    of_online = configuration.read_preset('evals/online')
    of_online = of_online.copy_and_resolve_references()
    of_online.update({key: config[key] for key in of_online})
    self._run, self._log = run, log
    self._log_once = functools.cache(log)  # what is so at each step
    self._configs = {'online': of_online, 'knn': config}
    load = from_config.make_load(origins.make_data_config(run, config), log)
    self._splits, num_classes = splits.open_splits(load, ('train', 'test'))
    self._file = run.path / protocols.RESULTS
    with files.refuse_unwritable(errors.quote(self._file)):
      # Of a run in a bucket this machine may have no folder yet.
      run.path.mkdir(parents=True, exist_ok=True)
      os.close(files.open_own(self._file))  # before any work
    if run.training_set['num_classes'] != num_classes:
      log(
        f'the online classifier has {run.training_set["num_classes"] or 0}'
        f' classes, these images have {num_classes}: kNN only'
      )
      del self._configs['online']
    self.done = self._read_done()
    self._events: events.Events | None = None
    if run.config.log.tensorboard:
      # TensorBoard reads one file of a folder at a time: not that of the run.
      folder = run.path / 'tensorboard' / 'watch'
      self._events = events.Events(folder, max(self.done, default=-1))

  def list_new_steps(self) -> list[int]:
    """Returns the steps that are to be evaluated, the oldest first."""
    steps = checkpointer.list_steps(self._run.checkpoints)
    return sorted(set(steps) - self.done)

  def evaluate(self, step: int, seconds: float = 1.0) -> None:
    """Evaluates a step by all protocols, or skips one that was deleted."""
    encoder = self._open_encoder(step, seconds)
    self.done.add(step)
    if encoder is None:
      self._log(
        f'step {step} was deleted while it was read: skipped; raise'
        ' checkpoint.keep of the run'
      )
      return
    for name, results in self._measure(encoder).items():
      self._record(name, encoder, results)

  def _open_encoder(self, step: int, seconds: float) -> features.Encoder | None:
    """Returns the encoder of a step; None if it is deleted meanwhile."""
    weights = self._configs['knn'].weights
    for attempt in range(_RETRIES):
      try:
        return pretrained.open_encoder(self._run, weights, step=step)
      except errors.DataError:
        # A deletion takes some time, in which the step is still listed.
        if step not in checkpointer.list_steps(self._run.checkpoints):
          break
        if attempt == _RETRIES - 1:
          raise
        time.sleep(seconds)
    return None

  def _measure(self, encoder: features.Encoder) -> dict[str, dict[str, Any]]:
    """Returns the results of each protocol."""
    # Keeps the features of the test split, which serve both.
    encoder = encoder._replace(store=features.FeatureStore())
    load = self._splits.__getitem__
    return {
      name: protocols.PROTOCOLS[name].measure_accuracy(
        protocols.make_options(name, config), encoder, load, self._log_once
      )
      for name, config in self._configs.items()
    }

  def _record(
    self, name: str, encoder: features.Encoder, results: dict[str, Any]
  ) -> None:
    """Prints a sentence for each result, and records all of them."""
    config = self._configs[name]
    record = protocols.make_record(name, config, self._run, encoder, results)
    files.append_json(self._file, record)
    for text in record['headlines']:
      self._log(f'step {encoder.step}: {text}')
    if self._events is None:
      return
    values = {
      key if key.startswith(name) else f'{name}_{key}': value
      for key, value in results.items()
      if isinstance(value, float)
    }
    try:
      self._events.write(encoder.step or 0, values)
    except OSError as error:
      self._log(f'warning: tensorboard cannot be written: {error.strerror}')
      self._events = None

  def _read_done(self) -> set[int]:
    """Returns the steps of which the file has all results."""
    found: dict[str, set[int]] = {name: set() for name in self._configs}
    for line in files.read_file(self._file).splitlines():
      with contextlib.suppress(*_NO_RECORD):
        record = json.loads(line)
        name = record['protocol']
        expected = json.loads(json.dumps(self._configs[name].to_dict()))
        if record['config'] == expected:
          found[name].add(record['step'])
    return set.intersection(*found.values())
