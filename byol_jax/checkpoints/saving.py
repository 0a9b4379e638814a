"""One step from host arrays to its place, read back before older ones go."""

import logging
import shutil

from byol_jax import errors
from byol_jax.checkpoints import (
  format as checkpoint_format,
  manifest,
  places,
  trees,
)

_LOG = logging.getLogger(__name__)
Json = checkpoint_format.Json


def save(
  place: places.Place,
  step: int,
  arrays: trees.Arrays,
  meta: Json,
  record: Json,
) -> None:
  """Stages, reads back, publishes and reads back again.

  Raises:
    DataError: not saved. Earlier steps are untouched; it may be retried.
  """
  try:
    if place.where(step).exists():
      set_aside(place, step, 'it was never completed', 'saving it anew')
    with place.staging(step) as stage:
      content = checkpoint_format.write(stage, step, arrays, meta, record)
      checkpoint_format.load(stage)  # as a restart will
      place.publish(stage, step)
    try:
      with place.local(step) as folder:
        manifest.check_files(folder, content)
    except manifest.Different as error:
      set_aside(place, step, str(error), 'it has just been written')
      raise
  except errors.DataError:
    raise
  except Exception as error:  # Orbax and buckets have a dozen types.
    raise _failed(place, step, arrays, error) from error


def retain(place: places.Place, keep: int, verified: int) -> None:
  """Deletes all but the newest `keep`, and never the one just verified.

  What is not complete is not counted and not touched. A step that cannot be
  deleted is named in a warning: what was saved is saved.
  """
  try:
    found = place.steps()
    complete = sorted(
      step for step, is_complete in found.items() if is_complete
    )
    for step in complete[:-keep]:
      if step != verified:
        place.delete(step)
  except Exception as error:
    _LOG.warning(
      '%s: older checkpoints than %d could not be deleted: %s',
      place.root,
      verified,
      errors.first_line(error),
    )


def set_aside(place: places.Place, step: int, reason: str, then: str) -> None:
  """Moves a damaged step to FOLDER.damaged and says so in one warning.

  Raises:
    DataError: it cannot be moved.
  """
  try:
    moved = place.set_aside(step)
  except Exception as error:
    raise errors.DataError(
      f'{place.where(step)} is damaged and cannot be moved to'
      f' {place.root}.damaged: {strerror(error)}'
    ) from error
  _LOG.warning(
    '%s: checkpoint %d is damaged (%s), moved to %s; %s',
    place.root,
    step,
    reason,
    moved,
    then,
  )


def strerror(error: Exception) -> str:
  """What the system says, or the first line of another error."""
  said = error.strerror if isinstance(error, OSError) else None
  return said or errors.first_line(error)


def _failed(
  place: places.Place,
  step: int,
  arrays: trees.Arrays,
  error: Exception,
) -> errors.DataError:
  needed = sum(array.nbytes for array in arrays.values()) / 1e6
  free = shutil.disk_usage(place.scratch).free / 1e6
  return errors.DataError(
    f'{place.root}: the checkpoint of step {step} could not be written'
    f' ({needed:,.1f} MB needed, {free:,.0f} MB free in {place.scratch}):'
    f' {errors.first_line(error)}; earlier checkpoints are untouched'
  )
