"""Writes scalars and what they mean as TensorBoard events."""

from collections.abc import Mapping
import os
import pathlib

import tensorboardX

from byol_jax.training import scalars as scalars_lib


class Events:
  """Events in a folder, by tensorboardX's public class.

  So that tools which patch that class, as W&B's sync does, see them.

  The writer's thread ends silently when it meets a full disk, and a bounded
  queue would then block the run. So the queue has no bound, and the thread
  itself writes once a day: the error is raised to the caller of `write`.
  """

  def __init__(self, folder: pathlib.Path, start_step: int) -> None:
    """Opens events that hide those of steps after `start_step`."""
    self._described: set[str] = set()
    self._writer = tensorboardX.SummaryWriter(
      str(folder),
      purge_step=start_step + 1,
      max_queue=0,
      flush_secs=86_400,
      # File names contain whole seconds: two quick starts must differ.
      filename_suffix=f'.{os.getpid()}.{start_step}',
    )

  def write(
    self, step: int, values: Mapping[str, float], now: float | None = None
  ) -> None:
    """Writes scalars after `step` steps, at `now` seconds since 1970."""
    for name, value in values.items():
      # TensorBoard takes the description of a tag from its first event.
      text = '' if name in self._described else scalars_lib.describe(name)
      self._described.add(name)
      self._writer.add_scalar(name, value, step, now, summary_description=text)
    self._writer.flush()

  def close(self) -> None:
    """Flushes and closes the file."""
    self._writer.close()
