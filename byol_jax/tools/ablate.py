"""Runs rows of a table of ablations in small, beside the paper's numbers.

A row changes a base, such as `small/cifar10:cpu`, as it changes the paper's
setting. Rows that come to the same configuration are one run. Each is an
ordinary workdir; ablation.json in it says that it is done.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import hashlib
import json
import math
import pathlib
import statistics
from typing import Any, NamedTuple

import jax
from ml_collections import config_dict

from byol_jax import api, configuration, errors, files, ranges
from byol_jax.checkpoints import checkpointer
from byol_jax.data import from_config
from byol_jax.distributed import placement
from byol_jax.evals import features
from byol_jax.evaluation import pretrained
from byol_jax.tools import ablation_table, report
from byol_jax.training import monitor, provenance, scalars, workdir

Log = Callable[[str], None]
Evaluations = Mapping[str, config_dict.ConfigDict]  # of knn and linear
BASELINE = 'ablations/baseline'
RECORD = 'ablation.json'
KNN, LINEAR = ablation_table.KNN, ablation_table.LINEAR
RANDOM = ('random', 'random_calibrated')
# What the encoder before its training depends on, beside its network.
_OF_START = ('seed', 'dataset', 'data_dir', 'image_size', 'batch_size', 'data')
_HEADS = ('projector', 'predictor', 'head_norm')
# Scalars that are not of the method, or follow from the configuration.
_NOT_IN_CURVE = (
  *('time', 'images_per_second', 'data_wait', 'learning_rate', 'tau'),
)
_DIGITS = 12  # of the digest in the name of a workdir


class Plan(NamedTuple):
  """What to run: the rows of a table on a base."""

  table: str  # as in configs/ablations/
  rows: Mapping[str, Any]  # name -> configs.ablations.baseline.Row
  base: str  # a preset
  overrides: Sequence[str]  # of the base, as on the command line
  seeds: int  # as many, from that of the base on
  evaluations: Mapping[str, str]  # protocol -> preset, of `knn` and `linear`


class Trial(NamedTuple):
  """A row with a seed."""

  row: str
  seed: int
  config: config_dict.ConfigDict
  folder: pathlib.Path  # the workdir of its run


def make_config(
  base: str, overrides: Sequence[str], changes: Mapping[str, Any]
) -> config_dict.ConfigDict:
  """Returns a base with a row's changes.

  Args:
    base: a preset.
    overrides: of it, as on the command line.
    changes: of the row, to the paper's setting; see `scale_changes`.

  Raises:
    ConfigError: a value cannot be used with this base.
  """
  values = scale_changes(changes, _load(base, tuple(overrides)))
  words = [f'--config.{key}={value}' for key, value in values.items()]
  return configuration.load(base, [*overrides, *words], 'pretrain')


@functools.cache
def _load(spec: str, overrides: tuple[str, ...] = ()) -> config_dict.ConfigDict:
  return configuration.load(spec, overrides, 'pretrain')


def scale_changes(
  changes: Mapping[str, Any], base: config_dict.ConfigDict
) -> dict[str, Any]:
  """Returns what a row changes in a base, {'section.key': value}.

  The learning rate, the weight decay, 1 - tau and the widths of the heads are
  to the base as the row's are to the paper's setting; all else is the row's.
  """
  paper = _load(BASELINE)
  values = dict(changes)
  for key, value in changes.items():
    section, _, name = key.partition('.')
    own, usual = base[section].get(name), paper[section].get(name)
    if key in ('schedule.base_rate', 'optimizer.weight_decay'):
      values[key] = own * (value / usual)  # exactly `own` for the usual value
    elif key == 'target.base_tau':
      share = (1 - value) * (1 - own) / (1 - usual)
      values[key] = max(0.0, round(1 - share, 9))
    elif key in ('network.projector', 'network.predictor') and own:
      widths = [width * own[0] // usual[0] for width in value[:-1]]
      widths += [width * own[-1] // usual[-1] for width in value[-1:]]
      values[key] = tuple(max(1, width) for width in widths)
  if values.get('network.projector') == ():  # the representation is predicted
    channels = ranges.CHANNELS[base.network.encoder]
    size = max(1, round(channels * base.network.width))
    values['network.predictor'] = (*values['network.predictor'][:-1], size)
  return values


def list_trials(plan: Plan, folder: pathlib.Path) -> list[Trial]:
  """Returns every row with every seed, seed by seed.

  Trials of the same configuration have the same workdir, whose name is that of
  the first of them in any table.

  Raises:
    ConfigError: see `make_config`.
  """
  first = _load(plan.base, tuple(plan.overrides)).seed
  names = {path.name[-_DIGITS:]: path.name for path in folder.glob('*-seed*')}
  trials = []
  for seed in range(first, first + plan.seeds):
    overrides = [*plan.overrides, f'--config.seed={seed}']
    for row, (_, changes, *_) in plan.rows.items():
      config = make_config(plan.base, overrides, changes)
      digest = _digest(
        provenance.flatten_config(
          config.to_dict(), workdir.KEYS_THAT_MAY_CHANGE
        )
      )
      name = names.setdefault(digest, f'{plan.table}-{row}-seed{seed}-{digest}')
      trials.append(Trial(row, seed, config, folder / name))
  return trials


def _digest(values: Any) -> str:
  text = json.dumps(values, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def run(
  plan: Plan, output: str, part: tuple[int, int] = (0, 1), log: Log = print
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
  with files.refuse_unwritable(f'workdir {errors.quote(output)}'):
    folder.mkdir(parents=True, exist_ok=True)
  evaluations = _load_evaluations(plan)
  trials = list_trials(plan, folder)
  _check_images(trials[0].config)
  _check_batches(trials)
  unique: dict[pathlib.Path, Trial] = {}
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
      ablation_table.write(_make_table(plan, trials), folder)
  table = _make_table(plan, trials)
  ablation_table.write(table, folder)
  return table


def _load_evaluations(plan: Plan) -> dict[str, config_dict.ConfigDict]:
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


def _is_done(trial: Trial, evaluations: Evaluations) -> bool:
  """Returns whether a run was measured by the same evaluations."""
  file = trial.folder / RECORD
  if not file.exists():
    return False
  record = json.loads(file.read_bytes())
  return record.get('evaluations') == _list_values(evaluations)


def _check_batches(trials: Sequence[Trial]) -> None:
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


def _run_trial(trial: Trial, evaluations: Evaluations, log: Log) -> None:
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
    **find_collapse(lines),
    'results': None,
    'evaluations': _list_values(evaluations),
    'random': _evaluate_start(trial, evaluations),
    'images_per_second': round(statistics.median(rates or [0])),
    'curve': _make_curve(lines),
  }
  if checkpointer.list_steps(trial.folder / 'checkpoints'):
    try:
      record['results'] = _evaluate(trial.folder, 'online', evaluations)
    except errors.DivergedError as error:  # of the representations
      record['diverged'] = str(error)
  files.write_json(trial.folder / RECORD, record)
  jax.clear_caches()  # the next one has other programs


def find_collapse(lines: Sequence[Mapping[str, float]]) -> dict[str, Any]:
  """Returns where the lines of a log first show a collapse, and what it is.

  Returns:
    `collapsed_at`, a step, and `collapse`, a sentence; None without one.
  """
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


def _evaluate_start(trial: Trial, evaluations: Evaluations) -> dict[str, float]:
  """Returns, of each accuracy, the one of the better random encoder.

  Trials whose encoders start alike share them.
  """
  config = trial.config.to_dict()
  values = {key: config[key] for key in _OF_START}
  network = {k: x for k, x in config['network'].items() if k not in _HEADS}
  digest = _digest([values, network, _list_values(evaluations)])
  file = trial.folder.parent / 'starts' / f'{digest}.json'
  if not file.exists():
    found = {x: _evaluate(trial.folder, x, evaluations) for x in RANDOM}
    file.parent.mkdir(exist_ok=True)
    files.write_json(file, found)
  found = json.loads(files.read_file(file))
  return {k: max(found[x][k] for x in RANDOM) for k in (KNN, LINEAR)}


def _make_table(plan: Plan, trials: Sequence[Trial]) -> dict[str, Any]:
  """Returns the results so far, as TABLE.json holds them."""
  rows = {}
  for name, (top1, changes, top5, spread) in plan.rows.items():
    runs = [
      {'seed': x.seed, 'run': x.folder.name, **json.loads(file.read_bytes())}
      for x in trials
      if x.row == name and (file := x.folder / RECORD).exists()
    ]
    paper = {'top1': top1, 'top5': top5, 'spread': spread}
    rows[name] = {'paper': paper, 'changes': dict(changes), 'runs': runs}
  return {
    'table': plan.table,
    'base': plan.base,
    'overrides': [*plan.overrides],
    'evaluations': dict(plan.evaluations),
    'versions': provenance.list_versions() | provenance.find_commit(),
    **ablation_table.compare(rows),
    'rows': rows,
  }
