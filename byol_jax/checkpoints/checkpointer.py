"""A tree of arrays to and from a folder: atomic, verified; names, not classes.

FOLDER/STEP holds what `checkpoint_format` writes, a flat dict from a leaf's
path ('online_params/projector/linear/w': keys, field names and indices joined
by '/', stored as they are) to its array. FOLDER is a path or, as gs://..., a
bucket.

A step is staged out of sight, read back, and published whole; only then do
older ones go. What was saved is verified to the last bit when it is read.
"""

import json
from typing import Any

import jax
import numpy as np

from byol_jax import errors
from byol_jax.checkpoints import background, places, reading, saving, trees

Json = reading.Json
Damaged = reading.Damaged
# Reading needs no more than these; they write nothing.
latest_step = reading.latest_step
record = reading.record
read = reading.read


class Checkpoints:
  """The checkpoints of one run, in the hand of the one process that saves.

  Other processes of a job need not know: Orbax waits for none of them. Only
  `wait` and `close` promise that a save is there when the process ends.
  """

  def __init__(
    self,
    folder: reading.Folder,
    *,
    keep: int,
    record: Json | None = None,
  ):
    """Opens or creates `folder`; what a killed save left there goes away.

    Args:
      folder: a path or a URL; nobody else saves there.
      keep: the number of newest steps that stay.
      record: what each manifest says of the run, as JSON can hold it.

    Raises:
      ConfigError: `keep` is below 1.
      DataError: the folder cannot be created.
    """
    if keep < 1:
      raise errors.ConfigError(f'checkpoint.keep: expected >= 1, found {keep}')
    self._place = places.at(folder)
    self._keep = keep
    self._record = record or {}
    self._work = background.Background('checkpoint')
    try:
      self._place.prepare()
    except Exception as error:  # A bucket has its own types.
      reason = saving.strerror(error)
      raise errors.DataError(
        f'{self._place.root} cannot hold checkpoints: {reason}'
      ) from error
    self._newest = self.latest()

  def save(self, step: int, tree: Any, meta: Json) -> bool:
    """Begins to write one step; later, those beyond `keep` are deleted.

    Waits for an earlier save that is under way. Then returns as soon as `tree`
    is free: what it costs is a copy of the arrays that somebody could write to.

    Args:
      step: steps completed, 0 or more.
      tree: any pytree of numbers, numpy arrays and jax.Arrays which nobody
        donates or deletes.
      meta: what `json` can write.

    Returns:
      False, with nothing written, where `step` was saved before.

    Raises:
      DataError: an *earlier* step was not written; this one is not begun. Of
        this one, `poll`, `wait` and the next `save` tell.
      ValueError: two leaves of the tree have the same path.
    """
    self._work.wait()
    # Steps rise, so a bucket is hardly ever asked.
    is_new = self._newest is None or step > self._newest
    if not is_new and self._place.has(step):
      return False
    trees.flatten(jax.tree.map(lambda _: 0, tree))
    # A box, so that what lies on a device goes as soon as it is fetched.
    box = [jax.tree.map(_own, tree)]
    values = json.loads(json.dumps(meta))
    self._work.start(lambda: self._save(step, _fetch(box), values))
    return True

  def _save(self, step: int, arrays: trees.Arrays, meta: Json) -> None:
    saving.save(self._place, step, arrays, meta, self._record)
    self._newest = max(step, -1 if self._newest is None else self._newest)
    saving.retain(self._place, self._keep, step)

  def poll(self) -> None:
    """Raises the DataError of a save that failed; never waits."""
    self._work.poll()

  def wait(self) -> None:
    """Until nothing is being written; raises the DataError of a failure."""
    self._work.wait()

  def latest(self) -> int | None:
    """The newest completed step; None before the first."""
    return reading.newest(reading.steps(self._place))

  def restore(self, template: Any, step: int | None = None) -> tuple[Any, Json]:
    """A saved tree, as host arrays in the structure of `template`, and meta.

    Raises:
      DataError: see `read` and `trees.unflatten`.
    """
    self._work.wait()
    step = self.latest() if step is None else step
    arrays, meta = read(self._place.root, step)
    where = str(self._place.root)
    if step is not None:
      where = str(self._place.where(step))
    return trees.unflatten(template, arrays, where), meta

  def resume(self, template: Any) -> tuple[int, Any, Json] | None:
    """The newest step that verifies, its tree and meta; None before the first.

    Newer ones that are damaged are named in a warning each and moved to
    FOLDER.damaged: they are out of the way of later saves, and not lost.

    Raises:
      DataError: every step is damaged, so there is nothing to go on from; or
        see `read` and `trees.unflatten`.
    """
    self._work.wait()
    damaged: dict[int, str] = {}
    first: Damaged | None = None
    for step in sorted(reading.steps(self._place), reverse=True):
      try:
        tree, meta = self.restore(template, step)
      except Damaged as error:
        damaged[step] = error.reason
        first = first or error
        continue
      for bad, reason in damaged.items():
        saving.set_aside(self._place, bad, reason, f'going on from step {step}')
      self._newest = step
      return step, tree, meta
    if damaged:
      raise errors.DataError(
        f'{self._place.root}: every checkpoint is damaged (steps'
        f' {sorted(damaged)}): {first}; the run does'
        ' not start afresh: bring one back, or give another --workdir'
      )
    return None

  def close(self) -> None:
    """Waits for the save under way, and lets the thread go.

    Raises:
      DataError: it failed, and nobody has heard of it.
    """
    self._work.close()


def _own(leaf: Any) -> Any:
  """The leaf, or its copy where somebody else could write to it."""
  is_open = isinstance(leaf, np.ndarray) and leaf.flags.writeable
  return leaf.copy() if is_open else leaf


def _fetch(box: list[Any]) -> trees.Arrays:
  """Empties the box; explicitly, whatever the transfer guard says."""
  return trees.flatten(jax.device_get(box.pop()))
