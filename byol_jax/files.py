"""JSON files that are whole or absent, and logs of JSON lines."""

import json
import os
import pathlib
from typing import Any

from byol_jax import errors


def write(path: str | pathlib.Path, value: Any) -> None:
  """Replaces `path` by `value` as JSON: the whole of it, or nothing.

  Raises:
    DataError: it cannot be written; an older file is as it was.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.stem}.{os.getpid()}.json.tmp')
  text = json.dumps(value, indent=2) + '\n'
  try:
    with open(temporary, 'w') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)
  except OSError as error:
    temporary.unlink(missing_ok=True)
    raise errors.DataError(
      f'{path} cannot be written: {error.strerror}'
    ) from error


def append(path: str | pathlib.Path, value: Any) -> None:
  """Adds `value` as one line of JSON, in a single write.

  Raises:
    DataError: it cannot be written.
  """
  line = json.dumps(value) + '\n'
  try:
    with open(path, 'a') as file:
      file.write(line)
  except OSError as error:
    raise errors.DataError(
      f'{path} cannot be written: {error.strerror}'
    ) from error


def _sync_folder(folder: pathlib.Path) -> None:
  """Makes a rename last through a power cut."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
