"""Holds the table of bad files against the folder DATA/nasty.

    python benchmarks/check_bad_files.py DATA/nasty

Trains through every file of the folder as `pretrain` would (two epochs, both
views) and compares which files were used and which replaced with
tests/helpers/bad_files.json. Exit code 1 where they differ.
"""

import ast
import functools
import json
import logging
import pathlib
import sys

import numpy as np

from byol_jax.data.loading import image_set, tf_engine
from byol_jax.data.sampling import crops
from byol_jax.data.sources import base

TABLE = pathlib.Path(__file__).parent.parent / 'tests/helpers/bad_files.json'
CROP_RANGE = crops.CropRange((0.08, 1.0), (3 / 4, 4 / 3))


class Files(base.Source):
  """Every file of a folder, whatever its name; its label is its place."""

  name, fingerprint, class_names, labels = 'files', 'files', None, None

  def __init__(self, folder: pathlib.Path) -> None:
    self.paths = sorted(p for p in folder.iterdir() if p.suffix != '.json')
    self.num_classes = len(self.paths)

  def __len__(self) -> int:
    return len(self.paths)

  def read(self, index: int) -> tuple[bytes, int]:
    return self.paths[index].read_bytes(), index

  def file_name(self, index: int) -> str:
    return self.paths[index].name


class Reasons(logging.Handler):
  """What the log says of each file."""

  def __init__(self) -> None:
    super().__init__()
    self.found: dict[str, str] = {}

  def emit(self, record: logging.LogRecord) -> None:
    """Keeps the reason by the file's name."""
    _, name, reason = record.args
    self.found[ast.literal_eval(str(name))] = str(reason)


def outcomes(folder: pathlib.Path, decoding: str) -> dict[str, str]:
  """'used', or why it was replaced, of each file of a folder."""
  source, reasons = Files(folder), Reasons()
  logger = logging.getLogger('byol_jax.data.loading.bad_images')
  logger.addHandler(reasons)
  data = image_set.ImageSet(
    source,
    engine=functools.partial(tf_engine.decode_into, decoding=decoding),
    image_size=32,
    crop_ranges=(CROP_RANGE, CROP_RANGE),
    eval_crop='resize',
    transfer='float32',
    max_bad_share=0.5,
    seed=0,
  )
  labels = [
    label
    for batch in data.view_batches(len(source), 0, 2)
    for label in batch['labels'].ravel()
  ]
  logger.removeHandler(reasons)
  used = {source.file_name(int(label)) for label in np.unique(labels)}
  names = {path.name for path in source.paths}
  if used | reasons.found.keys() != names:
    raise SystemExit(f'lost: {sorted(names - used - reasons.found.keys())}')
  # Decoding 'crops', a cut image may be used in one epoch and not in another.
  return {
    name: 'used' if name in used else reasons.found[name]
    for name in sorted(names)
  }


def main(folder: str) -> int:
  """Prints the table; returns the exit code."""
  table = json.loads(TABLE.read_text())['files']
  found = outcomes(pathlib.Path(folder), 'once')
  wrong = 0
  for name in sorted(table.keys() | found.keys()):
    expected = table.get(name, {}).get('outcome', 'not in the table')
    outcome = found.get(name, 'no such file')
    kind = outcome if outcome in ('used', 'no such file') else 'replaced'
    agrees = kind == expected
    wrong += not agrees
    mark = ' ' if agrees else f'!  expected {expected}:'
    print(f'{mark} {name}: {outcome}')
  print(f'{len(found)} files, {wrong} differ from {TABLE.name}')
  return 1 if wrong else 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1]))
