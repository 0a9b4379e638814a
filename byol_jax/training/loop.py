"""The training loop: next batch, step, log, save, preempted? evaluate.

It is the only loop over training steps in the package. Between two log lines
the host fetches nothing, and waits only to stay a few calls ahead of the
devices.
"""

from __future__ import annotations  # fields are named like modules

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import pathlib
import time
from typing import Any

import jax

from byol_jax import errors
from byol_jax.checkpoints import checkpointer
from byol_jax.distributed import packing, placement, processes
from byol_jax.training import (
  batch_timeout,
  hardware,
  logs,
  monitor,
  multi_step,
  preemption,
  recovery,
  scalar_buffer,
  watchdog,
)


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
  """The config section `checkpoint`, explained in configs/pretrain.py."""

  every_steps: int = 0
  every_minutes: float = 0.0
  keep: int = 1
  folder: str = ''


@dataclasses.dataclass(frozen=True)
class FaultOptions:
  """The config section `faults`, explained in configs/pretrain.py."""

  max_skips: int = 0
  max_rollbacks: int = 0
  stall_seconds: float = 0.0
  collapse: str = 'ignore'


@dataclasses.dataclass(frozen=True)
class LogOptions:
  """The config section `log`, explained in configs/pretrain.py."""

  every_steps: int = 50
  every_seconds: float = 0.0
  tensorboard: bool = False


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
  """What a run takes from its configuration besides the method."""

  checkpoint: CheckpointOptions = CheckpointOptions()
  faults: FaultOptions = FaultOptions()
  log: LogOptions = LogOptions()
  knn_every_steps: int = 0
  profile: str = ''  # a folder for a trace; see `profiling`


# (state of a step as host arrays) -> scalars, and a line for the console; all
# processes of a job call it after the same step.
Evaluate = Callable[[Any], tuple[Mapping[str, float], str]]


@dataclasses.dataclass(frozen=True)
class TrainingContext:
  """What stays the same through a run, also when it is rolled back.

  Attributes:
    update: one call, compiled by `step_calls`: (packed state, batch) ->
      (packed state, scalars).
    step_calls: divides the steps into calls and makes their batches.
    num_steps: of the whole run.
    batch_size: of all devices.
    workdir: where logs go.
    options: when to save and to log; the timeout of a batch.
    observe: called with `StepScalars.values` at each log line; may raise.
    checkpointer: None saves nothing; in process 0 only.
    make_meta: returns what the meta of a checkpoint holds besides.
    skip_policy: what to do about steps that were skipped.
    collapse_policy: what to do about a collapse.
    preemption: whether a signal asks the run to stop.
    watchdog: ends a process whose steps stop coming.
    evaluate: called as `options.knn_every_steps` says; None: never.
    after_call: called with the scalars of each call, on the devices.
    count_flops: (packed state, batch) -> operations of a step on one device;
      called once, where the peak of a device is known.
    monitor: compiled by `step_calls` too: (packed state, batch) -> scalars of
      a log line that are computed for it alone.
    shard_optimizer: whether each device holds its part of `opt_state`.
    wait_for_compiler: called before the first call of `update`.
  """

  update: Callable
  step_calls: multi_step.StepCalls
  num_steps: int
  batch_size: int
  workdir: pathlib.Path
  options: TrainingOptions = TrainingOptions()
  observe: Callable[[dict[str, Any]], None] = lambda values: None
  checkpointer: checkpointer.Checkpointer | None = None
  make_meta: Callable[[], dict[str, Any]] = dict
  skip_policy: recovery.SkipPolicy = dataclasses.field(
    default_factory=lambda: recovery.SkipPolicy(0, 0)
  )
  collapse_policy: monitor.CollapsePolicy = dataclasses.field(
    default_factory=lambda: monitor.CollapsePolicy('ignore', str)
  )
  preemption: preemption.PreemptionGuard = dataclasses.field(
    default_factory=preemption.PreemptionGuard
  )
  watchdog: watchdog.Watchdog = dataclasses.field(
    default_factory=lambda: watchdog.Watchdog(0)
  )
  evaluate: Evaluate | None = None
  after_call: Callable[[Any], None] = lambda scalars: None
  count_flops: Callable[[Any, Any], float] = lambda state, batch: 0.0
  monitor: Callable[[Any, Any], dict[str, Any]] = lambda state, batch: {}
  shard_optimizer: bool = False
  wait_for_compiler: Callable[[], Any] = lambda: None

  def gather_state(self, state: packing.Packed) -> packing.Packed:
    """Returns a state that is whole on every device."""
    return placement.gather_state(state) if self.shard_optimizer else state


