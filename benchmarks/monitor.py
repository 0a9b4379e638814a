"""What the monitor logs of healthy and of failed runs, beside their kNN.

PYTHONPATH=. python benchmarks/monitor.py train DIR NAME ...
PYTHONPATH=. python benchmarks/monitor.py
  --output=benchmarks/results/monitor.json collect DIR [WORKDIR ...]

`train` makes the runs of `RUNS` in DIR/NAME, each with the kNN accuracy of its
encoder and of the two random ones; `collect` judges each run, and those of
other workdirs with such results, from its scalars.jsonl or, of one that lacks
the scalars of the monitor, from its checkpoints, kept in DIR/NAME.json. A run
has failed if its kNN (k = 20) is not above that of the better random encoder by
more than half the width of its 95 % interval.
The limits were last set with all these runs known.
"""

from collections.abc import Callable
import json
import math
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
  'rate_1.5': {'epochs': 6.0, 'schedule.base_rate': 3e-3},  # 375 steps
  'no_predictor': {**_HEALTHY, 'network.predictor': ()},
  'no_predictor_lars': {
    **{**_FAILED, **_LARS, 'schedule.base_rate': 1.2},
    'network.predictor': (),
  },
  'tau_0': {**_FAILED, **_CONSTANT, 'target.base_tau': 0.0},
  'rate_tiny': {'batch_size': 16, 'epochs': 5.0, 'schedule.base_rate': 1e-7},
}
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
  from byol_jax.checkpoints import checkpointer
  from byol_jax.data import from_config
  from byol_jax.distributed import packing, placement
  from byol_jax.evaluation import pretrained
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


def _keep(path: pathlib.Path, make: Callable[[], Any]) -> Any:
  """Returns what `make` does, from `path` if it was made before."""
  if not path.exists():
    path.write_text(json.dumps(make()))
  return json.loads(path.read_text())


def read_knn(workdir: pathlib.Path) -> tuple[dict[str, float], int]:
  """Returns the accuracies by weights, and the number of test images."""
  if (workdir / 'report.json').exists():
    report = json.loads((workdir / 'report.json').read_text())
    knn = {w: report[w][ACCURACY] for w in WEIGHTS}
    return knn, report['online']['queries']
  text = (workdir / 'evaluations.jsonl').read_text()
  records = [json.loads(line) for line in text.splitlines()]
  found = {x['weights']: x['results'] for x in records}
  knn = {w: results[ACCURACY] for w, results in found.items()}
  return knn, found['online']['queries']


def judge(root: pathlib.Path, workdir: pathlib.Path) -> dict[str, Any]:
  """Returns what a run logged, when it was flagged, and whether it failed."""
  from byol_jax.training import monitor, scalars

  logged = [x for x in scalars.read(workdir) if 'projection_std' in x]
  lines = [x for x in logged if 'target_margin' in x]
  is_logged = bool(lines)
  if not is_logged:
    lines = _keep(root / f'{workdir.name}.json', lambda: measure(workdir))
    logged = sorted([*logged, *lines], key=lambda line: line['step'])
  found = (
    (int(logged[i]['step']), text)
    for i in range(len(logged))
    if (text := monitor.find_collapse(logged[: i + 1]))
  )
  flagged_at, verdict = next(found, (None, None))
  knn, queries = read_knn(workdir)
  best = max(knn['random'], knn['random_calibrated'])
  half_width = 1.96 * math.sqrt(best * (1 - best) / queries)
  kept = lines[:: max(1, len(lines) // POINTS)]
  return {
    'steps': int(lines[-1]['step']),
    'lines': 'of the log' if is_logged else 'of three batches a checkpoint',
    'knn': knn,
    'half_width': round(half_width, 3),
    'failed': knn['online'] <= best + half_width,
    'flagged_at': flagged_at,
    'verdict': verdict,
    'curve': {
      name: [float(f'{line[name]:.4g}') for line in kept]
      for name in ('step', *SCALARS)
      if all(name in line for line in kept)
    },
  }


def collect(root: pathlib.Path, workdirs: list[pathlib.Path]) -> dict[str, Any]:
  """Returns the judgements of all runs, and how many were right."""
  runs = {path.name: judge(root, path) for path in workdirs}
  for name in runs.keys() & RUNS.keys():
    runs[name] = {'changes': RUNS[name]} | runs[name]
  failed = {name for name, run in runs.items() if run['failed']}
  flagged = {name for name, run in runs.items() if run['flagged_at']}
  return {
    'operations': _keep(root / 'cost.json', count_cost),
    'failed': len(failed),
    'failed_not_flagged': sorted(failed - flagged),
    'healthy': len(runs) - len(failed),
    'healthy_flagged': sorted(flagged - failed),
    'latest_flag': max(
      [runs[x]['flagged_at'] for x in failed & flagged] or [0]
    ),
    'runs': runs,
  }


def count_cost() -> dict[str, Any]:
  """Returns the floating-point operations of a step and of the monitor.

  Of `pretrain:300` with 16 images, as lowered; nothing is compiled or run.
  """
  import jax
  import jax.numpy as jnp

  from byol_jax import configuration, experiment, parallel

  config = configuration.load('pretrain:300', {'batch_size': 16})
  method = experiment.build(config, 1_281_167, 1000)
  state = jax.eval_shape(method.initial_state)
  view = jax.ShapeDtypeStruct((16, 224, 224, 3), jnp.float32)
  labels = jax.ShapeDtypeStruct((16,), jnp.int32)
  batch = {'view1': view, 'view2': view, 'labels': labels}
  step, monitor = (
    parallel.on_one_device(function).lower(state, batch).cost_analysis()
    for function in (method.update, method.monitor)
  )
  share = monitor['flops'] / step['flops']
  return {
    'monitor_by_step': round(share, 3),
    'of_training': round(share / config.log.every_steps, 5),
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
  result = collect(args.root, [*made, *map(pathlib.Path, args.names)])
  results_file.write_result(result, args.output)


if __name__ == '__main__':
  main()
