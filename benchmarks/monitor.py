"""What the monitor logs of healthy and of failed runs, beside their kNN.

PYTHONPATH=. python benchmarks/monitor.py train DIR NAME ...
PYTHONPATH=. python benchmarks/monitor.py
  --output=benchmarks/results/monitor.json collect DIR [WORKDIR ...]

`train` makes the runs of `RUNS` in DIR/NAME, each with the kNN accuracy of its
encoder and of the two random ones; `collect` judges each run, and those of
other workdirs with such results, from its scalars.jsonl or, of one that lacks
the scalars of the monitor, from its checkpoints. A run has failed if
its kNN (k = 20) is not above that of the better random encoder. The thresholds
were chosen on the runs in `CHOSEN_ON`; the others show whether they hold.
"""

import json
import pathlib
import time
from typing import Any

from benchmarks import results_file

# Name -> what is changed in the preset `shapes`.
_HEALTHY = {'epochs': 16.0}  # 1,000 steps
_FAILED = {'epochs': 5.0}  # 312 steps
_CONSTANT = {'target.schedule': 'constant'}
_LARS = {
  'optimizer.name': 'lars',
  'optimizer.trust_coefficient': 0.02,
  'schedule.scale_with_batch': True,
}
RUNS: dict[str, dict[str, Any]] = {
  'rate_half': {**_HEALTHY, 'schedule.base_rate': 1e-3},
  'rate_double': {**_HEALTHY, 'schedule.base_rate': 4e-3},
  'lars_rate_half': {**_HEALTHY, **_LARS, 'schedule.base_rate': 0.6},
  'tau_0.9': {**_HEALTHY, 'target.base_tau': 0.9},
  'no_predictor': {**_HEALTHY, 'network.predictor': ()},
  'no_predictor_lars': {
    **{**_FAILED, **_LARS, 'schedule.base_rate': 1.2},
    'network.predictor': (),
  },
  'tau_0': {**_FAILED, **_CONSTANT, 'target.base_tau': 0.0},
  'tau_1': {**_FAILED, **_CONSTANT, 'target.base_tau': 1.0},
  'rate_tiny': {'batch_size': 16, 'epochs': 5.0, 'schedule.base_rate': 1e-7},
  'rate_huge': {**_FAILED, 'schedule.base_rate': 1.0},
}
# Those of which the limits in `training.monitor.SIGNS` were read.
CHOSEN_ON = ('rate_half', 'no_predictor', 'rate_tiny')
WEIGHTS = ('online', 'random', 'random_calibrated')
ACCURACY = 'knn_k20_t0.1'
SCALARS = (
  *('projection_std', 'effective_rank', 'target_cosine', 'target_margin'),
  *('prediction_norm', 'dead_units', 'byol_loss'),
)
POINTS = 10


def train(root: pathlib.Path, names: list[str]) -> None:
  """Makes runs and their evaluations, in this process."""
  import byol_jax

  for name in names:
    began, workdir = time.monotonic(), root / name
    always = {'log.every_steps': 50, 'log.tensorboard': False}
    byol_jax.pretrain('shapes', workdir, {**always, **RUNS[name]})
    for weights in WEIGHTS:
      byol_jax.knn(workdir, 'evals/knn', {'weights': weights})
    print(f'{name}: {time.monotonic() - began:.0f} s', flush=True)


def measure(workdir: pathlib.Path) -> list[dict[str, float]]:
  """Returns lines of a run without the monitor: of its checkpoints.

  The spread of the projections is that of the log line of the step, if any.
  """
  from byol_jax import pretrained
  from byol_jax.checkpoints import checkpointer
  from byol_jax.data import from_config
  from byol_jax.distributed import packing, placement
  from byol_jax.training import multi_step, scalars

  run = pretrained.open_run(workdir)
  dataset = from_config.make_image_set(run.config, 'train')
  calls = multi_step.StreamedCalls(dataset.view_batches)
  monitor = calls.compile_monitor(run.experiment.monitor)
  logged = {line['step']: line for line in scalars.read(workdir)}
  lines = []
  for step in checkpointer.list_steps(run.checkpoints):
    _, state = pretrained._read_state(run, step)
    state = placement.replicate(packing.pack(state))
    span = range(step, step + 3)  # one line for each batch
    batches = calls.batches(run.config.batch_size, span)
    for number, batch in zip(span, placement.prefetch(batches)):
      found = placement.fetch_first_replica(monitor(state, batch))
      line = logged.get(step, {}) | {k: float(x) for k, x in found.items()}
      lines.append(line | {'step': number})
  return lines


def read_knn(workdir: pathlib.Path) -> dict[str, float]:
  """Returns the accuracies by weights."""
  if (workdir / 'report.json').exists():
    report = json.loads((workdir / 'report.json').read_text())
    return {w: report[w][ACCURACY] for w in WEIGHTS}
  text = (workdir / 'evaluations.jsonl').read_text()
  records = [json.loads(line) for line in text.splitlines()]
  return {
    x['weights']: x['results'][ACCURACY]
    for x in records
    if ACCURACY in x['results']
  }


def judge(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns what a run logged, when it was flagged, and whether it failed."""
  from byol_jax.training import monitor, scalars

  lines = [x for x in scalars.read(workdir) if 'target_margin' in x]
  is_logged = bool(lines)
  lines = lines or measure(workdir)
  found = (
    (int(lines[i]['step']), text)
    for i in range(len(lines))
    if (text := monitor.find_collapse(lines[: i + 1]))
  )
  flagged_at, verdict = next(found, (None, None))
  knn = read_knn(workdir)
  kept = lines[:: max(1, len(lines) // POINTS)]
  return {
    'steps': int(lines[-1]['step']),
    'lines': 'of the log' if is_logged else 'of three batches a checkpoint',
    'knn': knn,
    'failed': knn['online'] <= max(knn['random'], knn['random_calibrated']),
    'flagged_at': flagged_at,
    'verdict': verdict,
    'limits_chosen_on_it': workdir.name in CHOSEN_ON,
    'curve': {
      name: [float(f'{line[name]:.4g}') for line in kept]
      for name in ('step', *SCALARS)
      if all(name in line for line in kept)
    },
  }


def collect(workdirs: list[pathlib.Path]) -> dict[str, Any]:
  """Returns the judgements of all runs, and how many were right."""
  runs = {path.name: judge(path) for path in workdirs}
  for name in runs.keys() & RUNS.keys():
    runs[name] = {'changes': RUNS[name]} | runs[name]
  failed = {name for name, run in runs.items() if run['failed']}
  flagged = {name for name, run in runs.items() if run['flagged_at']}
  return {
    'failed': len(failed),
    'failed_not_flagged': sorted(failed - flagged),
    'healthy': len(runs) - len(failed),
    'healthy_flagged': sorted(flagged - failed),
    'latest_flag': max(
      [runs[x]['flagged_at'] for x in failed & flagged] or [0]
    ),
    'runs': runs,
  }


def main() -> None:
  """Trains runs, or writes the results of all of them."""
  parser = results_file.make_parser(__doc__)
  parser.add_argument('verb', choices=('train', 'collect'))
  parser.add_argument('root', type=pathlib.Path)
  parser.add_argument('names', nargs='*')
  args = parser.parse_args()
  if args.verb == 'train':
    train(args.root, args.names or list(RUNS))
    return
  made = [args.root / name for name in RUNS]
  made = [path for path in made if (path / 'evaluations.jsonl').exists()]
  result = collect([*made, *map(pathlib.Path, args.names)])
  results_file.write_result(result, args.output)


if __name__ == '__main__':
  main()
