"""A tree of arrays to and from a folder: atomic, verified; names, not classes.

FOLDER/STEP holds an Orbax checkpoint of two items: `arrays`, a flat dict from
a leaf's path ('online_params/projector/linear/w': keys, field names and
indices joined by '/', stored as they are) to its array; and `meta`, JSON with
the format's version, each array's shape, dtype and SHA-256, the caller's
values, and the SHA-256 of all that. An array without elements, which Orbax
refuses, lives in `meta` alone.

Orbax writes beside and renames, so a step is there whole or not at all. It
does not notice flipped or zeroed bytes when it reads: hence the digests.
"""

import logging
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp

from byol_jax import checkpoint_format, errors, orbax_noise, trees

_LOG = logging.getLogger(__name__)


class Damaged(errors.DataError):
  """A step that is there but is not what was saved."""


def latest_step(folder: str | pathlib.Path) -> int | None:
  """The newest completed step in `folder`; None where there is none."""
  return max(_steps(pathlib.Path(folder)), default=None)


def read(
  folder: str | pathlib.Path, step: int | None = None
) -> tuple[trees.Arrays, checkpoint_format.Json]:
  """The arrays by path and the meta of one step, each array verified.

  Writes nothing: safe beside a run that goes on saving into `folder`.

  Args:
    folder: what `Checkpoints` was given.
    step: None for the newest.

  Raises:
    Damaged: it is not what was saved. An evaluation does not step back by
      itself; a run that resumes does, and says so (`Checkpoints.resume`).
    DataError: no such step, unreadable, or of a newer format.
  """
  root = pathlib.Path(folder).absolute()
  steps = _steps(root)
  step = max(steps, default=None) if step is None else step
  if step not in steps:
    raise errors.DataError(
      f'{root} holds no checkpoint{"" if step is None else f" of step {step}"};'
      f' it has the steps {sorted(steps)}'
    )
  path = root / str(step)
  try:
    return checkpoint_format.load(path)
  except errors.DataError:
    raise
  except (PermissionError, MemoryError) as error:  # says nothing of the step
    reason = orbax_noise.first_line(error)
    raise errors.DataError(f'{path} cannot be read: {reason}') from error
  except Exception as error:  # Orbax has a dozen types for torn files.
    reason = orbax_noise.first_line(error)
    raise Damaged(
      f'{path} is damaged ({reason}); delete that folder to go on from the step'
      ' before'
    ) from error


