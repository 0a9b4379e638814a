"""Representations of an image set in one .npz file."""

from collections.abc import Iterator, Sequence
import contextlib
import errno
import os
from pathlib import Path

import jax
import numpy as np

from byol_jax import errors
from byol_jax.evals import features, splits

PER_DEVICE = 32  # images


def run(
  encoder: features.Encoder,
  dataset: splits.ImageSet,
  names: Sequence[str],
  output: str | Path,
) -> int:
  """Writes `representations`, float32 [N, D], and `names`, unicode [N].

  Rows are in the order of `names`; an image that cannot be read has none. The
  file appears whole or not at all, and opens without pickles. In a job of
  several processes the first writes it.

  Args:
    encoder: frozen.
    dataset: its images, whose ids are places in `names`.
    names: one an image.
    output: the file; written as named, replaced if it is there.

  Returns:
    N.

  Raises:
    DataError: nothing to write, or no place to write it.
  """
  path = Path(output).expanduser()
  part = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  writing = jax.process_index() == 0
  if writing:
    with refused(output):
      reserve(path, part)
  try:
    batch_size = PER_DEVICE * jax.device_count()
    found = features.extract(encoder, dataset.eval_batches(batch_size))
    if writing:
      with refused(output):
        write(part, found, names)
        os.replace(part, path)
  finally:
    if writing:
      part.unlink(missing_ok=True)
  return len(found.ids)


def reserve(path: Path, part: Path) -> None:
  """Before the work: a place that cannot be written fails at once."""
  if path.is_dir():
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
  path.parent.mkdir(parents=True, exist_ok=True)
  part.touch()


def write(part: Path, found: features.Features, names: Sequence[str]) -> None:
  """The arrays as .npz; numpy would add the suffix to a name."""
  with part.open('wb') as file:
    np.savez(
      file,
      representations=found.values,
      names=np.array([names[i] for i in found.ids], dtype=np.str_),
    )


@contextlib.contextmanager
def refused(output: str | Path) -> Iterator[None]:
  """What the file system says, as one line for the user."""
  try:
    yield
  except OSError as error:
    raise errors.DataError(
      f'--output={output}: cannot be written ({error.strerror}); name a file'
      ' in a folder where you may write'
    ) from error
