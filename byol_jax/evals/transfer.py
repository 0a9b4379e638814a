"""Transfer to other sets by a linear classifier (paper, appendix D.2).

For each set: representations of centre crops, logistic regressions on `fit`
for all penalties from the strongest to the weakest, the penalty with the best
metric on `valid`, a regression with it on `fit` and `valid` together, and its
metric on `test`. Classes that do not exclude each other have a sigmoid each and
one penalty for all.
"""

from collections.abc import Callable
import dataclasses
import functools
import pathlib
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from byol_jax import errors, metrics
from byol_jax.data import catalog
from byol_jax.distributed import placement, processes
from byol_jax.evals import features, headlines, logistic, splits

SPLITS = ('fit', 'valid', 'test')
_PROGRESS_LINES = 3  # of the regressions of a set
_RESAMPLES = 300  # of the test images, for the interval of a mean precision


@dataclasses.dataclass(frozen=True)
class Options:
  datasets: str
  batch_size: int
  eval_crop: str
  min_lambda: float
  max_lambda: float
  num_lambdas: int
  max_iterations: int
  seed: int


class Part(NamedTuple):
  """A split of a set on the host."""

  values: np.ndarray  # float32 [N, D]
  targets: np.ndarray  # int32 [N], or int8 [N, C] of 1, 0 and -1


class Opened(NamedTuple):
  """A set."""

  splits: dict[str, splits.Split]  # by the names of `SPLITS`
  targets: dict[
    str, np.ndarray | None
  ]  # see `Part`; None where there are labels
  num_classes: int  # C
  metric: str  # a key of `headlines.METRICS`


class Selection(NamedTuple):
  """The penalty that was chosen."""

  penalty: float  # the best on `valid`
  classifier: logistic.Classifier  # fitted on `fit` with it
  values: list[float]  # the metric on `valid`, of the strongest penalty first
  num_iterations: int  # of all regressions


