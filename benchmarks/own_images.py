"""Gain of `folder:cpu` on parts of a set, as a user's own folder of photos.

PYTHONPATH=. python benchmarks/own_images.py parts DATA/imagenette128/1.0.0 DIR
PYTHONPATH=. python benchmarks/own_images.py run DIR SIZE SEED
PYTHONPATH=. python benchmarks/own_images.py bank DIR SIZE SEED
PYTHONPATH=. python benchmarks/own_images.py
  --output=benchmarks/results/own_images.json collect DIR
PYTHONPATH=. python benchmarks/own_images.py draw

`parts` writes DIR/images/SIZE/{train,val}/CLASS/NUMBER.jpg for each of SIZES:
random training images, the smaller parts within the larger, and all images of
the validation split. `run` gives the two commands of a user, `pretrain` and
`report`, and keeps the CPU and the wall seconds of each beside their results;
`bank` measures nearest neighbours again with the labels of the largest part, so
that encoders of different parts can be compared; `collect` puts all runs into
one file, `draw` makes of it the table and the picture of docs/own_data.md,
docs/img/own_data.svg.
"""

import argparse
import collections
from collections.abc import Callable
import json
import math
import os
from pathlib import Path
import resource
import subprocess
import sys
import time

import numpy as np

from benchmarks import results_file

SIZES = (300, 3000, 9000)
WEIGHTS = ('random', 'random_calibrated', 'online')
RESULTS = Path(__file__).parent / 'results/own_images.json'
PICTURE = Path(__file__).parents[1] / 'docs/img/own_data.svg'
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


def measure_with_all_labels(root: str, size: str, seed: str) -> None:
  """Writes bank_WEIGHTS.json of a run."""
  workdir = f'{root}/runs/{size}_seed{seed}'
  for weights in WEIGHTS:
    command = [
      *(sys.executable, '-m', 'byol_jax', 'knn', f'--workdir={workdir}'),
      f'--config.dataset={root}/images/{SIZES[-1]}',
      f'--config.weights={weights}',
      f'--output={workdir}/bank_{weights}.json',
    ]
    subprocess.run(command, check=True)


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
        'knn_k20_with_labels_of_9000': {
          w: round(100 * json.loads(file.read_text())['results'][COLUMNS[1]], 1)
          for w in WEIGHTS
          if (file := path.with_name(f'bank_{w}.json')).exists()
        },
        **json.loads(path.read_text()),
      }
    )
  return {
    'what': 'accuracy in percent on the 2,925 validation images, with the'
    ' labels of the training images of each part; gain of BYOL above the'
    ' better random encoder',
    'runs': sorted(runs, key=lambda row: (row['images'], row['seed'])),
  }


def draw() -> None:
  """Prints the table of docs/own_data.md and writes its picture."""
  runs = json.loads(RESULTS.read_text())['runs']
  by_size = collections.defaultdict(list)
  for row in runs:
    by_size[row['images']].append(row)
  print('| images | steps | seed | kNN k=1 | kNN k=20 | linear | CPU, min |')
  print('| --- | --- | --- | --- | --- | --- | --- |')
  for row in runs:
    cells = [
      f'{row["accuracy"]["online"][c]:.1f} (+{row["gain"][c]:.1f})'
      for c in ('knn_k1_t0.1', 'knn_k20_t0.1', 'top1')
    ]
    minutes = row['pretrain']['cpu_seconds'] / 60
    facts = [f'{row["images"]:,}', f'{row["steps"]:,}', row['seed']]
    print('|', *_join([*facts, *cells, f'{minutes:.1f}']), '|')
  print('\n| images | seed | better random encoder | BYOL |')
  print('| --- | --- | --- | --- |')
  for row in runs:
    if found := row['knn_k20_with_labels_of_9000']:
      random = max(found[w] for w in WEIGHTS[:2])
      facts = [f'{row["images"]:,}', row['seed']]
      print('|', *_join([*facts, random, found['online']]), '|')
  PICTURE.write_text(_make_picture(by_size))


def _join(cells: list) -> list[str]:
  return [' | '.join(map(str, cells))]


def _make_picture(by_size: dict[int, list[dict]]) -> str:
  """Returns an SVG: a point for each run, a line through their means."""
  width, height, left, top, bottom = 620, 320, 50, 20, 280
  low, high = math.log(min(by_size)), math.log(max(by_size))
  place_x = lambda n: left + 30 + 360 * (math.log(n) - low) / (high - low)
  place_y = lambda percent: bottom - (bottom - top) * percent / 60
  parts = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
    ' font-family="sans-serif" font-size="13">',
    f'<rect width="{width}" height="{height}" fill="white"/>',
  ]
  for percent in range(0, 61, 10):
    y = place_y(percent)
    parts.append(
      f'<path d="M{left} {y:.0f}H{left + 420}" stroke="#ddd"/>'
      f'<text x="{left - 8}" y="{y + 4:.0f}" text-anchor="end">{percent}</text>'
    )
  for size in by_size:
    parts.append(
      f'<text x="{place_x(size):.0f}" y="{bottom + 18}" text-anchor="middle">'
      f'{size:,}</text>'
    )
  parts.append(
    f'<text x="{left + 210}" y="{height - 4}" text-anchor="middle">images of'
    f' the folder</text><text x="{left}" y="12">accuracy, %</text>'
  )
  for name, (find, color, shift) in SERIES.items():
    points = {n: [*map(find, rows)] for n, rows in by_size.items()}
    means = {n: sum(found) / len(found) for n, found in points.items()}
    line = ' '.join(
      f'{place_x(n):.0f},{place_y(v):.1f}' for n, v in means.items()
    )
    parts.append(f'<polyline points="{line}" fill="none" stroke="{color}"/>')
    parts += [
      f'<circle cx="{place_x(n):.0f}" cy="{place_y(v):.1f}" r="3.5"'
      f' fill="{color}"/>'
      for n, found in points.items()
      for v in found
    ]
    last = place_y([*means.values()][-1])
    parts.append(
      f'<text x="{place_x(max(by_size)) + 12:.0f}" y="{last + shift:.0f}"'
      f' fill="{color}">{name}</text>'
    )
  return '\n'.join([*parts, '</svg>\n'])


def _better_random(column: str) -> Callable[[dict], float]:
  return lambda row: max(
    row['accuracy'][w][column] for w in ('random', 'random_calibrated')
  )


# Name -> value, color and how far below its line the name is written.
SERIES: dict[str, tuple[Callable[[dict], float], str, int]] = {
  'linear, BYOL': (lambda r: r['accuracy']['online']['top1'], '#1a5fb4', 0),
  'kNN, BYOL': (
    lambda r: r['accuracy']['online']['knn_k20_t0.1'],
    '#c64600',
    8,
  ),
  'linear, random': (_better_random('top1'), '#7a9cc6', -2),
  'kNN, random': (_better_random('knn_k20_t0.1'), '#d9a066', 12),
}


def main() -> None:
  """Runs one of the five."""
  parser = results_file.make_parser(__doc__)
  parser.add_argument(
    'verb', choices=('parts', 'run', 'bank', 'collect', 'draw')
  )
  parser.add_argument('arguments', nargs=argparse.REMAINDER)
  flags = parser.parse_args()
  if flags.verb == 'parts':
    write_parts(*flags.arguments)
  elif flags.verb == 'run':
    run(*flags.arguments)
  elif flags.verb == 'bank':
    measure_with_all_labels(*flags.arguments)
  elif flags.verb == 'collect':
    results_file.write_result(collect(*flags.arguments), flags.output)
  else:
    draw()


if __name__ == '__main__':
  main()
