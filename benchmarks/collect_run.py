"""Keeps what a run showed, in one small JSON file.

  python benchmarks/collect_run.py WORKDIR benchmarks/results/NAME.json

Configuration, versions, the curve of some scalars, the median rate, kNN
accuracies between steps and, where `byol-jax report` was run, its numbers.
"""

import json
import os
from pathlib import Path
import statistics
import sys

from byol_jax.training import scalars

CURVE = (
  *('step', 'total_loss', 'byol_loss', 'top1_accuracy', 'projection_std'),
)
POINTS = 20


def collect(workdir: Path) -> dict:
  """Reads a workdir."""
  read = lambda name: json.loads((workdir / name).read_text())
  lines = list(scalars.read(workdir))
  records = [line for line in lines if 'byol_loss' in line]
  evaluations = [line for line in lines if 'knn_k1_t0.1' in line]
  kept = records[:: max(1, len(records) // POINTS)]
  if kept[-1] is not records[-1]:
    kept.append(records[-1])
  rates = [record['images_per_second'] for record in records[1:]]
  report = workdir / 'report.json'
  config = read('config.json')
  config.pop('data_dir', None)
  config['dataset'] = Path(config['dataset']).name
  return {
    'config': config,
    'versions': read('versions.json'),
    'cores': os.cpu_count(),
    'images_per_second': {
      'median': statistics.median(rates or [0]),
      'largest': max(rates, default=0),
    },
    'seconds': records[-1]['time'] - records[0]['time'],
    'curve': [[round(r.get(k, 0), 5) for k in CURVE] for r in kept],
    'curve_columns': CURVE,
    'knn': [
      {'seconds': line['time'] - records[0]['time']}
      | {key: line[key] for key in line if key == 'step' or key[:3] == 'knn'}
      for line in evaluations
    ],
    'report': read('report.json') if report.exists() else None,
  }


def main() -> None:
  """Writes the file."""
  found = collect(Path(sys.argv[1]))
  target = Path(sys.argv[2])
  target.write_text(json.dumps(found, indent=1) + '\n')
  print(f'{target}: {len(found["curve"])} points')


if __name__ == '__main__':
  main()
