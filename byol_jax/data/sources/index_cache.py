"""Indexes of large files, kept in a folder of the user's.

Data folders may be read-only, so nothing is written there. One file for each
indexed file: a sha256, then named arrays as numpy saves them. The digest also
covers kind, path, size and time of the indexed file, so an index that is
damaged, cut or out of date is simply none.
"""

from collections.abc import Callable
import hashlib
import io
import logging
import os
import pathlib
import tempfile
import threading

import numpy as np

from byol_jax.data.sources import storage

Arrays = dict[str, np.ndarray]

_DIGEST = hashlib.sha256().digest_size
_LOG = logging.getLogger(__name__)
_warned = threading.Event()


def folder() -> pathlib.Path:
  """$BYOL_JAX_CACHE, else $XDG_CACHE_HOME/byol_jax, else ~/.cache/byol_jax."""
  own = os.environ.get('BYOL_JAX_CACHE')
  if own:
    return pathlib.Path(own).expanduser()
  base = os.environ.get('XDG_CACHE_HOME')
  home = pathlib.Path(base) if base else pathlib.Path.home() / '.cache'
  return home / 'byol_jax'


def cached(
  kind: str,
  path: storage.Path,
  stamp: storage.Stamp,
  build: Callable[[], Arrays],
  holds: Callable[[Arrays], bool],
) -> Arrays:
  """The index of a file: the one that is kept, else built and kept.

  Args:
    kind: names the sort and the version of index.
    path: the indexed file.
    stamp: its size and time, taken before it is built from.
    build: makes the index; what it raises passes.
    holds: a cheap look at the file, whether the index that was kept fits it.
  """
  found = load(kind, path, stamp)
  if found is not None and holds(found):
    return found
  arrays = build()
  store(kind, path, stamp, arrays)
  return arrays


def load(kind: str, path: storage.Path, stamp: storage.Stamp) -> Arrays | None:
  """What `store` was given for the same three; None if it does not verify."""
  try:
    data = _place(kind, path).read_bytes()
  except OSError:
    return None
  digest, body = data[:_DIGEST], data[_DIGEST:]
  if not body or _digest(kind, path, stamp, body) != digest:
    return None
  with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
    return dict(arrays)


def store(
  kind: str, path: storage.Path, stamp: storage.Stamp, arrays: Arrays
) -> None:
  """Keeps an index; a folder that cannot be written costs only time."""
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)  # type: ignore[arg-type]
  body = buffer.getvalue()
  place = _place(kind, path)
  try:
    place.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when whole: other processes index the same files.
    file, temporary = tempfile.mkstemp(dir=place.parent, prefix='.new-')
    try:
      with open(file, 'wb') as stream:
        stream.write(_digest(kind, path, stamp, body) + body)
      os.replace(temporary, place)
    except BaseException:
      os.unlink(temporary)
      raise
  except OSError as error:
    if not _warned.is_set():
      _warned.set()
      _LOG.warning(
        '%s: indexes of data files cannot be kept: %s; they are built again'
        ' each time; point $BYOL_JAX_CACHE at a folder that can be written',
        place.parent,
        error.strerror or error,
      )


def _place(kind: str, path: storage.Path) -> pathlib.Path:
  name = hashlib.sha256(f'{kind}\n{_named(path)}'.encode(errors='replace'))
  return folder() / f'{kind}-{name.hexdigest()[:40]}'


def _named(path: storage.Path) -> str:
  text = str(path)
  return text if storage.in_bucket(text) else os.path.abspath(text)


def _digest(
  kind: str, path: storage.Path, stamp: storage.Stamp, body: bytes
) -> bytes:
  head = f'{kind}\n{_named(path)}\n{stamp.size} {stamp.mtime_ns}\n'
  digest = hashlib.sha256(head.encode(errors='replace'))
  digest.update(body)
  return digest.digest()