def run_loop(
  context: TrainingContext, start: recovery.StartPoint, log: logs.Logs
) -> tuple[packing.Packed, dict[str, float]]:
  """Trains to the last step; returns the state and the last logged means.

  Raises:
    RollbackRequired: too many steps in a row were skipped.
    UserError: see `train.train`.
  """
  step, last = start.step, context.num_steps
  state = placement.place_state(start.state, context.shard_optimizer)
  progress = _Progress(context, log, scalar_buffer.ScalarBuffer(step))
  means, signal, saved_at = {}, None, time.monotonic()
  log.start_phase('reading the first images', has_line=False)
  with contextlib.closing(_open_batches(context, start, log)) as host_batches:
    batches = placement.prefetch(host_batches)
    for call in context.step_calls.split(range(step, last)):
      # Next batch.
      batch = progress.wait_for_batch(batches)

      # Step.
      if batch is not None:
        is_first = step == start.step
        with progress.annotate_call(step, is_first):
          state, scalars = context.update(state, batch)
        step = call.stop
        progress.buffer.add(scalars, len(call))
        if is_first:
          progress.finish_first_call(state, batch, step)
        context.after_call(scalars)
      context.watchdog.step_done(step)

      # Log. A signal may arrive at any moment: we ask once a call.
      signal = context.preemption.requested() if step < last else None
      is_saving = signal or _is_save_due(context, step, saved_at)
      is_due = step % context.options.log.every_steps == 0
      if len(progress.buffer) and (is_due or is_saving):
        means = progress.log_means(step, state, batch)
      if step > start.step:
        log.tick(step, progress.peek)

      # Save.
      if is_saving:
        save_checkpoint(context, step, state, start.data_offset)
        saved_at = time.monotonic()
        progress.meter.restart()
      elif context.checkpointer is not None:
        context.checkpointer.check_for_errors()

      # Preempted?
      if signal is not None:
        break

      # Evaluate: last, so that a step is saved before it is evaluated.
      progress.evaluate_if_due(step, state)
    if context.checkpointer is not None:
      context.checkpointer.wait()
  if signal is not None:
    raise _preempted_error(context, signal, step)
  return state, means


def _preempted_error(
  context: TrainingContext, signal: str, step: int
) -> errors.UserError:
  place = errors.quote(context.workdir)
  saved = f'saved step {step} of {context.num_steps} in {place}'
  return processes.mark_collective(
    errors.Preempted(f'{signal}: {saved}; the same command resumes')
  )


def _open_batches(
  context: TrainingContext, start: recovery.StartPoint, log: logs.Logs
) -> batch_timeout.BatchTimeout:
  """Returns the batches of a loop on the host, with a timeout for each."""
  steps = range(start.step, context.num_steps)
  return batch_timeout.BatchTimeout(
    context.step_calls.batches(context.batch_size, steps, start.data_offset),
    context.options.faults.stall_seconds,
    log.note,
  )


