"""Runs rows of a table of ablations in small, beside the paper's numbers.

A row changes a base, such as `small/cifar10:cpu`, as it changes the paper's
setting. Rows that come to the same configuration are one run. Each is an
ordinary workdir; ablation.json in it says that it is done.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import math
import pathlib
import statistics
from typing import Any

import jax
from ml_collections import config_dict

from byol_jax import api, configuration, errors, files
from byol_jax.checkpoints import checkpointer
from byol_jax.data import from_config
from byol_jax.distributed import placement
from byol_jax.evals import features
from byol_jax.evaluation import pretrained
from byol_jax.tools import ablation_plan as plan_lib, ablation_table, report
from byol_jax.training import monitor, provenance, scalars

Log = Callable[[str], None]
Evaluations = Mapping[str, config_dict.ConfigDict]  # of knn and linear
RECORD = 'ablation.json'
KNN, LINEAR = ablation_table.KNN, ablation_table.LINEAR
RANDOM = ('random', 'random_calibrated')
# What the encoder before its training depends on: keys that start so, without
# those of the heads.
_OF_START = ('seed', 'dataset', 'image_size', 'batch_size', 'data.', 'network.')
_HEADS = tuple(
  f'network.{key}' for key in ('projector', 'predictor', 'head_norm')
)
# Scalars that are not of the method, or follow from the configuration.
_NOT_IN_CURVE = (*('time', *scalars.RATES, 'learning_rate', 'tau'),)


def run(
  plan: plan_lib.Plan,
  output: str,
  part: tuple[int, int] = (0, 1),
  log: Log = print,
) -> dict[str, Any]:
  """Runs, evaluates and tabulates; the same call goes on after an end.

  Args:
    plan: what to run.
    output: the folder of the workdirs, and of TABLE.json, .md and .svg, which
      are written after each run.
    part: (i, n) runs every n-th run from the i-th on, so that several processes
      share a folder.
    log: called with lines.

  Returns:
    What TABLE.json holds.

  Raises:
    UserError: a configuration or the images cannot be used, or a signal
      stopped the training, whose state is saved. A run that diverges or
      collapses is a result.
  """
  if '://' in output:
    raise errors.ConfigError(
      'workdir: expected a folder of this machine, found'
      f' {errors.quote(output)}'
    )
  folder = files.expand_home(output)
  evaluations = _load_evaluations(plan)
  trials = plan_lib.list_trials(plan, folder)
  _check_images(trials[0].config)
  _check_batches(trials)
  with files.refuse_unwritable(f'workdir {errors.quote(output)}'):
    folder.mkdir(parents=True, exist_ok=True)
  unique: dict[pathlib.Path, plan_lib.Trial] = {}
  for trial in trials:
    unique.setdefault(trial.folder, trial)
  runs = [*unique.values()][part[0] :: part[1]]
  for number, trial in enumerate(runs, 1):
    name = f'run {number} of {len(runs)}, {trial.folder.name}'
    if _is_done(trial, evaluations):
      log(f'{name}: done before')
    else:
      log(name)
      _run_trial(trial, evaluations, log)
      ablation_table.write(_make_table(plan, trials, folder), folder)
  table = _make_table(plan, trials, folder)
  ablation_table.write(table, folder)
  return table


def _load_evaluations(
  plan: plan_lib.Plan,
) -> dict[str, config_dict.ConfigDict]:
  """Returns the configurations of kNN and linear evaluation.

  Raises:
    ConfigError: the one of kNN does not measure what the table shows.
  """
  configs = {
    name: configuration.load(spec, kind=f'evals/{name}')
    for name, spec in plan.evaluations.items()
  }
  if 20 not in configs['knn'].ks or 0.1 not in configs['knn'].temperatures:
    raise errors.ConfigError(
      f'knn: {errors.quote(plan.evaluations["knn"])}: expected 20 among ks and'
      ' 0.1 among temperatures, which the table shows'
    )
  return configs


def _list_values(evaluations: Evaluations) -> Any:
  """Returns what the evaluations do, as JSON has it."""
  values = {name: config.to_dict() for name, config in evaluations.items()}
  return json.loads(json.dumps(values))


def _is_done(trial: plan_lib.Trial, evaluations: Evaluations) -> bool:
  """Returns whether a run was measured by the same evaluations."""
  record = json.loads(_read_record(trial) or '{}')
  return record.get('evaluations') == _list_values(evaluations)


def _read_record(trial: plan_lib.Trial) -> bytes:
  """Returns the record of a run; empty before it is done."""
  file = trial.folder / RECORD
  return file.read_bytes() if file.exists() else b''


def _check_batches(trials: Sequence[plan_lib.Trial]) -> None:
  """Raises ConfigError, with the row, for a batch that cannot be divided."""
  for trial in trials:
    try:
      placement.check_batch_size(
        *('batch_size', trial.config.batch_size),
        accumulate=trial.config.batch.accumulate,
        bn_group=trial.config.network.bn_group,
      )
    except errors.ConfigError as error:
      raise errors.ConfigError(
        f'row {trial.row}: {error}; leave it out by --rows, or take another'
        ' --base'
      ) from error


def _check_images(config: config_dict.ConfigDict) -> None:
  """Raises DataError before any training if the images allow no accuracy."""
  test = from_config.open_split(from_config.resolve_paths(config), 'test')
  if (test.num_classes or 0) < 2:
    raise errors.DataError(
      f'dataset: {errors.quote(config.dataset)}: kNN and linear accuracy need'
      f' labels of at least two classes, found {test.num_classes or 0}'
    )


def _run_trial(
  trial: plan_lib.Trial, evaluations: Evaluations, log: Log
) -> None:
  """Trains, evaluates and records one run."""
  diverged = None
  try:
    api.pretrain(trial.config, trial.folder)
  except errors.DivergedError as error:
    diverged = str(error)
    log(diverged)
  lines = [x for x in scalars.read(trial.folder) if 'byol_loss' in x]
  rates = [line['images_per_second'] for line in lines[1:]]
  record = {
    'steps': int(lines[-1]['step']) if lines else 0,
    'diverged': diverged,
    'results': None,
    'evaluations': _list_values(evaluations),
    'random': _evaluate_start(trial, evaluations),
    'images_per_second': round(statistics.median(rates or [0])),
    'curve': _make_curve(lines),
    'versions': provenance.list_versions() | provenance.find_commit(),
  }
  if checkpointer.list_steps(trial.folder / 'checkpoints'):
    try:
      record['results'] = _evaluate(trial.folder, 'online', evaluations)
    except errors.DivergedError as error:  # of the representations
      record['diverged'] = str(error)
  files.write_json(trial.folder / RECORD, record)
  jax.clear_caches()  # the next one has other programs


def find_collapse(curve: Mapping[str, Any]) -> dict[str, Any]:
  """Returns where the curve of a record first shows a collapse, and what it is.

  Returns:
    `collapsed_at`, a step, and `collapse`, a sentence; None without one.
  """
  lines = [dict(zip(curve['columns'], row)) for row in curve['rows']]
  for end in range(1, len(lines) + 1):
    found = monitor.find_collapse(lines[:end])
    if found is not None:
      return {'collapsed_at': int(lines[end - 1]['step']), 'collapse': found}
  return {'collapsed_at': None, 'collapse': None}


def _make_curve(lines: Sequence[Mapping[str, float]]) -> dict[str, Any]:
  known = scalars.order(lines[0] if lines else {})
  columns = ['step', *(x for x in known if x not in ('step', *_NOT_IN_CURVE))]
  rows = [[_round(line.get(k, math.nan)) for k in columns] for line in lines]
  return {'columns': columns, 'rows': rows}


def _round(value: float) -> float | None:
  """Returns four digits; None of what is no number in JSON."""
  return float(f'{value:.4g}') if math.isfinite(value) else None


def _evaluate(
  folder: pathlib.Path, weights: str, evaluations: Evaluations
) -> dict[str, float]:
  """Returns the accuracies of an encoder of a run, in percent."""
  found = pretrained.open_run(folder)
  encoder = pretrained.open_encoder(found, weights)
  encoder = encoder._replace(store=features.FeatureStore())
  configs = {
    name: x.copy_and_resolve_references() for name, x in evaluations.items()
  }
  results, _ = report.measure_encoder(found, encoder, configs)
  return {key: round(100 * results[key], 2) for key in (KNN, LINEAR)}


def _evaluate_start(
  trial: plan_lib.Trial, evaluations: Evaluations
) -> dict[str, float]:
  """Returns, of each accuracy, the one of the better random encoder.

  Trials whose encoders start alike share them.
  """
  values = {
    key: value
    for key, value in plan_lib.list_changes(trial.config).items()
    if key.startswith(_OF_START) and key not in _HEADS
  }
  digest = plan_lib.digest([values, _list_values(evaluations)])
  file = trial.folder.parent / 'starts' / f'{digest}.json'
  if not file.exists():
    found = {x: _evaluate(trial.folder, x, evaluations) for x in RANDOM}
    file.parent.mkdir(exist_ok=True)
    files.write_json(file, found)
  found = json.loads(files.read_file(file))
  return {k: max(found[x][k] for x in RANDOM) for k in (KNN, LINEAR)}


def _make_table(
  plan: plan_lib.Plan,
  trials: Sequence[plan_lib.Trial],
  folder: pathlib.Path,
) -> dict[str, Any]:
  """Returns the results so far, as TABLE.json holds them.

  Rows and seeds of earlier calls stay in it.
  """
  what = {
    'table': plan.table,
    'base': plan.base,
    'overrides': [*plan.overrides],
    'evaluations': dict(plan.evaluations),
  }
  earlier: Mapping[str, Any] = {}
  if (written := folder / f'{plan.table}.json').exists():
    found = json.loads(written.read_bytes())
    if found.items() >= what.items():
      earlier = found['rows']
  rows = {}
  listed = ablation_table.list_tables()[plan.table]
  for name, (top1, changes, top5, spread) in listed.items():
    before = earlier.get(name, {'runs': ()})['runs']
    runs = {run['seed']: run for run in before} | {
      x.seed: {'seed': x.seed, 'run': x.folder.name, **json.loads(file)}
      for x in trials
      if x.row == name and (file := _read_record(x))
    }
    runs = {k: x | find_collapse(x['curve']) for k, x in runs.items()}
    if name not in plan.rows and not runs:
      continue
    paper = {'top1': top1, 'top5': top5, 'spread': spread}
    changes, ordered = dict(changes), [runs[seed] for seed in sorted(runs)]
    rows[name] = {'paper': paper, 'changes': changes, 'runs': ordered}
  return {
    **what,
    **ablation_table.compare(rows),
    'rows': rows,
  }
