"""Writes the representations of an image set into one .npz file."""

from collections.abc import Callable, Sequence
from pathlib import Path
import tempfile

import jax
import numpy as np

from byol_jax import errors, files
from byol_jax.evals import features, splits

PER_DEVICE = 32  # images


def write_embeddings(
  encoder: features.Encoder,
  dataset: splits.Split,
  names: Sequence[str],
  output: str | Path,
  log: Callable[[str], None] = lambda text: None,
) -> int:
  """Writes `representations`, float32 [N, D], and `names`, unicode [N].

  Rows are in the order of `names`, whose positions are the ids of the images;
  an image that cannot be read has none. The file appears whole or not at all,
  and opens without pickles. In a job of several processes the first writes it.

  Returns:
    N.

  Raises:
    DataError: there is no image, or the file cannot be written.
  """
  path = files.expand_home(output)
  is_writer = jax.process_index() == 0
  name = f'output {errors.quote(output)}'
  if is_writer:
    # Before the work: a file that cannot be written fails at once.
    with files.refuse_unwritable(name):
      if path.exists():
        path.open('ab').close()
      path.parent.mkdir(parents=True, exist_ok=True)
      tempfile.TemporaryFile(dir=path.parent).close()
  total = dataset.num_examples
  log(f'encoding {errors.format_count(total, "image")}')
  progress = splits.make_progress(log, 'encoding', total)
  batches = dataset.eval_batches(PER_DEVICE * jax.device_count())
  found = features.extract_features(encoder, batches, progress)
  if is_writer:
    rows = np.array([names[i] for i in found.ids], dtype=np.str_)
    with files.refuse_unwritable(name), files.replace_file(path) as file:
      np.savez(file, representations=found.values, names=rows)
  return len(found.ids)
