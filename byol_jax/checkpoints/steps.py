"""Opens a folder of checkpoints with Orbax, and reads steps that verify."""

from collections.abc import Iterator
import contextlib
import logging
import os
import re

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from byol_jax import errors
from byol_jax.checkpoints import digests, trees

Folder = str | os.PathLike[str]

# Types that Orbax raises for damaged files. Errors of the storage do not mean
# damage: backends raise other types, TensorStore gives these statuses.
_DAMAGE = (
  *(FileNotFoundError, NotADirectoryError, LookupError, TypeError, ValueError),
  *(AttributeError, NotImplementedError, RecursionError),
)
_NOT_DAMAGE = re.compile(
  '(PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED'
  '|RESOURCE_EXHAUSTED|CANCELLED|ABORTED):'
)


class DamagedError(errors.DataError):
  """A step is not what was saved; `reason` names the difference."""

  def __init__(self, where: epath.Path, reason: str):
    super().__init__(
      f'{errors.quote(where)} is damaged ({reason}); delete that folder to use'
      ' the step before it'
    )
    self.reason = reason


class Manager(ocp.CheckpointManager):
  """For one process of a job, which may open a folder again."""

  def reached_preemption(self, step: int) -> bool:
    """Does not call JAX's service, whose calls all processes count."""
    return False

  def close(self) -> None:
    """Waits for the thread that removes what a killed save left, too.

    Orbax (0.12.8) waits for it in `save` only: it would remove the temporary
    folder of a save by the next manager.
    """
    with contextlib.suppress(Exception):  # only `save` needs its success
      self._maybe_await_cleanup_tmp_directory()
    super().close()


@contextlib.contextmanager
def open_manager(folder: Folder, writes: bool = False) -> Iterator[Manager]:
  """Opens a folder's manager; hides Orbax's log, but for warnings, meanwhile.

  Raises:
    DataError: the folder cannot be listed, which is not an empty folder.
  """

  def is_shown(record: logging.LogRecord) -> bool:
    return 'orbax' not in record.pathname or record.levelno == logging.WARNING

  path, log = epath.Path(folder), logging.getLogger('absl')
  if '://' not in str(path):
    path = path.expanduser().absolute()
  with contextlib.ExitStack() as stack:
    log.addFilter(is_shown)
    stack.callback(log.removeFilter, is_shown)
    try:
      if writes:
        path.mkdir(parents=True, exist_ok=True)
      manager = stack.enter_context(_make_manager(path, writes))
    except Exception as error:  # Storage backends have their own types.
      raise errors.DataError(
        f'{errors.quote(path)} cannot be opened: {errors.first_line(error)}'
      ) from error
    yield manager


def _make_manager(path: epath.Path, writes: bool) -> Manager:
  """Returns a manager whose barriers wait for this process alone."""
  index = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=index,
    active_processes={index},
    barrier_sync_key_prefix=f'process_{index}',
  )
  handlers = {
    'arrays': ocp.StandardCheckpointHandler(multiprocessing_options=alone),
    'manifest': ocp.JsonCheckpointHandler(multiprocessing_options=alone),
  }
  options = ocp.CheckpointManagerOptions(
    create=False,  # not possible with `active_processes`
    cleanup_tmp_directories=writes,
    enable_async_checkpointing=False,
    lightweight_initialize=True,  # lists steps without reading files
    multiprocessing_options=alone,
    save_root_metadata=False,
  )
  return Manager(path, item_handlers=handlers, options=options)


def read_manifest(manager: Manager, step: int) -> digests.Json:
  """Returns the verified content of a step's manifest.

  Raises:
    DamagedError: it is not what was saved.
    DataError: it cannot be read, or is of another format or step.
  """
  where = manager.directory / str(step)
  with _name_damage(where):
    if any((where / name).exists() for name in ('manifest.json', 'meta')):
      raise errors.DataError(
        f'{errors.quote(where)} is a checkpoint of an older format, which this'
        ' version of byol_jax does not read; use the version that wrote it, or'
        ' give another --workdir'
      )
    item = ocp.args.Composite(manifest=ocp.args.JsonRestore())
    manifest = manager.restore(step, args=item)['manifest']
    content = digests.check_manifest(manifest)
    if content['step'] != step:
      raise errors.DataError(
        f'{errors.quote(where)} holds step {content["step"]}: the folder was'
        ' renamed or copied; give it that name, or move it away'
      )
    return content


def read_step(manager: Manager, step: int) -> tuple[trees.Arrays, digests.Json]:
  """Returns the verified arrays of a step, and the content of its manifest.

  Raises:
    DamagedError, DataError: as for `read_manifest`.
  """
  content = read_manifest(manager, step)
  with _name_damage(manager.directory / str(step)):
    arrays = {
      name: np.zeros(entry['shape'], entry['dtype'])
      for name, entry in content['arrays'].items()
    }
    # Without a template Orbax calls TensorStore's `to_json`, which leaks
    # memory at each call (tensorstore 0.1.86).
    template = {name: array for name, array in arrays.items() if array.size}
    item = ocp.args.Composite(arrays=ocp.args.StandardRestore(template))
    arrays |= manager.restore(step, args=item)['arrays']
    digests.check_arrays(content['arrays'], arrays)
  return arrays, content


@contextlib.contextmanager
def _name_damage(where: epath.Path) -> Iterator[None]:
  """Raises DamagedError for errors of the step, DataError for all others."""
  try:
    yield
  except errors.DataError:
    raise
  except Exception as error:
    reason = errors.first_line(error)
    if isinstance(error, _DAMAGE) and not _NOT_DAMAGE.search(str(error)):
      raise DamagedError(where, reason) from error
    raise errors.DataError(
      f'{errors.quote(where)} cannot be read: {reason}'
    ) from error
