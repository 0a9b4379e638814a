"""The pretraining run: everything that happens before and between its loops.

Batches come from a data set that the entry passes in; results leave as
scalars and checkpoints. Files are process 0's alone.
"""

import contextlib
import time
from typing import Any, Protocol

import jax
from ml_collections import config_dict

from byol_jax import errors, experiment as experiments
from byol_jax.checkpoints import checkpointer
from byol_jax.distributed import placement, processes
from byol_jax.training import (
  loop,
  multi_step,
  preemption,
  provenance,
  recovery as patiences,
  resume,
  watchdog,
  workdir as workdirs,
)

# Parts of a configuration that do not change what is learned.
FREE = {
  'data_dir',
  'input',
  'checkpoint',
  'faults',
  'log',
  'preset',
  'preset_epochs',
  'preset_batch_size',
}


class ImageSet(Protocol):
  """What a run needs of a data set, besides what its `calls` do."""

  num_examples: int
  num_classes: int | None
  fingerprint: str


# What a workdir remembers of its training set.
FACTS = ('num_examples', 'num_classes', 'fingerprint')


def run(
  config: config_dict.ConfigDict, path: str, dataset: ImageSet
) -> dict[str, float]:
  """Pretrains into `path`, from its last completed step if it has one.

  Args:
    config: as in `configs/pretrain.py`.
    path: the workdir, made if it is missing; or a URL (gs://BUCKET/RUN).
    dataset: the training set.

  Returns:
    The scalars of the last log interval, `step` and `seconds`.

  Raises:
    ConfigError: a value cannot be used.
    DataError: the workdir is in use, not writable, or holds another run; or
      too many images cannot be used, or none comes any more.
    DivergedError: step after step was not finite; the last checkpoint stays.
    Preempted: Ctrl-C or SIGTERM; the state is saved.
  """
  placement.check_batch_size('batch_size', config.batch_size)
  processes.require_agreement(
    'training set',
    {f'training_set.{name}': repr(getattr(dataset, name)) for name in FACTS},
  )
  experiment = experiments.build(
    config, dataset.num_examples, dataset.num_classes
  )
  steps = multi_step.of(config, dataset)
  began = time.monotonic()
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(preemption.PreemptionGuard())
    saved = processes.raise_on_all(
      'workdir', lambda: opened(stack, config, path, dataset)
    )
    parts = loop.Parts(
      config=config,
      path=workdirs.local(path),
      update=steps.compile(experiment.update),
      steps=steps,
      saved=saved,
      stop=stop,
      patience=patiences.Patience(
        config.faults.max_skips, config.faults.max_rollbacks
      ),
      dog=stack.enter_context(
        contextlib.closing(
          # A little more than images are waited for, which says more.
          watchdog.Watchdog(1.1 * config.faults.stall_seconds)
        )
      ),
    )
    scalars = attempts(parts, experiment)
  seconds = time.monotonic() - began
  return scalars | {'step': experiment.num_steps, 'seconds': seconds}


def attempts(
  parts: loop.Parts, experiment: experiments.Experiment
) -> dict[str, float]:
  """The loop, and again from the last checkpoint when it rolls back."""
  start = resume.restored(parts.saved, experiment, 'start')
  notes = list(experiment.derived)
  if start.is_resumed:
    notes.append(f'resumed after step {start.step} of {experiment.num_steps}')
  parts.stop.set_resume_step(start.step if start.is_resumed else None)
  number = 0
  while True:
    number += 1
    try:
      return loop.run(parts, experiment.num_steps, start, notes)
    except patiences.RolledBack as error:
      start = resume.back(parts.saved, experiment, start, error.step, number)
      notes = [
        f'warning: {error}; back to step {start.step}, with the images of step'
        f' {start.step + start.offset} on'
      ]
    except errors.DivergedError as error:
      raise processes.mark_collective(
        errors.DivergedError(f'{error}; {resume.stays(parts.saved)}')
      ) from None


def opened(
  stack: contextlib.ExitStack,
  config: config_dict.ConfigDict,
  path: str,
  dataset: ImageSet,
) -> checkpointer.Checkpointer | None:
  """Process 0's hold on the workdir, until `stack` ends; None for the others.

  Raises:
    DataError: see `run`.
  """
  if jax.process_index() != 0:
    return None
  folder = stack.enter_context(workdirs.open_workdir(workdirs.local(path)))
  place = workdirs.checkpoints(path, config.checkpoint.folder)
  record = claim(folder, place, config, dataset)
  return stack.enter_context(
    contextlib.closing(
      checkpointer.Checkpointer(
        place,
        keep=config.checkpoint.keep,
        record={
          'config': record,
          'config_sha256': provenance.config_digest(record),
          'versions': provenance.versions(),
        },
      )
    )
  )


def claim(
  folder: workdirs.Workdir,
  place: str,
  config: config_dict.ConfigDict,
  dataset: ImageSet,
) -> dict[str, Any]:
  """Writes what this run is into its workdir, or refuses another one's.

  Args:
    folder: of this machine.
    place: of the checkpoints.
    config: of this start.
    dataset: of this start.

  Returns:
    What was written as its configuration.

  Raises:
    DataError: the workdir holds a run that differs; names the first key.
  """
  facts = {name: getattr(dataset, name) for name in FACTS}
  record = config.to_dict() | {'training_set': facts}
  saved = folder.config()
  if saved is None:
    # The disk of a new host is empty, the bucket is not.
    found_record = checkpointer.read_record(place)
    saved = (found_record or {}).get('config')
    if found_record is not None and saved is None:
      raise errors.DataError(
        f'{place} holds checkpoints but {folder.path} no config.json, so'
        ' nobody knows of which run; restore that file or give another folder'
      )
  if saved is not None:
    found = workdirs.compare_configs(saved, record, free=FREE)
    if found is not None:
      raise errors.DataError(
        f'{folder.path} holds another run: {found}; give that value or'
        ' another --workdir'
      )
  folder.write_config(record)
  folder.write_versions()
  return record
