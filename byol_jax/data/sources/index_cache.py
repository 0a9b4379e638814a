"""Keeps indexes of large data files in a cache folder of the user.

Data folders may be read-only, so nothing is written there. Each indexed file
has one file in the cache: a SHA-256 digest, then named arrays as .npz. The
digest also covers kind, path, size and time of the indexed file, so an index
that is damaged, truncated or outdated does not verify and is built again.
"""

from collections.abc import Callable
import contextlib
import functools
import hashlib
import io
import logging
import os
import pathlib
import uuid

import numpy as np

from byol_jax.data.sources import paths

Arrays = dict[str, np.ndarray]

_DIGEST_SIZE = hashlib.sha256().digest_size
_LOG = logging.getLogger(__name__)


def cache_folder() -> pathlib.Path:
  """$BYOL_JAX_CACHE, else $XDG_CACHE_HOME/byol_jax, else ~/.cache/byol_jax."""
  own = os.environ.get('BYOL_JAX_CACHE')
  if own:
    return pathlib.Path(own).expanduser()
  base = os.environ.get('XDG_CACHE_HOME')
  home = pathlib.Path(base) if base else pathlib.Path.home() / '.cache'
  return home / 'byol_jax'


def load_or_build(
  kind: str,
  path: paths.Path,
  stamp: paths.FileStamp,
  build: Callable[[], Arrays],
  fits: Callable[[Arrays], bool] = lambda _: True,
) -> Arrays:
  """Returns the cached index of a file, or builds it and stores it.

  Args:
    kind: name and version of the format of the index.
    path: the indexed file.
    stamp: its size and time, taken before the index is built.
    build: makes the index; its errors pass.
    fits: a cheap test whether a cached index matches the file.
  """
  text = str(path) if paths.is_bucket(str(path)) else os.path.abspath(path)
  name = hashlib.sha256(f'{kind}\n{text}'.encode(errors='replace')).hexdigest()
  target = cache_folder() / f'{kind}-{name[:40]}'
  salt = f'{kind}\n{text}\n{stamp.size} {stamp.mtime_ns}\n'
  found = _load(target, salt)
  if found is not None and fits(found):
    return found
  arrays = build()
  try:
    _store(target, salt, arrays)
  except OSError as error:
    _warn_once(target.parent, error.strerror or str(error))
  return arrays


def _load(target: pathlib.Path, salt: str) -> Arrays | None:
  try:
    data = target.read_bytes()
  except OSError:
    return None
  digest, body = data[:_DIGEST_SIZE], data[_DIGEST_SIZE:]
  if not body or _digest(salt, body) != digest:
    return None
  with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
    return dict(arrays)


def _store(target: pathlib.Path, salt: str, arrays: Arrays) -> None:
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)  # type: ignore[arg-type]
  body = buffer.getvalue()
  target.parent.mkdir(parents=True, exist_ok=True)
  # Renamed when complete: other processes may index the same file.
  temporary = target.with_name(f'.new-{uuid.uuid4().hex}')
  try:
    temporary.write_bytes(_digest(salt, body) + body)
    os.replace(temporary, target)
  except BaseException:
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise


def _digest(salt: str, body: bytes) -> bytes:
  return hashlib.sha256(salt.encode(errors='replace') + body).digest()


@functools.cache
def _warn_once(folder: pathlib.Path, reason: str) -> None:
  _LOG.warning(
    '%s: indexes of data files cannot be stored: %s; they are built again at'
    ' each start; set $BYOL_JAX_CACHE to a folder that can be written',
    folder,
    reason,
  )
