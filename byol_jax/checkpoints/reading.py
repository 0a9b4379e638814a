"""The steps of a place that others may write to: found, verified, read."""

import errno
import logging
import os
from typing import Any

from byol_jax import errors
from byol_jax.checkpoints import (
  format as checkpoint_format,
  manifest,
  places,
  trees,
)

_LOG = logging.getLogger(__name__)
Json = checkpoint_format.Json
Folder = str | os.PathLike[str]
# A reader and a run that deletes old steps: the newest is rarely overtaken.
_ATTEMPTS = 5
# Of the machine at this moment, and not of the file.
_NOT_NOW = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Damaged(errors.DataError):
  """A step that is there but is not what was saved, and what is wrong."""

  def __init__(self, where: Any, reason: str):
    """Args: the step's place; the file, what was expected, what was found."""
    super().__init__(
      f'{where} is damaged ({reason}); delete that folder to go on from the'
      ' step before'
    )
    self.reason = reason


def steps(place: places.Place) -> places.Steps:
  """Each step that lies there, and whether it is complete.

  Raises:
    DataError: nobody can tell. That must not look like an empty place.
  """
  try:
    return place.steps()
  except Exception as error:  # A bucket has its own types.
    raise errors.DataError(
      f'{place.root} cannot be read: {errors.first_line(error)}'
    ) from error


def newest(found: places.Steps) -> int | None:
  """The newest completed one of `steps`."""
  return max(
    (s for s, is_complete in found.items() if is_complete), default=None
  )


def latest_step(folder: Folder) -> int | None:
  """The newest completed step in `folder`; None where there is none.

  Raises:
    DataError: the folder cannot be read.
  """
  return newest(steps(places.at(folder)))


def record(folder: Folder) -> Json | None:
  """What the newest completed step says of its run; None where there is none.

  Nothing, {}, if that step is damaged or of a format without records.

  Raises:
    DataError: the folder cannot be read.
  """
  place = places.at(folder)
  step = newest(steps(place))
  if step is None:
    return None
  with place.local(step) as path:
    try:
      return manifest.read(path)['record']
    except manifest.Different:
      return {}


def read(folder: Folder, step: int | None = None) -> tuple[trees.Arrays, Json]:
  """The arrays by path and the meta of one step, each array verified.

  Writes nothing: safe beside a run that goes on saving into `folder`.

  Args:
    folder: what `checkpoint.Checkpoints` was given.
    step: None for the newest completed one.

  Raises:
    Damaged: it is not what was saved. An evaluation does not step back by
      itself; a run that resumes does, and says so (`Checkpoints.resume`).
    DataError: no such step, unreadable, or of a newer format.
  """
  place = places.at(folder)
  for attempt in range(1, _ATTEMPTS + 1):
    found = steps(place)
    chosen = newest(found) if step is None else step
    if chosen is None or chosen not in found:
      raise errors.DataError(
        f'{place.root} holds no checkpoint'
        f'{"" if step is None else f" of step {step}"}; it has the steps'
        f' {sorted(s for s in found if found[s])}'
      )
    if step is None and chosen < max(found):
      _LOG.warning(
        '%s: step %d is unfinished or damaged, it has no %s; reading step %d',
        place.root,
        max(found),
        manifest.NAME,
        chosen,
      )
    try:
      return _load(place, chosen)
    except errors.DataError:
      # Retention of the run that owns the folder may have taken it meanwhile.
      if attempt == _ATTEMPTS or step is not None or steps(place).get(chosen):
        raise
  raise AssertionError('the last attempt returns or raises')


def _load(place: places.Place, step: int) -> tuple[trees.Arrays, Json]:
  where = place.where(step)
  try:
    with place.local(step) as folder:
      try:
        return checkpoint_format.load(folder)
      except (errors.DataError, PermissionError, MemoryError):
        raise  # they say nothing of the step
      except manifest.Different as error:
        raise Damaged(where, str(error)) from error
      except Exception as error:  # Orbax has a dozen types for torn files.
        if isinstance(error, OSError) and error.errno in _NOT_NOW:
          raise
        raise Damaged(where, errors.first_line(error)) from error
  except errors.DataError:
    raise
  except Exception as error:
    reason = errors.first_line(error)
    raise errors.DataError(f'{where} cannot be read: {reason}') from error
