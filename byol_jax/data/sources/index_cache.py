"""Keeps indexes of large data files in a cache folder of the user.

Data folders may be read-only, so nothing is written there. Each indexed file
has one file in the cache: a SHA-256 digest, then named arrays as .npz. The
digest also covers kind, path, size and time of the indexed file, so an index
that is damaged, truncated or outdated does not verify and is built again.
"""

from collections.abc import Callable, Iterable
import contextlib
import functools
import hashlib
import io
import logging
import os
import pathlib

import numpy as np

from byol_jax import files
from byol_jax.data.sources import paths

Arrays = dict[str, np.ndarray]

_DIGEST_SIZE = hashlib.sha256().digest_size
_LOG = logging.getLogger(__name__)


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
  target = files.find_cache_folder() / f'{kind}-{name[:40]}'
  salt = f'{kind}\n{text}\n{stamp.size} {stamp.mtime_ns}\n'
  with contextlib.suppress(OSError):
    data = target.read_bytes()
    body = data[_DIGEST_SIZE:]
    if data[:_DIGEST_SIZE] == _digest(salt, body):
      with np.load(io.BytesIO(body), allow_pickle=False) as file:
        found = dict(file)
      if fits(found):
        return found
  arrays = build()
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)  # type: ignore[arg-type]
  body = buffer.getvalue()
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Other processes may index the same file.
    with files.replace_file(target, is_durable=False) as file:
      file.write(_digest(salt, body) + body)
  except OSError as error:
    _warn_once(target.parent, error.strerror or str(error))
  return arrays


def pack_names(names: Iterable[str]) -> np.ndarray:
  """Returns texts without NUL as bytes, uint8, for an index."""
  joined = ''.join(f'{name}\0' for name in names)
  return np.frombuffer(joined.encode('utf-8', 'surrogateescape'), np.uint8)


def unpack_names(packed: np.ndarray) -> list[str]:
  """Returns the texts of `pack_names`."""
  return packed.tobytes().decode('utf-8', 'surrogateescape').split('\0')[:-1]


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
