"""Several protocols on one encoder, beside the paper's numbers."""

from collections.abc import Callable, Iterator, Mapping
import functools
import hashlib
import itertools
import json
import os
import pathlib
import time
from typing import Any, NamedTuple

import jax
from ml_collections import config_dict

from byol_jax import configuration, errors, files
from byol_jax.checkpoints import digests
from byol_jax.convert import from_file
from byol_jax.data import catalog
from byol_jax.distributed import processes
from byol_jax.evals import features, paper_results, transfer
from byol_jax.evaluation import (
  comparison,
  origins,
  pretrained,
  protocols,
  table,
)

JSON, MARKDOWN = 'suite.json', 'suite.md'
RANDOM = 'random_calibrated'
# Of all protocols together, in the configuration of a suite.
COMMON = (
  *('dataset', 'data_dir', 'labels', 'weights'),
  *('calibration_batches', 'seed'),
)
Log = Callable[[str], None]


class Task(NamedTuple):
  """One evaluation."""

  protocol: str  # of `protocols.PROTOCOLS`
  title: str  # names it where it has no result
  dataset: str | None  # None: that of the pretraining
  config: config_dict.ConfigDict  # of the protocol


class Subject(NamedTuple):
  """What is evaluated."""

  weights: str  # see `pretrained.open_encoder`
  key: str  # changes when the weights do
  # The same at each call.
  open: Callable[[], tuple[origins.Origin, features.Encoder]]


def suite(
  workdir: str | os.PathLike,
  config: str | config_dict.ConfigDict = 'evals/suite',
  overrides: Mapping[str, Any] | None = None,
  log: Log = lambda text: None,
  *,
  step: int | None = None,
  output: str | os.PathLike | None = None,
) -> dict[str, Any]:
  """Evaluates an encoder by several protocols; arguments as of `knn`.

  What suite.json holds of the same configuration and weights is not measured
  again. An evaluation that fails leaves a row with the reason; in a job of
  several processes its error ends the job.

  Args:
    workdir, config, overrides, log, step: see `knn`.
    output: the folder of suite.json and suite.md; by default the workdir. A
      file of weights needs one.

  Returns:
    `rows` of the table, accuracies in percent: dicts with `name` and either
    `error` or `value`, `half_width` (of the 95 % interval) and `num_images`,
    and, where they are known, `paper`, `difference`, `note`, `chance` and
    `random`; `table`, its lines; `failed` and `missing`, {title: reason}.

  Raises:
    UserError: the encoder cannot be opened, or a value cannot be used.
  """
  config = configuration.load_or_validate(config, overrides, 'evals/suite')
  tasks = list_tasks(config)
  folder = _find_folder(workdir, output)
  subjects = [*_open_subjects(workdir, config, step)]
  entries: dict[str, Any] = processes.broadcast_json(
    'suite', _read_entries(folder, log)
  )
  found: dict[tuple[str, str], dict[str, Any]] = {}
  result: dict[str, Any] = {}
  origin = subjects[0].open()[0]
  fingerprints: dict[str | None, Any] = {}  # by the set
  for subject, task in itertools.product(subjects, tasks):
    if task.protocol == 'online' and subject is not subjects[0]:
      continue  # its classifier was not trained
    key = _make_key(task, subject, origin)
    images = _find_images(task, origin, fingerprints)
    known = entries.get(key, {})
    # One without `images` is of a version that did not keep them.
    if 'results' in known and known.get('images', images) == images:
      log(f'suite: {task.title}, {subject.weights}: measured before')
    else:
      entry = _run_task(task, subject, folder, log)
      entries[key] = entry | {'images': images}
    found[task.title, subject.weights] = entries[key]
    result = _tabulate(config, origin, tasks, found)
    if jax.process_index() == 0:
      _write(folder, origin, subjects, config, entries, result)
  return result