def measure_accuracy(
  options: Options,
  encoder: features.Encoder,
  load: splits.Load,
  log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
  """Measures each set; one that is missing or unusable is left out.

  `load(split, dataset=, eval_crop=)` opens the `SPLITS` of each set.

  Returns:
    `sets`, {name: results}, see `measure_set`; `missing`, {name: why};
    `average` of the values of `sets`; `named`, how many sets were asked for.

  Raises:
    DataError: no set could be measured; see `byol_jax.evals` for others.
  """
  placement.check_batch_size('batch_size', options.batch_size)
  names = list_names(options.datasets)
  sets: dict[str, dict[str, Any]] = {}
  missing: dict[str, str] = {}
  for name in names:
    is_open = False
    try:
      dataset = catalog.TRANSFER_SETS.get(name, name)
      # In a job all processes leave out what one of them cannot open.
      opened = processes.raise_on_all(
        'transfer', functools.partial(_open_set, dataset, options, load)
      )
      is_open = True
      sets[name] = measure_set(name, opened, options, encoder, log)
      log(headlines.format_headline(_make_headline(sets[name])))
    except errors.DataError as error:
      # One of several processes would leave the others waiting.
      if is_open and jax.process_count() > 1:
        raise
      missing[name] = str(error)
      log(f'transfer: {name} is left out: {error}')
  if not sets:
    raise errors.DataError(
      f'transfer: none of {len(names)} sets can be used; the first:'
      f' {missing[names[0]]}'
    )
  return {
    'sets': sets,
    'missing': missing,
    'average': float(np.mean([found['value'] for found in sets.values()])),
    'named': len(names),
  }


def list_names(datasets: str) -> list[str]:
  """Returns the sets of a list with commas; 'paper' is the paper's twelve.

  Raises:
    ConfigError: it names none, or one twice.
  """
  names = [name.strip() for name in datasets.split(',') if name.strip()]
  if names == ['paper']:
    return [*catalog.TRANSFER_SETS]
  if not names or len({*names}) < len(names):
    raise errors.ConfigError(
      "datasets: expected 'paper', or different sets with commas between them"
      f' ({", ".join(catalog.TRANSFER_SETS)}, or what dataset takes), found'
      f' {errors.quote(datasets)}'
    )
  return names


def _open_set(dataset: str, options: Options, load: splits.Load) -> Opened:
  open_split = functools.partial(
    load, dataset=dataset, eval_crop=options.eval_crop
  )
  first = open_split('fit')
  rows = first.read_targets() if first.num_classes is None else None
  if rows is not None:
    named = {split: open_split(split) for split in SPLITS}
    targets = {split: named[split].read_targets() for split in SPLITS}
    return Opened(named, targets, rows.shape[1], 'map')
  named, num_classes = splits.open_splits(open_split, SPLITS)
  facts = catalog.find_facts(dataset)
  metric = facts.metric if facts else 'top1'
  return Opened(named, dict.fromkeys(SPLITS), num_classes, metric)


def measure_set(
  name: str,
  opened: Opened,
  options: Options,
  encoder: features.Encoder,
  log: Callable[[str], None],
) -> dict[str, Any]:
  """Chooses the penalty for a set, and tests its classifier.

  Returns:
    `name`, short; `metric`, a key of `headlines.METRICS`; `value` on test, in
    [0, 1], and `half_width` of its 95 % interval; `lambda`; `valid_value` with
    it, and `valid_values`, of all, by rising lambda; `iterations`; `fit`,
    `valid`, `test` (images), `num_classes`; `test_in_train`, see
    `splits.check_test`.
  """
  metric, num_classes = opened.metric, opened.num_classes
  title = f'transfer {shorten_name(name)}'
  tell = lambda text: log(f'{title}: {text}')
  parts, overlap = encode_parts(opened, options, encoder, tell)
  fit, valid, test = parts
  chosen = choose_penalty(metric, fit, valid, num_classes, options, tell)
  both = Part(*(np.concatenate(columns) for columns in zip(fit, valid)))
  regression = logistic.Regression(*both, num_classes, options.max_iterations)
  classifier, _ = regression.fit(chosen.penalty, chosen.classifier)
  tested = classifier.score(test.values), test.targets
  return {split: len(part.values) for split, part in zip(SPLITS, parts)} | {
    'name': shorten_name(name),
    'metric': metric,
    'value': compute_metric(metric, *tested),
    'half_width': compute_half_width(metric, *tested, options.seed),
    'lambda': chosen.penalty,
    'valid_value': max(chosen.values),
    'valid_values': chosen.values[::-1],
    'iterations': chosen.num_iterations,
    'num_classes': num_classes,
    'test_in_train': overlap,
  }


def encode_parts(
  opened: Opened,
  options: Options,
  encoder: features.Encoder,
  log: Callable[[str], None],
) -> tuple[list[Part], int]:
  """Returns the `SPLITS` of a set, and test images that are in another one."""
  found = {
    split: splits.encode_split(
      encoder, opened.splits, options.batch_size, log, split
    )
    for split in SPLITS
  }
  parts = []
  for split, encoded in found.items():
    rows = opened.targets[split]
    targets = encoded.labels if rows is None else rows[encoded.ids]
    parts.append(Part(encoded.values, targets))
  test = found.pop('test')
  num_classes = opened.num_classes
  if opened.targets['test'] is not None:
    num_classes = len(np.unique(test.labels))  # no label is not an absent one
  return parts, splits.check_test(test, found, num_classes, log)


def choose_penalty(
  metric: str,
  fit: Part,
  valid: Part,
  num_classes: int,
  options: Options,
  log: Callable[[str], None],
) -> Selection:
  """Returns the penalty with the best metric on `valid`.

  Each regression starts from the classifier of the next stronger penalty.
  """
  regression = logistic.Regression(*fit, num_classes, options.max_iterations)
  lambdas = np.geomspace(
    options.max_lambda, options.min_lambda, options.num_lambdas
  )
  best: Selection | None = None
  classifier, values, total = None, [], 0
  for i, penalty in enumerate(map(float, lambdas)):
    classifier, num_iterations = regression.fit(penalty, classifier)
    total += num_iterations
    values.append(
      compute_metric(metric, classifier.score(valid.values), valid.targets)
    )
    # Of equal penalties the strongest: the simplest classifier.
    if best is None or values[-1] > max(values[:-1]):
      best = Selection(penalty, classifier, values, total)
    if (i + 1) * _PROGRESS_LINES % len(lambdas) < _PROGRESS_LINES:
      log(
        f'{i + 1} of {len(lambdas)} penalties; on valid'
        f' {headlines.METRICS[metric]} {100 * max(values):.1f} % at'
        f' {best.penalty:.2g}'
      )
  assert best is not None
  return best._replace(num_iterations=total)


def compute_metric(
  metric: str, scores: np.ndarray, targets: np.ndarray
) -> float:
  """Returns a metric of scores [N, C]; targets are those of a `Part`.

  Of equal scores the lower class is the prediction.
  """
  if metric == 'map':
    return float(metrics.mean_average_precision(scores, targets))
  hits = np.argmax(scores, axis=1) == targets
  if metric == 'mean_per_class':
    return metrics.mean_per_class(hits, targets)[0]
  return float(np.mean(hits))


def compute_half_width(
  metric: str, scores: np.ndarray, targets: np.ndarray, seed: int
) -> float:
  """Returns half the width of the 95 % interval of `compute_metric`.

  That of a mean precision comes from resamples of the images.
  """
  count = len(scores)
  if metric == 'map':
    weights = np.random.default_rng(seed).multinomial(
      count, np.full(count, 1 / count), size=_RESAMPLES
    )
    found = metrics.mean_average_precision(scores, targets, weights)
    return 1.96 * float(np.std(found))
  hits = np.argmax(scores, axis=1) == targets
  if metric == 'mean_per_class':
    return metrics.mean_per_class(hits, targets)[1]
  return headlines.compute_half_width(float(np.mean(hits)), count)


def list_headlines(results: dict[str, Any]) -> list[headlines.Headline]:
  """Returns the value of each set, and their mean if there are several."""
  sets = [*results['sets'].values()]
  found = [_make_headline(one) for one in sets]
  if len(sets) > 1:
    variance = sum(one['half_width'] ** 2 for one in sets)
    count = f'{len(sets)} of {results["named"]}'
    found.append(
      headlines.Headline(
        f'transfer average of {count} sets',
        results['average'],
        sum(one['test'] for one in sets),
        variance**0.5 / len(sets),
      )
    )
  return found


def _make_headline(results: dict[str, Any]) -> headlines.Headline:
  return headlines.Headline(
    f'transfer {results["name"]} {headlines.METRICS[results["metric"]]}',
    results['value'],
    results['test'],
    results['half_width'],
  )


def shorten_name(name: str) -> str:
  """Returns the name of a set; of a path its last part that is no version."""
  if name in catalog.TRANSFER_SETS or catalog.find_facts(name):
    return name
  parts = [
    part
    for part in pathlib.PurePath(name).parts
    if not re.fullmatch(r'\d+\.\d+\.\d+', part)
  ]
  return parts[-1] if parts else name
