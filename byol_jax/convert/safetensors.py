"""Writes an encoder as a safetensors file; reads it back to the same bits.

The format is a header of JSON after its length in 8 bytes, then the arrays'
bytes one after another. A file may be hostile: each array must have the bytes
that its shape needs, and together they must be all that follows the header.
Half precision becomes float32.
"""

from collections.abc import Callable, Mapping
import itertools
import json
import math
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from byol_jax import errors, files
from byol_jax.convert import (
  archive,
  reference,
  state_dict,
  weights as weights_lib,
)

FILE = 'model.safetensors'
TEXT = 'byol_jax'  # our description, in the header's metadata
_DTYPES: dict[str, np.dtype] = {
  **{'F32': np.dtype('<f4'), 'I32': np.dtype('<i4')},
  **{'I64': np.dtype('<i8')},  # counters of torch
}
_HALVES = {'F16': np.dtype('<f2'), 'BF16': np.dtype(jnp.bfloat16)}
_MAX_HEADER = 100_000_000  # bytes, as in the format's own reader
_MAX_DIMENSIONS = 8


def write_encoder(
  weights: weights_lib.EncoderWeights, folder: pathlib.Path
) -> None:
  """Writes model.safetensors into an empty folder."""
  arrays, text = archive.flatten_weights(weights)
  write_arrays(folder / FILE, arrays, {TEXT: text})


def write_arrays(
  path: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  metadata: Mapping[str, str],
) -> None:
  """Writes contiguous arrays, float32, int32 or int64, by name."""
  header: dict[str, Any] = {'__metadata__': dict(metadata)}
  codes = {dtype: code for code, dtype in _DTYPES.items()}
  ends = [*itertools.accumulate((x.nbytes for x in arrays.values()), initial=0)]
  for (name, array), offsets in zip(arrays.items(), itertools.pairwise(ends)):
    header[name] = {
      'dtype': codes[array.dtype.newbyteorder('<')],
      'shape': array.shape,
      'data_offsets': offsets,
    }
  octets = json.dumps(header).encode()
  octets += b' ' * (-len(octets) % 8)
  with path.open('wb') as file:
    file.write(len(octets).to_bytes(8, 'little') + octets)
    for array in arrays.values():
      little = array.astype(array.dtype.newbyteorder('<'), copy=False)
      file.write(little.data)


def read_encoder(path: pathlib.Path) -> weights_lib.EncoderWeights:
  """Reads a file of `write_encoder`, or a state dict of torchvision or timm.

  Takes at most twice its size in memory, of half precision three times.

  Raises:
    DataError: it cannot be read, its header does not describe what follows, or
      it is no such file.
  """
  try:
    arrays, metadata = parse_arrays(files.read_file(path))
  except ValueError as error:
    raise errors.DataError(
      f'{errors.quote(path)}: damaged safetensors file: {error}'
    ) from error
  is_state_dict = any(name.endswith('.running_mean') for name in arrays)
  restore = (state_dict if is_state_dict else archive).restore_weights
  return restore(arrays, metadata.get(TEXT), path)


def parse_arrays(octets: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Returns the arrays of a safetensors file, read-only, and its metadata.

  Raises:
    ValueError: the header does not describe what follows it.
  """
  length = int.from_bytes(octets[:8], 'little')
  if len(octets) < 8 or length > min(len(octets) - 8, _MAX_HEADER):
    raise ValueError(
      f'expected a header of at most {max(len(octets) - 8, 0):,} bytes, found'
      f' {length:,}'
    )
  header = _parse_header(octets[8 : 8 + length])
  metadata = header.pop('__metadata__', {})
  if not isinstance(metadata, dict) or not all(
    isinstance(value, str) for value in metadata.values()
  ):
    raise ValueError(f'__metadata__: expected texts, found {type(metadata)}')
  data = memoryview(octets)[8 + length :]
  entries = sorted(
    (_parse_entry(name, entry) for name, entry in header.items()),
    key=lambda entry: entry[3:],
  )
  arrays, position = {}, 0
  for name, dtype, shape, begin, end in entries:
    if begin != position or end > len(data):
      raise ValueError(
        f'{errors.quote(name)}: expected its bytes from {position:,} to at most'
        f' {len(data):,}, found {begin:,} to {end:,}'
      )
    array = np.frombuffer(data[begin:end], dtype).reshape(shape)
    is_half = dtype in _HALVES.values()
    arrays[name] = array.astype(np.float32) if is_half else array
    position = end
  if position != len(data):
    raise ValueError(
      f'expected {position:,} bytes after the header, found {len(data):,}'
    )
  return arrays, metadata


def _parse_header(text: bytes) -> dict[str, Any]:
  def make_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
      raise ValueError('a key occurs twice')
    return found

  try:
    header = json.loads(text, object_pairs_hook=make_dict)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'its header: {errors.first_line(error)}') from error
  if not isinstance(header, dict):
    raise ValueError(f'its header: expected a dict, found {type(header)}')
  return header


def _parse_entry(
  name: str, entry: Any
) -> tuple[str, np.dtype, list[int], int, int]:
  """Returns name, dtype, shape, and where its bytes begin and end."""
  try:
    dtype, shape = (_DTYPES | _HALVES)[entry['dtype']], entry['shape']
    begin, end = entry['data_offsets']
    numbers = [*shape, begin, end]
    is_sound = (
      entry.keys() == {'dtype', 'shape', 'data_offsets'}
      and isinstance(shape, list)
      and len(shape) <= _MAX_DIMENSIONS
      and all(type(x) is int and 0 <= x < 2**63 for x in numbers)
      and end - begin == math.prod(shape) * dtype.itemsize
    )
  except (KeyError, TypeError, ValueError, AttributeError):
    is_sound = False
  if not is_sound:
    raise ValueError(
      f'{errors.quote(name)}: expected a dtype of'
      f' {[*_DTYPES, *_HALVES]}, a shape and offsets that agree, found'
      f' {errors.quote(entry)}'
    )
  return name, dtype, shape, begin, end


def open_encoder(folder: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
  """Returns what is read back: normalised [B, H, W, 3] -> [B, D], in numpy."""
  return reference.make_encode(read_encoder(folder / FILE))