def list_tasks(config: config_dict.ConfigDict) -> list[Task]:
  """Returns the evaluations of a suite, each set of `transfer` as its own.

  Raises:
    ConfigError: a protocol is unknown or named twice, or a value of its section
      or `pretrained_on` cannot be used.
  """
  if config.pretrained_on and not catalog.find_facts(config.pretrained_on):
    raise errors.ConfigError(
      'pretrained_on: expected a set that byol_jax knows by name, such as'
      f' imagenet2012, found {errors.quote(config.pretrained_on)}'
    )
  names = [name.strip() for name in config.protocols.split(',') if name.strip()]
  known = [name for name in protocols.PROTOCOLS if name in config]
  if not names or len({*names}) < len(names) or {*names} - {*known}:
    raise errors.ConfigError(
      f'protocols: expected different ones of {", ".join(known)}, with commas,'
      f' found {errors.quote(config.protocols)}'
    )
  tasks = []
  for name in names:
    values = config[name].to_dict() | {key: config[key] for key in COMMON}
    sets = [(name, config.dataset, values)]
    if name == 'transfer':
      del values['dataset']
      sets = [
        (f'transfer {transfer.shorten_name(x)}', x, values | {'datasets': x})
        for x in transfer.list_names(values['datasets'])
      ]
    for title, dataset, changed in sets:
      own = config_dict.ConfigDict(changed)
      own = configuration.validate(own, f'evals/{name}')
      tasks.append(Task(name, title, dataset, own))
  return tasks


def _find_folder(
  workdir: str | os.PathLike, output: str | os.PathLike | None
) -> pathlib.Path:
  """Returns where the results go, and makes the folder.

  Raises:
    ConfigError: a file of weights without `output`.
    DataError: it is no folder, or cannot be made.
  """
  files.check_path('workdir', workdir)
  if output is None:
    if from_file.find_file(workdir) is not None:
      raise errors.ConfigError(
        f'output: {errors.quote(workdir)} is no workdir; give a folder for'
        f' {JSON} and {MARKDOWN}, --output=DIR'
      )
    return files.expand_home(workdir)
  files.check_path('output', output)
  folder = files.expand_home(output)
  with files.refuse_unwritable(f'output {errors.quote(output)}'):
    folder.mkdir(parents=True, exist_ok=True)
  return folder


def _open_subjects(
  workdir: str | os.PathLike, config: config_dict.ConfigDict, step: int | None
) -> Iterator[Subject]:
  """Yields the encoder, and the random one beside it."""

  @functools.cache
  def open_encoder(
    weights: str, step: int | None
  ) -> tuple[origins.Origin, features.Encoder]:
    batches = config.calibration_batches
    origin, encoder = origins.open_origin(
      workdir, weights, calibration_batches=batches, step=step
    )
    return origin, encoder._replace(store=features.FeatureStore())

  origin, encoder = open_encoder(config.weights, step)
  if config.beside_random and not isinstance(origin, pretrained.Run):
    raise errors.ConfigError(
      f'beside_random: {errors.quote(workdir)} is no workdir, whose random'
      ' weights are known; give --config.beside_random=False'
    )
  key = digests.digest_trees(encoder.params, encoder.state)
  reopen = functools.partial(open_encoder, config.weights, step)
  yield Subject(config.weights, key, reopen)
  if config.beside_random:
    # Not opened if all of its evaluations are done: it takes forward passes.
    key = f'{RANDOM} {config.calibration_batches}'
    yield Subject(RANDOM, key, functools.partial(open_encoder, RANDOM, None))


def _make_key(task: Task, subject: Subject, origin: origins.Origin) -> str:
  """Returns what an evaluation depends on, in hexadecimal."""
  parts = [
    *(task.protocol, subject.weights, subject.key),
    *(task.config.to_dict(), origin.config.to_dict()),
  ]
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _find_images(
  task: Task, origin: origins.Origin, known: dict[str | None, Any]
) -> Any:
  """Returns the fingerprints of an evaluation's images; `known` keeps them."""
  dataset = None
  if task.protocol == 'transfer' and task.dataset is not None:
    dataset = catalog.TRANSFER_SETS.get(task.dataset, task.dataset)
  if dataset not in known:
    found = origins.list_fingerprints(origin, task.config, dataset)
    known[dataset] = processes.broadcast_json('suite/images', found)
  return known[dataset]


def _run_task(
  task: Task, subject: Subject, folder: pathlib.Path, log: Log
) -> dict[str, Any]:
  """Evaluates; returns what suite.json keeps of it."""
  log(f'suite: {task.title}, {subject.weights}')
  config = config_dict.ConfigDict(task.config)
  config.weights = subject.weights
  entry = {
    'protocol': task.protocol,
    'title': task.title,
    'weights': subject.weights,
    'config': config.to_dict(),
  }
  begin = time.monotonic()
  try:
    origin, encoder = subject.open()
    results = protocols.evaluate(
      *(task.protocol, config, origin, encoder, log), folder / protocols.RESULTS
    )
  except errors.Preempted:
    raise
  except errors.UserError as error:
    if jax.process_count() > 1:
      raise  # the others may not have it, and would wait
    log(f'suite: {task.title}, {subject.weights}: {error}')
    is_missing = task.protocol == 'transfer' and isinstance(
      error, errors.DataError
    )
    return entry | {'error': str(error), 'is_missing': is_missing}
  for text in protocols.describe_results(task.protocol, results):
    log(text)
  return entry | {'seconds': time.monotonic() - begin, 'results': results}


