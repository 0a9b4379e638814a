"""A training run: everything before, between and after its loops.

Batches come from the caller's data set; results leave as scalars and
checkpoints. Only process 0 writes files.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
import contextlib
import dataclasses
import functools
import pathlib
import time
from typing import Any, Protocol

import jax

from byol_jax import errors, experiment
from byol_jax.checkpoints import checkpointer
from byol_jax.distributed import packing, placement, processes
from byol_jax.training import (
  hardware,
  logs,
  loop,
  monitor,
  multi_step,
  preemption,
  profiling,
  recovery,
  resumable,
  watchdog,
  workdir,
)


class TrainingSet(Protocol):
  """What a run needs of a data set besides `multi_step.make_step_calls`."""

  num_examples: int
  num_classes: int | None
  fingerprint: str


def describe_dataset(dataset: TrainingSet) -> dict[str, Any]:
  """Returns what a workdir records of its training set."""
  names = ('num_examples', 'num_classes', 'fingerprint')
  return {name: getattr(dataset, name) for name in names}


def require_same_dataset(dataset: TrainingSet) -> None:
  """Raises ConfigError on all processes unless they read the same set."""
  facts = describe_dataset(dataset).items()
  shown = {f'training_set.{name}': repr(value) for name, value in facts}
  processes.require_agreement('training set', shown)


def train(
  method: experiment.Experiment,
  dataset: TrainingSet,
  path: str,
  options: loop.TrainingOptions,
  *,
  config: Mapping[str, Any],
  steps_per_call: int,
  origin: Mapping[str, Any] | None = None,
  evaluate: loop.Evaluate | None = None,
  on_log: logs.OnLog | None = None,
) -> dict[str, float]:
  """Trains in a workdir, from its last completed step if it has one.

  Args:
    method, dataset: what is trained, and its training set.
    path: the workdir, made if it is missing; or a URL (gs://BUCKET/RUN).
    options: when and where to save, to log and to trace, limits on faults.
    config: plain dict, which the workdir records.
    steps_per_call: see `multi_step.make_step_calls`.
    origin: see `workdir.make_record`; evaluate: called as `options` says.
    on_log: see `logs.Logs`; called in process 0 only.

  Returns:
    The scalars of the last log interval, `step` and `seconds`.

  Raises:
    ConfigError: a value cannot be used.
    DataError: the workdir is in use, not writable, or holds another run; too
      many images cannot be used, or none arrives in time.
    DivergedError: too many steps in a row were not finite, or it collapsed.
    Preempted: Ctrl-C, SIGTERM or SIGHUP; the state is saved.
  """
  began = time.monotonic()
  record = dict(config) | {'training_set': describe_dataset(dataset)}
  run = method, dataset, path, options, record
  with open_training(*run, steps_per_call, origin, evaluate) as context:
    context = _compile_ahead(context, method, dataset)
    saver = context.checkpointer
    start = _restore(saver, method)
    # A configuration binds a workdir from its first checkpoint on.
    write = lambda: workdir.write_record(context.workdir, record, origin)
    processes.raise_on_all('config.json', write if saver else lambda: None)
    notes = [*hardware.describe_run(config), *method.derived]
    if start.is_resumed:
      notes.append(f'resumed after step {start.step} of {method.num_steps}')
    while True:
      try:
        logged = _open_log(context, start, notes, on_log)
        with logged as log, _observe(context, start, config, log) as observed:
          _, means = loop.run_loop(observed, start, log)
          log.note_end(_describe_end(context, means, time.monotonic() - began))
        break
      except recovery.RollbackRequired as error:
        start = _restore(saver, method, error.step + start.data_offset)
        notes = [
          f'warning: {error}; back to step {start.step}, with the images of'
          f' step {start.step + start.data_offset + 1} on'
        ]
  return means | {'step': method.num_steps, 'seconds': time.monotonic() - began}


def _restore(
  saver: checkpointer.Checkpointer | None,
  method: experiment.Experiment,
  data_step: int | None = None,
) -> recovery.StartPoint:
  """Returns where to start, with the images of `data_step` if it is given."""
  shapes = jax.eval_shape(method.initial_state)
  start = recovery.restore_or_init(
    saver, method.num_steps, shapes, method.init_on_host
  )
  if data_step is None:
    return start
  return start._replace(data_offset=data_step - start.step)


@contextlib.contextmanager
def _observe(
  context: loop.TrainingContext,
  start: recovery.StartPoint,
  config: Mapping[str, Any],
  log: logs.Logs,
) -> Iterator[loop.TrainingContext]:
  """Yields a run that `hardware` and the profiler observe."""
  count = context.num_steps - start.step
  observers = [hardware.observe_first_calls(config, count, log.note)]
  count_flops = functools.partial(
    hardware.count_flops,
    context.update,
    accumulate=config['batch']['accumulate'],
  )
  with _open_profiler(context.options.profile, log) as profiler:
    if profiler is not None:
      observers.append(profiler.after_call)

    def after_call(scalars: Any) -> None:
      for observe in observers:
        observe(scalars)

    yield dataclasses.replace(
      context, after_call=after_call, count_flops=count_flops
    )


def _open_profiler(
  folder: str, log: logs.Logs
) -> contextlib.AbstractContextManager[profiling.Profiler | None]:
  """Opens the profiler of process 0, if there is a folder, and closes it."""
  if not folder or jax.process_index() != 0:
    return contextlib.nullcontext()
  return contextlib.closing(profiling.Profiler(folder, log.note))


def _describe_end(
  context: loop.TrainingContext, means: Mapping[str, float], seconds: float
) -> str:
  """Returns the last line of a run; `means` are empty if it was done before."""
  text = f'done before: step {context.num_steps}'
  if 'byol_loss' in means:
    text = (
      f'done: step {context.num_steps}, byol_loss {means["byol_loss"]:.4f},'
      f' {seconds:.0f} s'
    )
  if context.collapse_policy.has_collapsed:
    text += ', collapsed: see the warning'
  return f'{text}; {context.workdir}'


@contextlib.contextmanager
def open_training(
  method: experiment.Experiment,
  dataset: TrainingSet,
  path: str,
  options: loop.TrainingOptions,
  record: dict[str, Any],
  steps_per_call: int,
  origin: Mapping[str, Any] | None = None,
  evaluate: loop.Evaluate | None = None,
) -> Iterator[loop.TrainingContext]:
  """Opens all that a run needs, and closes it.

  Arguments as of `train`; `record` is configuration and training set.
  """
  hardware.keep_freed_memory()
  faults, checkpoint = options.faults, options.checkpoint
  boundaries = (options.log.every_steps, checkpoint.every_steps)
  step_calls = multi_step.make_step_calls(
    dataset, steps_per_call, boundaries, (options.knn_every_steps,)
  )
  with contextlib.ExitStack() as stack:
    stop_request = stack.enter_context(preemption.PreemptionGuard())
    saver = processes.raise_on_all(
      'workdir',
      lambda: _open_checkpointer(stack, path, checkpoint, record, origin),
    )
    # Later than the timeout of a batch, whose message says more.
    timer = watchdog.Watchdog(1.1 * faults.stall_seconds)
    yield loop.TrainingContext(
      update=step_calls.compile(method.update),
      monitor=step_calls.compile_monitor(method.monitor),
      step_calls=step_calls,
      num_steps=method.num_steps,
      batch_size=method.batch_size,
      workdir=workdir.local_folder(path),
      options=options,
      checkpointer=saver,
      skip_policy=recovery.SkipPolicy(faults.max_skips, faults.max_rollbacks),
      collapse_policy=monitor.CollapsePolicy(
        faults.collapse, functools.partial(monitor.find_cause, record)
      ),
      preemption=stop_request,
      watchdog=stack.enter_context(contextlib.closing(timer)),
      evaluate=evaluate,
      shard_optimizer=method.shard_optimizer,
    )


def _compile_ahead(
  context: loop.TrainingContext,
  method: experiment.Experiment,
  dataset: Any,
) -> loop.TrainingContext:
  """Compiles a step in a thread, while the first state and batch are made.

  In a new run on a CPU only: an error about a checkpoint should not wait for
  the compiler, and that for GPUs measures how fast an idle device is.

  Returns:
    The context, whose first call waits for the thread and raises its error.
  """
  saver = context.checkpointer
  update: Any = context.update
  make_batch = getattr(dataset, 'make_blank_views', None)
  is_fit = (
    isinstance(context.step_calls, multi_step.StreamedCalls)
    and jax.default_backend() == 'cpu'
    and jax.process_count() == 1
    and not context.shard_optimizer
  )
  is_new = saver is not None and saver.latest_step() is None
  if make_batch is None or not is_fit or not is_new:
    return context
  state = placement.describe_placed(jax.eval_shape(method.initial_state))
  batch = placement.describe_sharded(make_batch(method.batch_size))
  lowered = update.lower(state, batch)
  pool = futures.ThreadPoolExecutor(2, 'compiler')
  # The first call finds the result: it is of the same `Lowered`.
  compiled = pool.submit(lowered.compile)
  pool.submit(dataset.load_code)  # what it raises the first batch will, too
  pool.shutdown(wait=False)  # an error about images is not late, either
  return dataclasses.replace(context, wait_for_compiler=compiled.result)


@contextlib.contextmanager
def _open_log(
  context: loop.TrainingContext,
  start: recovery.StartPoint,
  notes: list[str],
  on_log: logs.OnLog | None = None,
) -> Iterator[logs.Logs]:
  """Opens the log of a loop with its first notes, and closes it.

  The error that ends the loop is recorded; after divergence it has advice.
  """
  log = logs.Logs(
    context.workdir,
    context.num_steps,
    start_step=start.step,
    tensorboard=context.options.log.tensorboard,
    every_seconds=context.options.log.every_seconds,
    on_log=on_log,
    silent=jax.process_index() != 0,
  )
  with contextlib.closing(log):
    for note in notes:
      log.note(note)
    try:
      yield log
    except errors.DivergedError as error:
      advice = recovery.advice_after_divergence(
        context.checkpointer, context.collapse_policy.has_collapsed
      )
      text = f'{error}; {advice}'
      log.record(text)
      raise processes.mark_collective(errors.DivergedError(text)) from None
    except errors.UserError as error:
      log.record(str(error))
      raise


def train_in_memory(
  update: Callable,
  state: Any,
  make_batches: multi_step.MakeBatches,
  batch_size: int,
  num_steps: int,
  observe: Callable[[dict[str, Any]], None],
  *,
  name: str = '',
  saves: resumable.Saves | None = None,
) -> Any:
  """Trains without a workdir; returns the last state as host arrays.

  Args:
    update: (state, batch) -> (state, scalars), mapped over the devices;
      scalars are [], or [1, ...] for one step.
    state: the initial one.
    make_batches: called once, from the first step on.
    batch_size: of all devices.
    num_steps: of the training.
    observe: called every 10 steps with their scalars, {name: [steps, ...]}, and
      first with those before the step from which a training resumes; may raise.
    name: of this training among those of an evaluation, used once.
    saves: from which it resumes; None saves nothing.

  Raises:
    Preempted: Ctrl-C, SIGTERM or SIGHUP after the first step; the state is
      saved, with `saves`.
  """
  calls = multi_step.StreamedCalls(make_batches)
  observed = resumable.Observed(observe)
  saver, start = None, recovery.StartPoint(state, step=0)
  with contextlib.ExitStack() as stack:
    stop_request = preemption.PreemptionGuard()
    if saves is not None:
      stack.enter_context(stop_request)
      saver, start, before = saves.open_training(stack, name, state, num_steps)
      observed.add(before)
    context = loop.TrainingContext(
      calls.compile(update),
      calls,
      num_steps,
      batch_size,
      saves.folder if saves else pathlib.Path(),
      loop.TrainingOptions(
        checkpoint=saves.options if saves else loop.CheckpointOptions(),
        log=loop.LogOptions(every_steps=10),
      ),
      observed.add,
      saver,
      observed.to_meta,
      preemption=stop_request,
    )
    last, _ = loop.run_loop(
      context, start, logs.Logs('', num_steps, silent=True)
    )
  return packing.unpack(placement.fetch_first_replica(last))


def _open_checkpointer(
  stack: contextlib.ExitStack,
  path: str,
  options: loop.CheckpointOptions,
  record: dict[str, Any],
  origin: Mapping[str, Any] | None,
) -> checkpointer.Checkpointer | None:
  """Locks the workdir and opens its checkpoints, in process 0 only.

  `stack` closes both. `record` is configuration and training set of this start.
  """
  if jax.process_index() != 0:
    return None
  stack.enter_context(workdir.open_workdir(workdir.local_folder(path)))
  saver = checkpointer.Checkpointer(
    workdir.checkpoint_folder(path, options.folder),
    keep=options.keep,
    record=workdir.make_record(record, origin),
    check_record=functools.partial(workdir.require_same_run, record),
  )
  return stack.enter_context(contextlib.closing(saver))
