"""Reads an encoder from a file of any format that byol_jax knows."""

from collections.abc import Mapping
import importlib
import pathlib
from typing import Any

from byol_jax import errors, files
from byol_jax.convert import deepmind, shapes, weights as weights_lib

# Suffix -> module that reads an encoder, imported when used.
_READERS = {
  **{'.safetensors': 'safetensors', '.npz': 'npz'},
  **{'.pt': 'torch', '.pth': 'torch'},
}
PUBLISHED = '.pkl'


def find_file(path: pathlib.Path) -> pathlib.Path | None:
  """Returns a file of weights, or the only one in a folder; None of a run."""
  if path.is_file() or path.suffix in (PUBLISHED, *_READERS):
    return path
  if not path.is_dir() or (path / 'config.json').is_file():
    return None
  found = [file for file in path.iterdir() if file.suffix in _READERS]
  return found[0] if len(found) == 1 else None


def read_encoder(
  path: pathlib.Path, weights: str, image_size: int
) -> weights_lib.EncoderWeights:
  """Reads an encoder; executes nothing of the file.

  Args:
    path: .safetensors or .npz of `export`, a published .pkl, or a state dict
      of torchvision or timm.
    weights: 'online'; or 'target' of a published checkpoint.
    image_size: in pixels, of a file that says nothing of it.

  Raises:
    ConfigError: weights that the file does not have.
    DataError: it cannot be read, or is of no encoder of ours.
  """
  known = [PUBLISHED, *_READERS]
  if path.suffix not in known:
    raise errors.DataError(
      f'{errors.quote(path)}: expected a workdir, or a file that ends in one of'
      f' {known}, found {path.suffix!r}'
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
    return deepmind.read_published(path, image_size, weights).weights
  converter = importlib.import_module(
    f'byol_jax.convert.{_READERS[path.suffix]}'
  )
  found = converter.read_encoder(path)
  found = shapes.check_weights(found, errors.quote(path))
  return found._replace(card=_complete_card(path, found.card))


def _complete_card(
  path: pathlib.Path, card: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns a card with all keys; the file's own values come first."""
  known: dict[str, Any] = {'source': path.name, 'weights': 'online'}
  known |= dict.fromkeys(('config', 'revision', 'licence'))
  if 'sha256' not in card:
    known['sha256'] = files.digest_file(path)
  return known | dict(card)
