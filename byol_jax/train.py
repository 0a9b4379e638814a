"""The pretraining run: build everything once, then the loop.

Batches come from a data set that the entry passes in; results leave as
scalars and checkpoints.
"""

import contextlib
import pathlib
import time
from typing import Any, Protocol

import jax
from ml_collections import config_dict
import numpy as np

from byol_jax import (
  byol,
  calls,
  checkpoint,
  errors,
  experiment as experiments,
  logs,
  parallel,
  pending,
  signals,
  workdir as workdirs,
)

# Parts of a configuration that do not change what is learned.
FREE = {
  'data_dir',
  'input',
  'checkpoint',
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
    path: the workdir; made if it is missing.
    dataset: the training set.

  Returns:
    The scalars of the last log interval, `step` and `seconds`.

  Raises:
    ConfigError: a value cannot be used.
    DataError: the workdir is in use, not writable, or holds another run; or
      too many images cannot be used.
    DivergedError: a loss was not finite; the last checkpoint stays.
    Preempted: Ctrl-C or SIGTERM; the state is saved.
  """
  parallel.check_batch_size('batch_size', config.batch_size)
  experiment = experiments.build(
    config, dataset.num_examples, dataset.num_classes
  )
  steps = calls.of(config, dataset)
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      folder = stack.enter_context(workdirs.open_workdir(path))
      claim(folder, config, dataset)
    checkpoints = pathlib.Path(path).expanduser() / 'checkpoints'
    saved = stack.enter_context(
      contextlib.closing(
        checkpoint.Checkpoints(checkpoints, keep=config.checkpoint.keep)
      )
    )
    stop = stack.enter_context(signals.StopRequest())
    return loop(config, experiment, path, saved, steps, stop)


def claim(
  folder: workdirs.Workdir, config: config_dict.ConfigDict, dataset: ImageSet
) -> None:
  """Writes what this run is into its workdir, or refuses another one's.

  Raises:
    DataError: the workdir holds a run that differs; names the first key.
  """
  facts = {name: getattr(dataset, name) for name in FACTS}
  record = config.to_dict() | {'training_set': facts}
  saved = folder.config()
  step = checkpoint.latest_step(folder.path / 'checkpoints')
  if saved is None and step is not None:
    raise errors.DataError(
      f'{folder.path} holds checkpoint {step} but no config.json, so nobody'
      ' knows of which run; restore that file or give another --workdir'
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


def loop(
  config: config_dict.ConfigDict,
  experiment: experiments.Experiment,
  path: str,
  saved: checkpoint.Checkpoints,
  steps: calls.Streamed | calls.Resident,
  stop: signals.StopRequest,
) -> dict[str, float]:
  """Calls of steps, from the last saved one to the end."""
  state = experiment.init()
  resumed = saved.resume(state)
  first, last = 0, experiment.num_steps
  if resumed is not None:
    first, state = resumed
  update = steps.compile(experiment.update)
  state = parallel.replicate(state)
  log = logs.Logs(
    pathlib.Path(path).expanduser(),
    last,
    start_step=first,
    tensorboard=config.log.tensorboard,
    silent=jax.process_index() != 0,
  )
  for line in experiment.derived:
    log.note(line)
  if resumed is not None:
    log.note(f'resumed after step {first} of {last}')
  recent, meter = pending.Pending(first), logs.Meter()
  todo = range(first, last)
  batches = parallel.prefetch(steps.batches(config.batch_size, todo))
  scalars: dict[str, float] = {}
  began = saved_at = time.monotonic()
  with contextlib.closing(log):
    for span, batch in zip(
      steps.spans(todo), meter.iterate(batches), strict=True
    ):
      state, found = update(state, batch)
      recent.add(found, len(span))
      step = span.stop
      log.tick(step)
      # Asked once: a signal may come at any moment of this call.
      stopping = stop.signal if step < last else None
      saving = (
        step == last
        or stopping is not None
        or due(config.checkpoint, step, time.monotonic() - saved_at)
      )
      if saving or step % config.log.every_steps == 0:
        images = config.batch_size * len(recent)
        scalars = take(recent, saved)
        log.write(step, scalars | meter.read(images))
      if saving:
        save(saved, step, parallel.first_replica(state))
        saved_at = time.monotonic()
        meter.restart()
      if stopping is not None:
        raise errors.Preempted(
          f'{stopping}: saved step {step} of {last} in {path}; the same'
          ' command resumes'
        )
  return scalars | {'step': last, 'seconds': time.monotonic() - began}


def due(section: Any, step: int, seconds: float) -> bool:
  """Whether it is time to save. Minutes count on a single process only.

  Clocks of several processes differ, and all must save the same step.
  """
  by_step = section.every_steps > 0 and step % section.every_steps == 0
  single = jax.process_count() == 1 and section.every_minutes > 0
  return by_step or (single and seconds > 60 * section.every_minutes)


def take(
  recent: pending.Pending, saved: checkpoint.Checkpoints
) -> dict[str, float]:
  """Like `Pending.take`; a divergence names the checkpoint that stays."""
  try:
    return recent.take()
  except errors.DivergedError as error:
    raise errors.DivergedError(f'{error}; {stays(saved)}') from None


def save(
  saved: checkpoint.Checkpoints, step: int, state: byol.ByolState
) -> None:
  """Saves a state whose every number is finite.

  Raises:
    DivergedError: the loss still was finite, the step after it is not.
  """
  finite = jax.tree.map(lambda x: bool(np.all(np.isfinite(x))), state)
  if not all(jax.tree.leaves(finite)):
    raise errors.DivergedError(
      f'parameters are not finite after step {step - 1}; {stays(saved)}'
    )
  saved.save(step, state, {'step': step})


def stays(saved: checkpoint.Checkpoints) -> str:
  """What a diverged run leaves, and what to try."""
  step = saved.latest()
  left = 'no checkpoint yet' if step is None else f'checkpoint {step} stays'
  return f'{left}; lower schedule.base_rate or lengthen schedule.warmup_epochs'