@dataclasses.dataclass(frozen=True)
class _Progress:
  """Follows a loop: waits for its batches, measures, logs and evaluates it."""

  context: TrainingContext
  log: logs.Logs
  buffer: scalar_buffer.ScalarBuffer
  meter: logs.Meter = dataclasses.field(default_factory=logs.Meter)

  @contextlib.contextmanager
  def annotate_call(self, step: int, is_first: bool) -> Iterator[None]:
    """Names a call in a trace; the first compiles, may transfer implicitly."""
    if is_first:
      self.log.start_phase('compiling')
      self.context.wait_for_compiler()
    with (
      jax.profiler.StepTraceAnnotation('train', step_num=step),
      jax.transfer_guard('allow' if is_first else 'disallow'),
    ):
      yield

  def finish_first_call(
    self, state: packing.Packed, batch: Any, step: int
  ) -> None:
    """Waits for the first call, in all processes: then watchdogs may start.

    The meter starts after it, or the rate of the first interval would be that
    of the compiler.
    """
    context, meter = self.context, self.meter
    jax.block_until_ready(state)
    context.preemption.first_step_done()
    self.log.tick(step, self.buffer.peek_means)
    # Compiles the monitor now, while no watchdog waits, and after the first
    # line, which does not need it.
    jax.block_until_ready(context.monitor(state, batch))
    meter.devices = jax.device_count()
    peak = hardware.find_peak(jax.devices()[0].device_kind)
    if peak and (flops := context.count_flops(state, batch)):
      meter.peak_seconds = flops / peak / context.batch_size
    meter.restart(self.count_images())

  def count_images(self) -> int:
    """Returns the images since the last log line."""
    return self.context.batch_size * len(self.buffer)

  def peek(self) -> dict[str, float]:
    """Returns what is known since the last log line, without waiting."""
    return self.buffer.peek_means() | self.meter.peek(self.count_images())

  def wait_for_batch(self, batches: Iterator[Any]) -> Any | None:
    """Returns the next batch on the devices; None if a signal interrupts."""
    # This wait has its own timeout, which is shorter than the watchdog's.
    self.context.watchdog.restart()
    try:
      with self.meter.waiting(), self.context.preemption.interruptible():
        return next(batches)
    except preemption.WaitInterrupted:
      return None
    finally:
      self.context.watchdog.restart()

  def log_means(
    self, step: int, state: packing.Packed, batch: Any | None
  ) -> dict[str, float]:
    """Writes one log line and returns its scalars; raises as the policies.

    `batch` is that of the last call; None: it is gone, and nothing is
    monitored.
    """
    context, images = self.context, self.count_images()
    seen = {} if batch is None else context.monitor(state, batch)
    fetched = self.buffer.fetch_means()
    seen = placement.fetch_first_replica(seen)
    means = fetched.means | {name: float(x) for name, x in seen.items()}
    self.log.write(step, means | self.meter.read(images))
    if fetched.skipped:
      names = ', '.join(str(step + 1) for step in fetched.skipped)
      self.log.note(f'warning: not finite, the state unchanged: step {names}')
    context.skip_policy.observe(fetched.skipped, fetched.steps)
    warning = context.collapse_policy.observe({'step': step} | means)
    if warning:
      self.log.note(warning)
    context.observe(fetched.values)
    return means

  def evaluate_if_due(self, step: int, state: packing.Packed) -> None:
    """Evaluates a step and logs the results.

    In a job of one process a signal ends it without a result: the loop then
    saves the step after this one at once.
    """
    context, every = self.context, self.context.options.knn_every_steps
    if context.evaluate is None or not every:
      return
    if step % every and step < context.num_steps:
      return
    self.log.start_phase('evaluating', has_line=False)
    whole = placement.fetch_first_replica(context.gather_state(state))
    host_state = packing.unpack(whole)
    with (
      contextlib.suppress(preemption.WaitInterrupted),
      self.meter.excluding(),
      context.watchdog.paused(),
      context.preemption.interruptible(),
    ):
      scalars, text = context.evaluate(host_state)
      self.log.write_evaluation(step, scalars, f'step {step}: {text}')


def _is_save_due(context: TrainingContext, step: int, saved_at: float) -> bool:
  """Returns whether to save `step`; `saved_at` is when one was saved last.

  Minutes count in jobs of one process only: clocks differ, and all processes
  must save the same step.
  """
  options = context.options.checkpoint
  if step == context.num_steps:
    return True
  if options.every_steps > 0 and step % options.every_steps == 0:
    return True
  seconds, limit = time.monotonic() - saved_at, 60 * options.every_minutes
  return jax.process_count() == 1 and 0 < limit < seconds


def save_checkpoint(
  context: TrainingContext, step: int, state: packing.Packed, data_offset: int
) -> None:
  """Starts to save a step: copies it on the device, a thread does the rest.

  Raises:
    CheckFailed: the devices do not hold the same state.
    DataError: an earlier step could not be written.
  """
  state = context.gather_state(state)
  if jax.device_count() > 1 and not placement.is_replicated(state):
    raise processes.mark_collective(
      errors.CheckFailed(
        f'the devices hold different states after step {step}: not saved;'
        ' a device or a link is broken, or a sum over devices is missing'
      )
    )
  if context.checkpointer is not None:
    meta = {'data_offset': data_offset} | context.make_meta()
    context.checkpointer.save(step, placement.copy_first_replica(state), meta)
  context.skip_policy.checkpoint_saved()