def _tabulate(
  config: config_dict.ConfigDict,
  origin: origins.Origin,
  tasks: list[Task],
  found: Mapping[tuple[str, str], dict[str, Any]],
) -> dict[str, Any]:
  """Returns what `suite` does, from the entries so far."""
  trained = comparison.describe_pretraining(config.pretrained_on, origin)
  rows: list[dict[str, Any]] = []
  failed: dict[str, str] = {}
  missing: dict[str, str] = {}
  for task in tasks:
    entries = {
      weights: entry
      for (title, weights), entry in found.items()
      if title == task.title
    }
    results = {
      weights: entry['results']
      for weights, entry in entries.items()
      if 'results' in entry
    }
    if config.weights in results:
      dataset = task.dataset or origin.config.dataset
      rows += _make_rows(task, results, config.weights, trained, dataset)
    for weights, entry in entries.items():
      if 'error' in entry:
        name = task.title + f', {weights}' * (weights != config.weights)
        (missing if entry['is_missing'] else failed)[name] = entry['error']
        rows.append({'name': name, 'error': entry['error']})
  return {
    'rows': rows,
    'table': table.format_table(rows, config.beside_random),
    'failed': failed,
    'missing': missing,
  }


def _make_rows(
  task: Task,
  results: dict[str, dict[str, Any]],
  weights: str,
  trained: paper_results.Pretraining | None,
  dataset: str,
) -> list[dict[str, Any]]:
  """Returns a row for each number of an evaluation."""
  listed = {
    key: protocols.PROTOCOLS[task.protocol].list_headlines(value)
    for key, value in results.items()
  }
  random = {found.name: 100 * found.value for found in listed.get(RANDOM, [])}
  measured = [results[weights], *results[weights].get('sets', {}).values()]
  counts = [
    found['num_classes'] for found in measured if 'num_classes' in found
  ]
  is_linear = task.protocol == 'linear'
  variant = comparison.name_variant(task.config) if is_linear else ''
  rows = []
  for found in listed[weights]:
    name = found.name.replace('linear', f'linear {variant}'.rstrip())
    headline = found._replace(name=name)
    paper = comparison.find_paper_result(headline, trained, dataset)
    row = table.make_row(headline, paper)
    row['chance'] = table.compute_chance(name, *counts[:1])
    row['random'] = random.get(found.name)
    rows.append(row)
  return rows


def _read_entries(folder: pathlib.Path, log: Log) -> dict[str, Any]:
  """Returns the evaluations of suite.json, by their keys."""
  path = folder / JSON
  if jax.process_index() != 0 or not path.exists():
    return {}
  try:
    entries = json.loads(files.read_file(path))['entries']
    return {key: dict(entry) for key, entry in entries.items()}
  # It is not ours, or damaged.
  except (
    errors.DataError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
  ) as error:
    log(f'{errors.quote(path)} cannot be read and is written anew: {error}')
    return {}


def _write(
  folder: pathlib.Path,
  origin: origins.Origin,
  subjects: list[Subject],
  config: config_dict.ConfigDict,
  entries: dict[str, Any],
  result: dict[str, Any],
) -> None:
  """Writes both files."""
  step = subjects[0].open()[1].step
  record = {
    'origin': origins.get_path(origin),
    'weights': config.weights,
    'step': step,
    **{key: result[key] for key in ('rows', 'failed', 'missing')},
    'entries': entries,
  }
  where = '' if step is None else f', step {step:,}'
  network = origin.config.network
  text = [
    '# Evaluations',
    '',
    f'{network.encoder}, width {network.width:g}, {config.weights} weights of'
    f' `{origins.get_path(origin)}`{where}. Percent.',
    '',
    *result['table'],
  ]
  files.write_json(folder / JSON, record)
  files.write_text(folder / MARKDOWN, '\n'.join(text) + '\n')
