"""Writes an encoder as an .npz file, and reads it back to the same bits."""

from collections.abc import Callable
import pathlib
import zipfile
import zlib

import numpy as np

from byol_jax import errors
from byol_jax.convert import archive, reference, weights as weights_lib

FILE = 'encoder.npz'
_TEXT = 'description'
_DAMAGE = (
  *(OSError, ValueError, KeyError, EOFError, MemoryError, NotImplementedError),
  *(RuntimeError, zipfile.BadZipFile, zlib.error),
)


def write_encoder(
  weights: weights_lib.EncoderWeights, folder: pathlib.Path
) -> None:
  """Writes encoder.npz, which opens without pickles, into an empty folder."""
  arrays, text = archive.flatten_weights(weights)
  # Names that end in .npy would lose it, and `savez` has parameters.
  np.savez(
    folder / FILE, allow_pickle=False, **{_TEXT: np.array(text)}, **arrays
  )


def read_encoder(path: pathlib.Path) -> weights_lib.EncoderWeights:
  """Reads a file of `write_encoder`.

  Raises:
    DataError: it cannot be read, or is no such file.
  """
  try:
    with zipfile.ZipFile(path) as file:
      entries = file.infolist()
    if any(x.compress_type != zipfile.ZIP_STORED for x in entries):
      raise ValueError('expected no compression')
    size = path.stat().st_size
    if sum(x.file_size for x in entries) > size:  # some share their bytes
      raise ValueError(f'expected entries of at most {size:,} bytes in all')
    with np.load(path, allow_pickle=False) as found:
      arrays = {name: found[name] for name in found.files}
    if others := [k for k, x in arrays.items() if isinstance(x, bytes)]:
      raise ValueError(f'expected arrays, found {errors.quote(others[0])}')
  except _DAMAGE as error:
    raise errors.DataError(
      f'{errors.quote(path)}: cannot be read as an .npz file:'
      f' {errors.first_line(error)}'
    ) from error
  text = arrays.pop(_TEXT, np.empty(()))[()]
  return archive.restore_weights(arrays, text, path)


def open_encoder(folder: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
  """Returns what is read back: normalised [B, H, W, 3] -> [B, D], in numpy."""
  return reference.make_encode(read_encoder(folder / FILE))
