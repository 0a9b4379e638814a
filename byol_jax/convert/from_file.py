"""Reads an encoder from a file of any format that byol_jax knows."""

import importlib
import os
import pathlib

from byol_jax import errors, files
from byol_jax.convert import (
  deepmind,
  npz,
  safetensors,
  shapes,
  weights as weights_lib,
)

# Suffix -> module that reads an encoder, imported when used.
_READERS = {
  **{'.safetensors': 'safetensors', '.npz': 'npz'},
  **{'.pt': 'torch', '.pth': 'torch'},
}
PUBLISHED = '.pkl'
_KNOWN = [PUBLISHED, *_READERS]


def find_file(name: str | os.PathLike[str]) -> pathlib.Path | None:
  """Returns a file of weights, or that of a folder; None of a run or a URL.

  A folder of `export` may hold more than one, such as those of the heads.

  Raises:
    DataError: an export in a format that is not read back; or what `name` is
      cannot be found out.
  """
  if '://' in str(name):
    return None
  path = files.expand_home(name)
  try:
    if not path.is_dir():
      return path if path.is_file() or path.suffix in _KNOWN else None
    names = {file.name for file in path.iterdir()}
  except OSError as error:
    raise errors.DataError(
      f'{errors.quote(path)}: cannot be read: {error.strerror}'
    ) from error
  if 'checkpoints' in names:  # of a run, beside anything else
    return None
  found = [name for name in (safetensors.FILE, npz.FILE) if name in names]
  if not found and 'config.json' not in names:
    found = [name for name in names if pathlib.Path(name).suffix in _READERS]
    if not found and 'card.json' in names:
      raise errors.DataError(
        f'{errors.quote(path)}: expected an export to torch, timm, huggingface,'
        f' safetensors or npz, found {errors.quote(sorted(names))}; other'
        ' formats are not read back'
      )
  return path / found[0] if len(found) == 1 else None


def read_encoder(
  path: pathlib.Path, weights: str
) -> weights_lib.EncoderWeights:
  """Reads an encoder from a file that `pretrained.read_weights` names.

  Executes nothing of it.

  Raises:
    ConfigError: weights that the file does not have.
    DataError: it cannot be read, or is of no encoder of ours.
  """
  if path.suffix not in _KNOWN:
    raise errors.DataError(
      f'{errors.quote(path)}: expected a workdir, or a file that ends in one of'
      f' {_KNOWN}, found {path.suffix!r}'
    )
  if not path.is_file():
    raise errors.DataError(f'{errors.quote(path)}: expected a file, found none')
  allowed = ['online', 'target'] if path.suffix == PUBLISHED else ['online']
  if weights not in allowed:
    raise errors.ConfigError(
      f'weights: expected one of {allowed} of {errors.quote(path)}, found'
      f' {errors.quote(weights)}'
    )
  if path.suffix == PUBLISHED:
    return deepmind.read_published(path, weights)[0]
  converter = importlib.import_module(
    f'byol_jax.convert.{_READERS[path.suffix]}'
  )
  found = converter.read_encoder(path)
  found = shapes.check_weights(found, errors.quote(path))
  return found._replace(card=weights_lib.complete_card(path, found.card))
