"""Fine-tuning from BYOL beside training from scratch, with few labels.

PYTHONPATH=. python benchmarks/semi_supervised.py WORKDIR --records=FOLDER
  [--config=evals/semisup:cpu] [--seeds=3] [--output=FILE.json]

Runs `semisup` on the encoder of WORKDIR and on that of its start, once for each
seed, of the labelled images, the classifier and the order. Both have the same
images, grid, steps and augmentation, and each selects its own point of the grid
on the held-out images. FOLDER keeps the record of each evaluation: the same
command continues.
"""

import json
import os
import pathlib
import statistics

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from benchmarks import results_file
import byol_jax

WEIGHTS = {'online': 'BYOL', 'random': 'from scratch'}


def evaluate(workdir, config, weights, seed, folder):
  """Returns the results by fraction, from a record if there is one."""
  file = pathlib.Path(folder, f'{weights}{seed}.jsonl')
  if not file.exists():
    values = {'weights': weights, 'seed': seed}
    byol_jax.semisup(workdir, config, values, log=print, output=file)
  record = json.loads(file.read_text().splitlines()[-1])
  assert (record['weights'], record['config']['seed']) == (weights, seed)
  return record


def summarize(records):
  """Returns {fraction: facts and top-1 of each start and seed} in percent."""
  found = {}
  for weights, each in records.items():
    for part in zip(*(x['results']['fractions'] for x in each), strict=True):
      row = found.setdefault(
        f'{100 * part[0]["fraction"]:g} %',
        {'images': [x['images'] for x in part]},
      )
      top1 = [round(100 * x['top1'], 1) for x in part]
      row[WEIGHTS[weights]] = {
        'top1': top1,
        'mean': round(statistics.mean(top1), 1),
        'rate': [x['rate'] for x in part],
        'valid_top1': [
          {f'{p["rate"]:g}': round(100 * p['valid_top1'], 1) for p in x['grid']}
          for x in part
        ],
        'digest': [x['digest'] for x in part],
      }
  for row in found.values():
    pairs = zip(row['BYOL']['top1'], row['from scratch']['top1'], strict=True)
    row['gain'] = [round(ours - scratch, 1) for ours, scratch in pairs]
  return found


def main():
  parser = results_file.make_parser(__doc__)
  parser.add_argument('workdir')
  parser.add_argument('--records', required=True)
  parser.add_argument('--config', default='evals/semisup:cpu')
  parser.add_argument('--seeds', type=int, default=3)
  options = parser.parse_args()
  pathlib.Path(options.records).mkdir(parents=True, exist_ok=True)
  records = {
    weights: [
      evaluate(options.workdir, options.config, weights, seed, options.records)
      for seed in range(options.seeds)
    ]
    for weights in WEIGHTS
  }
  config = dict(records['online'][0]['config'])
  results_file.write_result(
    {
      'test_images': records['online'][0]['results']['test'],
      'fractions': summarize(records),
      'config': {
        key: value
        for key, value in config.items()
        if key not in ('dataset', 'data_dir', 'weights', 'seed')
      },
    },
    options.output,
  )


if __name__ == '__main__':
  main()
