"""Nearest-neighbour accuracy of float32 and bfloat16 runs that else are equal.

PYTHONPATH=. python benchmarks/precision.py DATA/CIFAR DIR \\
  [--steps=2000] [--seeds=1,2,3] [--output=FILE.json] [OVERRIDES ...]

Each run has the preset `small/cifar10:cpu` of `byol-jax pretrain` and is then
given to `byol-jax knn`; DIR/PRECISION_SEED holds it. Runs that ended are not
repeated. `unpack_cifar10.py` makes the images.
"""

import json
import pathlib
import statistics
import subprocess
import sys

from benchmarks import results_file

CLI = (sys.executable, '-m', 'byol_jax')
PRECISIONS = ('float32', 'bfloat16')
ACCURACY = 'knn_k20_t0.1'


def train_and_evaluate(precision, seed, arguments, overrides):
  """Returns the accuracies of a run in percent, by k and temperature."""
  workdir = pathlib.Path(arguments.folder, f'{precision}_{seed}')
  output = workdir / 'knn.json'
  if not output.exists():
    pretrain = [
      *(*CLI, 'pretrain', '--config=small/cifar10:cpu'),
      f'--config.dataset={arguments.dataset}',
      *(f'--config.steps={arguments.steps}', f'--config.seed={seed}'),
      *(f'--config.precision={precision}', f'--workdir={workdir}', *overrides),
    ]
    subprocess.run(pretrain, check=True)
    knn = [*CLI, 'knn', f'--workdir={workdir}', f'--output={output}']
    subprocess.run(knn, check=True)
  found = json.loads(output.read_text())['results']
  return {
    key: round(100 * value, 2)
    for key, value in found.items()
    if key.startswith('knn_')
  }


def main():
  parser = results_file.make_parser(__doc__)
  parser.add_argument('dataset')
  parser.add_argument('folder')
  parser.add_argument('--steps', type=int, default=2000)
  parser.add_argument('--seeds', default='1,2,3')
  arguments, overrides = parser.parse_known_args()
  seeds = [int(seed) for seed in arguments.seeds.split(',')]
  runs = {precision: {} for precision in PRECISIONS}
  for seed in seeds:
    for precision in PRECISIONS:
      runs[precision][seed] = train_and_evaluate(
        precision, seed, arguments, overrides
      )
  columns = {
    precision: [row[ACCURACY] for row in rows.values()]
    for precision, rows in runs.items()
  }
  result = {
    'what': 'kNN accuracy of CIFAR-10 in percent, float32 beside bfloat16',
    'steps': arguments.steps,
    'runs': runs,
    'accuracy': ACCURACY,
    'mean': {p: round(statistics.mean(x), 2) for p, x in columns.items()},
    'range_of_seeds': {
      p: round(max(x) - min(x), 2) for p, x in columns.items()
    },
  }
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
