"""The loop: calls of the devices, one after the other, and what they say.

Between two log lines the host fetches nothing and waits only to stay near the
devices: everything else is on its way while they work.
"""

from collections.abc import Callable, Iterator
import contextlib
import pathlib
import time
from typing import Any, NamedTuple

import jax
from ml_collections import config_dict

from byol_jax import byol, errors
from byol_jax.checkpoints import checkpointer
from byol_jax.distributed import packing, placement, processes
from byol_jax.training import (
  batch_timeout,
  logs,
  multi_step,
  preemption,
  recovery as patiences,
  scalar_buffer,
  watchdog,
)


class Parts(NamedTuple):
  """What stays through a run, rolled back or not."""

  config: config_dict.ConfigDict
  path: pathlib.Path
  update: Callable  # (Packed state, batch) -> (state, scalars), see `calls`
  steps: multi_step.Streamed | multi_step.Resident
  saved: checkpointer.Checkpointer | None  # process 0's
  stop: preemption.PreemptionGuard
  patience: patiences.Patience
  dog: watchdog.Watchdog


class Start(NamedTuple):
  """Where a loop begins."""

  step: int  # completed
  state: byol.ByolState  # on the host
  offset: int  # step N takes the images of N + offset
  is_resumed: bool


def run(
  parts: Parts, last: int, start: Start, notes: list[str]
) -> dict[str, float]:
  """Calls of steps from `start` to `last`.

  Args:
    parts: of the run.
    last: steps of the whole run.
    start: from here.
    notes: lines for the log, before the first.

  Returns:
    The scalars of the last log line.

  Raises:
    RolledBack: too many steps in a row were skipped.
    UserError: see `train.run`.
  """
  log = logs.Logs(
    parts.path,
    last,
    start_step=start.step,
    tensorboard=parts.config.log.tensorboard,
    silent=jax.process_index() != 0,
  )
  with contextlib.closing(log):
    for note in notes:
      log.note(note)
    return _steps(parts, last, start, log)


def _steps(
  parts: Parts, last: int, start: Start, log: logs.Logs
) -> dict[str, float]:
  config, stop = parts.config, parts.stop
  state = placement.replicate(packing.pack(start.state))
  todo = range(start.step, last)
  recent, meter = scalar_buffer.Pending(start.step), logs.Meter()
  scalars: dict[str, float] = {}
  saved_at = time.monotonic()
  with _batches(parts, todo, start.offset, log, meter) as batches:
    for span in parts.steps.spans(todo):
      step = span.start
      with contextlib.suppress(preemption.WaitInterrupted):
        batch = next(batches)
        with _guarded(step > start.step):
          state, found = parts.update(state, batch)
        if step == start.step:
          # Other processes may still compile: the watchdog is armed once all
          # of them have made a step.
          jax.block_until_ready(found)
        step = span.stop
        stop.first_step_done()
        recent.add(found, len(span))
        log.tick(step)
      parts.dog.step_done(step)
      if parts.saved is not None:
        parts.saved.check_for_errors()
      # Asked once: a signal may come at any moment of this call.
      stopping = stop.requested() if step < last else None
      saving = (
        step == last
        or stopping is not None
        or due(config.checkpoint, step, time.monotonic() - saved_at)
      )
      if len(recent) and (saving or step % config.log.every_steps == 0):
        images = config.batch_size * len(recent)
        scalars = _report(parts, log, recent, meter, images, step)
      if saving:
        save(parts, step, state, start.offset)
        saved_at = time.monotonic()
        meter.restart()
      if stopping is not None:
        raise farewell(parts, stopping, step, last)
    if parts.saved is not None:
      parts.saved.wait()
  return scalars


@contextlib.contextmanager
def _batches(
  parts: Parts, todo: range, offset: int, log: logs.Logs, meter: logs.Meter
) -> Iterator[Iterator[Any]]:
  """Batches on the devices; a signal ends the wait for one."""
  config = parts.config
  made = parts.steps.batches(config.batch_size, todo, offset)
  on_host = batch_timeout.BatchTimeout(
    made, config.faults.stall_seconds, log.note
  )

  def waited() -> Iterator[Any]:
    on_device = placement.prefetch(on_host)
    while True:
      parts.dog.restart()  # this wait has a limit of its own, a shorter one
      with meter.waiting(), parts.stop.interruptible():
        batch = next(on_device, None)
      if batch is None:
        return
      yield batch

  with contextlib.closing(on_host):
    yield waited()


def _guarded(is_compiled: bool) -> contextlib.AbstractContextManager:
  """Nothing moves between host and devices but what is put or fetched.

  Compiling places constants, so the first call is free to.
  """
  if is_compiled:
    return jax.transfer_guard('disallow')
  return contextlib.nullcontext()


def _report(
  parts: Parts,
  log: logs.Logs,
  recent: scalar_buffer.Pending,
  meter: logs.Meter,
  images: int,
  step: int,
) -> dict[str, float]:
  """One log line; looks at the steps that were skipped.

  Raises:
    RolledBack: there were too many in a row.
    DivergedError: and rolling back did not help.
  """
  taken = recent.take()
  log.write(step, taken.scalars | meter.read(images))
  if taken.skipped:
    log.note(
      f'warning: steps {", ".join(map(str, taken.skipped))} were not finite:'
      ' they left the state as it was'
    )
  parts.patience.look(taken.skipped, taken.steps)
  return taken.scalars


def due(section: Any, step: int, seconds: float) -> bool:
  """Whether it is time to save. Minutes count on a single process only.

  Clocks of several processes differ, and all must save the same step.
  """
  by_step = section.every_steps > 0 and step % section.every_steps == 0
  single = jax.process_count() == 1 and section.every_minutes > 0
  return by_step or (single and seconds > 60 * section.every_minutes)


def save(parts: Parts, step: int, state: packing.Packed, offset: int) -> None:
  """Begins to save one step: a copy on the device, the rest in a thread.

  Raises:
    CheckFailed: the devices no longer hold the same state.
    DataError: an earlier step could not be written.
  """
  if jax.device_count() > 1 and not placement.is_replicated(state):
    raise processes.mark_collective(
      errors.CheckFailed(
        f'the devices hold different states after step {step}: not saved;'
        ' a device or a link is broken, or a sum over devices is missing'
      )
    )
  if parts.saved is not None:
    meta = {'step': step, 'data_offset': offset}
    parts.saved.save(step, placement.snapshot(state), meta)
  parts.patience.saved()


def farewell(parts: Parts, name: str, step: int, last: int) -> errors.UserError:
  """Waits for the last save; what to raise then."""
  if parts.saved is not None:
    parts.saved.wait()
  return processes.mark_collective(
    errors.Preempted(
      f'{name}: saved step {step} of {last} in {parts.path}; the same command'
      ' resumes'
    )
  )
