"""Writes a trace of a few steps, for TensorBoard's profiler or XProf."""

from collections import Counter
from collections.abc import Callable, Iterator
import contextlib
import pathlib
import shlex
from typing import Any

import jax

from byol_jax import errors, files

# Calls of the devices before a trace begins, and those that it holds.
SKIPPED = 5
TRACED = 5


class Profiler:
  """Traces the calls after the first five of a run, in one process."""

  def __init__(
    self, folder: str | pathlib.Path, note: Callable[[str], None]
  ) -> None:
    """`note` gets a line with what was written to `folder`."""
    self._folder = files.expand_home(folder).resolve()
    self._note = note
    self._calls, self._is_tracing = 0, False

  def after_call(self, scalars: Any) -> None:
    """Counts a call; waits for it where a trace begins or ends."""
    self._calls += 1
    if self._calls == SKIPPED:
      jax.block_until_ready(scalars)
      with self._warning():
        jax.profiler.start_trace(str(self._folder))
        self._is_tracing = True
    elif self._calls == SKIPPED + TRACED:
      jax.block_until_ready(scalars)
      self.close()

  def close(self) -> None:
    """Ends the trace, also of a run that ends early."""
    if self._is_tracing:
      self._is_tracing = False
      with self._warning():
        jax.profiler.stop_trace()
        self._note(
          f'profile: tensorboard --logdir={shlex.quote(str(self._folder))} '
          ' (pip install xprof)'
        )
    elif self._calls < SKIPPED:
      self._note(f'warning: no profile: fewer than {SKIPPED} calls of devices')

  @contextlib.contextmanager
  def _warning(self) -> Iterator[None]:
    """Notes that there is no trace, as on a full disk: the run goes on."""
    try:
      yield
    except (OSError, RuntimeError) as error:  # the second also of JAX
      self._note(f'warning: no profile: {errors.first_line(error)}')


def sum_times(folder: str | pathlib.Path) -> Counter[str]:
  """Returns nanoseconds by operation of the newest trace in `folder`.

  Names are those of the compiled program; times on several devices or threads
  add up. An operation that contains others, such as a loop, counts them again.

  Raises:
    DataError: there is no trace.
  """
  traces = [*pathlib.Path(folder).rglob('*.xplane.pb')]
  if not traces:
    raise errors.DataError(
      f'{errors.quote(folder)}: expected a trace, a file that ends in'
      ' .xplane.pb, found none'
    )
  path = max(traces, key=lambda path: path.stat().st_mtime_ns)
  data: Any = jax.profiler.ProfileData.from_file(str(path))
  found: Counter[str] = Counter()
  for plane in data.planes:
    for line in plane.lines:
      # Of a TPU the names of operations are those of the events themselves.
      is_operations = line.name == 'XLA Ops'
      for event in line.events:
        name = event.name if is_operations else dict(event.stats).get('hlo_op')
        if name:
          found[str(name)] += int(event.duration_ns)
  return found
