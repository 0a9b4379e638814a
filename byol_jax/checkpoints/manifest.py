"""manifest.json: what one step of a checkpoint is made of, to the last bit.

It is written after every other file of a step, so where it is, the step is
complete; and it says the size and SHA-256 of each of those files, shape, dtype
and SHA-256 of each array, and what the run wants remembered. Orbax notices
neither flipped nor zeroed bytes when it reads: hence the digests.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np

from byol_jax import errors
from byol_jax.checkpoints import trees

FORMAT = 2
NAME = 'manifest.json'

Json = dict[str, Any]


class Different(Exception):
  """Names the file or the array, what was expected, and what was found."""


def content(
  folder: pathlib.Path,
  step: int,
  arrays: trees.Arrays,
  meta: Json,
  record: Json,
) -> Json:
  """The manifest of the files now below `folder`, which hold `arrays`.

  Args:
    folder: of the step, without a manifest.
    step: steps completed.
    arrays: {path: array}, in the order of the tree.
    meta: the caller's values of this step, as JSON can hold them.
    record: those of the run: its configuration, its versions.
  """
  found = {
    'step': step,
    'files': {
      path.relative_to(folder).as_posix(): _file(path)
      for path in sorted(folder.rglob('*'))
      if path.is_file()
    },
    'arrays': {name: entry(array) for name, array in arrays.items()},
    'meta': meta,
    'record': record,
  }
  # As JSON gives it back: lists for tuples, strings for keys.
  return json.loads(json.dumps(found))


def write(folder: pathlib.Path, found: Json) -> None:
  """Writes the manifest below `folder` and makes it last."""
  body = {'format': FORMAT, 'content': found}
  with open(folder / NAME, 'w') as file:
    json.dump(body | {'sha256': _digest(body)}, file)
    file.flush()
    os.fsync(file.fileno())


def read(folder: pathlib.Path) -> Json:
  """The content of the manifest below `folder`.

  Raises:
    Different: there is none, or it is not what was written.
    DataError: it is of another format.
  """
  try:
    document = json.loads((folder / NAME).read_text())
    expected = document.pop('sha256')
    is_format = document['format']
    found = document['content']
  except (FileNotFoundError, NotADirectoryError):
    raise Different(f'{NAME} is missing') from None
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise Different(
      f'{NAME}: expected the JSON of a manifest, found'
      f' {(folder / NAME).stat().st_size} bytes that are none'
    ) from error
  # Before the format: a flipped bit there is damage, and no newer version.
  if _digest(document) != expected:
    raise Different(
      f'{NAME}: expected sha256 {expected}, found {_digest(document)}'
    )
  if is_format != FORMAT:
    raise errors.DataError(
      f'{folder} has format {is_format}, this version of byol_jax reads 1 to'
      f' {FORMAT}'
    )
  return found


def check_files(folder: pathlib.Path, found: Json) -> None:
  """Reads every file of a step again.

  Raises:
    Different: names the first that is not what was written.
  """
  for name, expected in found['files'].items():
    path = folder / name
    try:
      actual = _file(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
      raise Different(
        f'{name}: expected sha256 {expected["sha256"]}, found no file'
      ) from None
    if actual != expected:
      raise Different(
        f'{name}: expected sha256 {expected["sha256"]}'
        f' ({expected["bytes"]} bytes), found {actual["sha256"]}'
        f' ({actual["bytes"]} bytes)'
      )


def check_array(name: str, array: np.ndarray, expected: Json) -> None:
  """Compares one array with its entry.

  Raises:
    Different: it is another one.
  """
  if entry(array) != expected:
    raise Different(
      f'array {name!r} is not what was saved: expected {_text(expected)},'
      f' found {_text(entry(array))}'
    )


def entry(array: np.ndarray) -> Json:
  """Shape, dtype and SHA-256 of an array's bytes in C order."""
  octets = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
  return {
    'shape': list(array.shape),
    'dtype': array.dtype.name,
    'sha256': hashlib.sha256(octets.data).hexdigest(),
  }


def _text(array: Json) -> str:
  return f'{array["dtype"]}{array["shape"]} of sha256 {array["sha256"]}'


def _file(path: pathlib.Path) -> Json:
  with open(path, 'rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
    return {'bytes': file.tell(), 'sha256': digest}


def _digest(body: Json) -> str:
  return hashlib.sha256(json.dumps(body).encode()).hexdigest()
