"""Gain of `folder:cpu` on parts of a set, as a user's own folder of photos.

PYTHONPATH=. python benchmarks/own_images.py parts DATA/imagenette128/1.0.0 DIR
PYTHONPATH=. python benchmarks/own_images.py run DIR SIZE SEED
PYTHONPATH=. python benchmarks/own_images.py collect DIR
  [--output=benchmarks/results/own_images.json]

`parts` writes DIR/images/SIZE/{train,val}/CLASS/NUMBER.jpg for each of SIZES:
random training images, the smaller parts within the larger, and all images of
the validation split. `run` gives the two commands of a user, `pretrain` and
`report`, and keeps the CPU and the wall seconds of each beside their results;
`collect` puts all runs into one file.
"""

import json
import os
from pathlib import Path
import resource
import subprocess
import sys
import time

import numpy as np

from benchmarks import results_file

SIZES = (300, 3000, 9000)
COLUMNS = ('knn_k1_t0.1', 'knn_k20_t0.1', 'knn_k200_t0.1', 'top1')


def write_parts(dataset: str, root: str) -> None:
  """Writes the folders of images."""
  from byol_jax.data.sources import lookup

  options = {'data_dir': None, 'holdout': 'paper', 'heldout_share': 0.1}
  for split, name in (('train', 'train'), ('test', 'val')):
    source = lookup.open_source(dataset, split, **options)
    order = np.random.default_rng(0).permutation(len(source))
    for size in SIZES:
      rows = order[:size] if name == 'train' else order
      for row in map(int, rows):
        encoded, label = source.read(row)
        folder = Path(root, 'images', str(size), name, f'class{label}')
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f'{row:05}.jpg').write_bytes(encoded)
      print(f'{size}/{name}: {len(rows)} images')


def run(root: str, size: str, seed: str) -> None:
  """Pretrains on a part, evaluates, and records the times."""
  workdir = f'{root}/runs/{size}_seed{seed}'
  verbs = {
    'pretrain': [
      '--config=folder:cpu',
      f'--config.dataset={root}/images/{size}',
      f'--config.seed={seed}',
      *sys.argv[5:],
    ],
    'report': [],
  }
  found = {}
  for verb, arguments in verbs.items():
    command = ['-m', 'byol_jax', verb, *arguments, f'--workdir={workdir}']
    began, before = time.monotonic(), _cpu_seconds()
    subprocess.run([sys.executable, *command], check=True)
    shown = ' '.join(command).replace(root, 'DIR')
    found[verb] = {
      'command': shown.replace('-m byol_jax', 'byol-jax'),
      'wall_seconds': round(time.monotonic() - began),
      'cpu_seconds': round(_cpu_seconds() - before),
      'load_average': os.getloadavg()[0],
    }
  Path(workdir, 'times.json').write_text(json.dumps(found))


def _cpu_seconds() -> float:
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def collect(root: str) -> dict:
  """Returns the results of all complete runs."""
  runs = []
  for path in sorted(Path(root, 'runs').glob('*/times.json')):
    size, _, seed = path.parent.name.partition('_seed')
    rows = json.loads((path.parent / 'report.json').read_text())
    last = (path.parent / 'scalars.jsonl').read_text().splitlines()[-1]
    accuracy = {
      weights: {c: round(100 * row[c], 1) for c in COLUMNS}
      for weights, row in rows.items()
    }
    gain = {
      c: round(
        100 * rows['online'][c]
        - 100 * max(rows[w][c] for w in ('random', 'random_calibrated')),
        1,
      )
      for c in COLUMNS
    }
    runs.append(
      {
        'images': int(size),
        'seed': int(seed),
        'steps': json.loads(last)['step'],
        'accuracy': accuracy,
        'gain': gain,
        **json.loads(path.read_text()),
      }
    )
  return {
    'what': 'accuracy in percent on the 2,925 validation images, with the'
    ' labels of the training images of each part; gain of BYOL above the'
    ' better random encoder',
    'runs': sorted(runs, key=lambda row: (row['images'], row['seed'])),
  }


def main() -> None:
  """Runs one of the three."""
  verb, arguments = sys.argv[1], sys.argv[2:]
  if verb == 'parts':
    write_parts(*arguments)
  elif verb == 'run':
    run(*arguments[:3])
  else:
    found = collect(arguments[0])
    output = arguments[-1].removeprefix('--output=')
    results_file.write(output if len(arguments) > 1 else None, found)


if __name__ == '__main__':
  main()