class Checkpoints:
  """The checkpoints of one job; each process saves, the first one writes."""

  def __init__(self, folder: str | pathlib.Path, *, keep: int):
    """Opens or creates `folder`; what a killed save left there goes away.

    Raises:
      ConfigError: `keep`, the number of newest steps that stay, is below 1.
      DataError: the folder cannot be created.
    """
    if keep < 1:
      raise errors.ConfigError(f'checkpoint.keep: expected >= 1, found {keep}')
    self._folder = pathlib.Path(folder).absolute()
    policy = ocp.checkpoint_managers.preservation_policy.LatestN(keep)
    options = ocp.CheckpointManagerOptions(
      preservation_policy=policy,
      enable_async_checkpointing=False,
      cleanup_tmp_directories=True,
    )
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      with orbax_noise.silenced():
        self._manager = ocp.CheckpointManager(
          self._folder, options=options, item_names=('arrays', 'meta')
        )
    except OSError as error:
      raise errors.DataError(
        f'{self._folder} cannot hold checkpoints: {error.strerror}'
      ) from error

  def save(self, step: int, tree: Any, meta: checkpoint_format.Json) -> bool:
    """Writes one step and deletes those beyond `keep`; blocks until done.

    Args:
      step: steps completed, 0 or more.
      tree: any pytree of arrays and numbers, not all of them empty.
      meta: what `json` can write.

    Returns:
      False, with nothing written, where `step` was saved before.

    Raises:
      DataError: not written. Earlier steps are untouched; it may be retried.
    """
    if step in self._manager.all_steps():
      return False
    arrays = trees.flatten(tree)
    stored = {name: array for name, array in arrays.items() if array.size}
    document = checkpoint_format.document(arrays, meta)
    items = ocp.args.Composite(
      arrays=ocp.args.StandardSave(stored), meta=ocp.args.JsonSave(document)
    )
    try:
      with orbax_noise.silenced():
        self._manager.save(step, args=items, force=True)
    except (OSError, ValueError) as error:
      raise self._failed(step, stored, error) from error
    return True

  def latest(self) -> int | None:
    """The newest completed step; None before the first."""
    return latest_step(self._folder)

  def restore(
    self, template: Any, step: int | None = None
  ) -> tuple[Any, checkpoint_format.Json]:
    """A saved tree, as host arrays in the structure of `template`, and meta.

    Raises:
      DataError: see `read` and `trees.unflatten`.
    """
    step = self.latest() if step is None else step
    arrays, meta = read(self._folder, step)
    where = str(self._folder / str(step))
    return trees.unflatten(template, arrays, where), meta

  def resume(self, template: Any) -> tuple[int, Any] | None:
    """The newest step that verifies, and its tree; None before the first.

    Newer ones that are damaged are named in a warning each and moved to
    FOLDER.damaged: they are out of the way of later saves, and not lost.

    Raises:
      DataError: every step is damaged, so there is nothing to go on from; or
        see `read` and `trees.unflatten`.
    """
    damaged: dict[int, Damaged] = {}
    for step in sorted(_steps(self._folder), reverse=True):
      try:
        tree, _ = self.restore(template, step)
      except Damaged as error:
        damaged[step] = error
        continue
      for bad in damaged:
        self._set_aside(bad)
        _LOG.warning(
          '%s: checkpoint %d is damaged, moved to %s; going on from step %d',
          self._folder,
          bad,
          self._aside,
          step,
        )
      return step, tree
    if damaged:
      raise errors.DataError(
        f'{self._folder}: every checkpoint is damaged (steps'
        f' {sorted(damaged)}): {next(iter(damaged.values()))}; the run does'
        ' not start afresh: bring one back, or give another --workdir'
      )
    return None

  @property
  def _aside(self) -> pathlib.Path:
    return self._folder.with_name(f'{self._folder.name}.damaged')

  def _set_aside(self, step: int) -> None:
    if jax.process_index() != 0:
      return
    place = self._aside / str(step)
    while place.exists():
      place = place.with_name(f'{place.name}+')
    try:
      place.parent.mkdir(exist_ok=True)
      (self._folder / str(step)).rename(place)
    except OSError as error:
      raise errors.DataError(
        f'{self._folder / str(step)} is damaged and cannot be moved to'
        f' {place}: {error.strerror}'
      ) from error
    with orbax_noise.silenced():
      self._manager.reload()

  def close(self) -> None:
    """Lets go of Orbax's threads."""
    with orbax_noise.silenced():
      self._manager.close()

  def _failed(
    self, step: int, arrays: trees.Arrays, error: Exception
  ) -> errors.DataError:
    """Gives back the disk space of a failed save and says what happened."""
    if jax.process_index() == 0:
      for path in self._folder.glob(f'{step}.*-tmp*'):
        shutil.rmtree(path, ignore_errors=True)
    needed = sum(array.nbytes for array in arrays.values()) / 1e6
    free = shutil.disk_usage(self._folder).free / 1e6
    return errors.DataError(
      f'{self._folder}: the checkpoint of step {step} could not be written'
      f' ({needed:,.1f} MB needed, {free:,.0f} MB free):'
      f' {orbax_noise.first_line(error)}; earlier checkpoints are untouched'
    )


def _steps(folder: pathlib.Path) -> set[int]:
  # A save in progress has a suffix, so it is no number yet.
  names = (path.name for path in folder.glob('*') if path.is_dir())
  return {int(name) for name in names if name.isdecimal()}
