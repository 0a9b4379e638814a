"""Keeps compiled programs between runs, in JAX's persistent cache.

Each type of machine has a folder: a program for CPUs holds instructions of the
CPU that compiled it, which another one that shares the home may lack.
"""

import contextlib
import glob
import hashlib
from importlib import metadata
import logging
import os
import pathlib
import platform
import re
import shutil
from typing import Any
import warnings

from byol_jax import errors, files

# Of /proc/cpuinfo: what the compiler looks at, on x86 and on ARM.
_CPU_FACTS = frozenset(
  (
    *('vendor_id', 'cpu family', 'model', 'model name', 'flags', 'Features'),
    *('CPU implementer', 'CPU architecture', 'CPU variant', 'CPU part'),
  )
)
_MAX_BYTES = 4 * 2**30
_MIN_FREE_BYTES = 2**30
# A warning of JAX, with the name of the program and what went wrong.
_FAILURE = re.compile(
  "Error (reading|writing) persistent compilation cache entry for '(.+?)': (.*)"
)


def enable() -> None:
  """Turns the cache on in this process, before it imports JAX.

  Without effect where $JAX_COMPILATION_CACHE_DIR is set, which JAX reads, or
  where the folder cannot be used: a run needs no cache.
  """
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  with contextlib.suppress(OSError, errors.UserError):
    folder = files.find_cache_folder() / 'xla' / name_machine()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _is_ours(folder) and shutil.disk_usage(folder).free > _MIN_FREE_BYTES:
      _delete_oldest(folder)
      _delete_parts(folder)
      os.environ['JAX_COMPILATION_CACHE_DIR'] = str(folder)
      # Reading a small program, too, is faster than compiling it.
      name = 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'
      os.environ.setdefault(name, '0')


def name_machine(cpuinfo: str = '/proc/cpuinfo') -> str:
  """Returns a name for jaxlib's version and the type of CPU."""
  facts = platform.processor() + platform.platform()  # not Linux
  with contextlib.suppress(OSError):
    first, _, _ = pathlib.Path(cpuinfo).read_text().partition('\n\n')
    lines = (line.partition(':') for line in first.splitlines())
    found = {name.strip(): value.split() for name, _, value in lines}
    facts = repr(sorted((k, v) for k, v in found.items() if k in _CPU_FACTS))
  digest = hashlib.sha256(facts.encode()).hexdigest()
  version = metadata.version('jaxlib')
  return f'jaxlib-{version}-{platform.machine()}-{digest[:12]}'


def _is_ours(folder: pathlib.Path) -> bool:
  """Returns whether this user alone can write: what lies there is executed."""
  found = folder.stat()
  is_private = found.st_uid == os.geteuid() and not found.st_mode & 0o022
  return is_private and os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def _delete_oldest(folder: pathlib.Path) -> None:
  """Deletes the programs that were not read for longest, above the limit."""
  found = [(x.stat(), x.path) for x in os.scandir(folder) if x.is_file()]
  size = sum(stat.st_size for stat, _ in found)
  for stat, path in sorted(found, key=lambda x: x[0].st_atime):
    if size <= _MAX_BYTES:
      break
    pathlib.Path(path).unlink(missing_ok=True)
    size -= stat.st_size


def _delete_parts(folder: pathlib.Path) -> None:
  """Deletes programs that JAX fails to read or write, so that it tries again.

  A process that is killed, or a disk that is full, leaves a part of one. JAX
  would keep it, and compile and warn in each process.
  """
  show = warnings.showwarning

  def show_warning(message: Any, *arguments: Any, **options: Any) -> None:
    found = _FAILURE.match(str(message))
    if found is None:
      show(message, *arguments, **options)
      return
    action, name, reason = found.groups()
    with contextlib.suppress(OSError):
      paths = [*folder.glob(f'{glob.escape(name)}-*')]
      if action == 'writing':  # others of this name, of other shapes, are whole
        paths = sorted(paths, key=lambda path: path.stat().st_mtime_ns)[-1:]
      for path in paths:
        path.unlink(missing_ok=True)
    if action == 'writing':
      logging.warning(
        'compiled programs are not kept in %s: %s', folder, reason
      )
    else:
      text = 'programs in %s that cannot be read are compiled anew'
      logging.warning(text, folder)

  warnings.showwarning = show_warning
