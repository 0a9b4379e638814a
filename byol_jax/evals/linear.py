"""Linear accuracy of a frozen encoder (paper, appendix C.1; spec 5.1).

All learning rates train side by side on `fit`, the part of the training split
that is not held out. The rate with the best top-1 on the held-out `valid` is
the one whose classifier sees `test`, once. Accuracy is counted in integers,
on centre crops.
"""

from collections.abc import Callable

import jax
from ml_collections import config_dict
import numpy as np

from byol_jax import errors, parallel, schedules
from byol_jax.distributed import placement
from byol_jax.evals import features, probe, splits, supervised

SPLITS = ('fit', 'valid', 'test')


def run(
  config: config_dict.ConfigDict,
  encoder: features.Encoder,
  load: splits.Load,
  note: probe.Note = lambda text: None,
) -> dict[str, float]:
  """Trains, chooses the rate, tests.

  Args:
    config: as in `configs/evals/linear.py`.
    encoder: frozen.
    load: 'fit', 'valid' and 'test' -> image set.
    note: takes lines of progress.

  Returns:
    `top1` and `top5` on test, in [0, 1], of the chosen base `rate`;
    `valid_top1` of that rate and `valid_top1_rate<r>` of each; `fit_loss`, the
    chosen rate's at the last step; `diverged` (rates), `steps`, `fit`, `valid`
    and `test` (images), `num_classes`.

  Raises:
    ConfigError: a value that cannot be used.
    DataError: labels are absent or do not fit.
    DivergedError: the losses of all rates are not finite.
  """
  check(config)
  named, num_classes = splits.open_splits(load, SPLITS)
  steps = num_steps(config, named['fit'].num_examples)
  rates = sorted(float(rate) for rate in config.rates)
  progress = probe.Progress(rates, steps, note)
  start = build(config, rates, steps, encoder.dim, num_classes)

  def read(name: str) -> features.Features:
    note(f'linear: encoding {name}, {named[name].num_examples:,} images')
    batches = named[name].eval_batches(config.batch_size)
    found = features.extract(encoder, batches)
    splits.check_labels(found.labels, num_classes, name)
    return found

  prepare = lambda found: found
  if config.features == 'cached':
    stored = read('fit')
    if config.standardize:
      prepare = standardizer(stored)
    params = probe.train_cached(
      start, prepare(stored), config.batch_size, config.seed, progress
    )
  else:
    crops = named['fit'].crop_batches(config.batch_size, 0, steps)
    params = probe.train_augmented(
      start, encoder, probe.labelled(crops, num_classes), progress
    )
  valid = prepare(read('valid'))
  results = choose(rates, probe.count(params, valid, 1), valid, progress)
  best = rates.index(results['rate'])
  chosen = jax.tree.map(lambda x: x[best : best + 1], params)
  test = prepare(read('test'))
  return results | {
    'top1': int(probe.count(chosen, test, 1)[0]) / len(test.ids),
    'top5': int(probe.count(chosen, test, 5)[0]) / len(test.ids),
    'steps': steps,
    'fit': named['fit'].num_examples,
    'valid': len(valid.ids),
    'test': len(test.ids),
    'num_classes': num_classes,
  }


def build(
  config: config_dict.ConfigDict,
  rates: list[float],
  steps: int,
  num_features: int,
  num_classes: int,
) -> probe.Start:
  """The update and the state before step 0, from the configuration."""
  peaks = [rate * config.batch_size / 256 for rate in rates]
  optimizer = supervised.nesterov(
    peaks, momentum=config.momentum, num_steps=steps
  )
  state = supervised.init(
    jax.random.PRNGKey(config.seed),
    optimizer,
    num_rates=len(rates),
    num_features=num_features,
    num_classes=num_classes,
  )
  augmented = config.features == 'augmented'
  mean = parallel.mean if augmented else lambda tree: tree
  return supervised.make_update(optimizer, mean), state


def standardizer(
  stored: features.Features,
) -> Callable[[features.Features], features.Features]:
  """To zero mean and unit deviation of these features; not the paper's."""
  mean = stored.values.mean(axis=0, dtype=np.float64)
  deviation = stored.values.std(axis=0, dtype=np.float64)
  # A feature that never changes stays 0.
  scale = np.where(deviation > 0, 1 / np.maximum(deviation, 1e-30), 0.0)

  def apply(found: features.Features) -> features.Features:
    values = ((found.values - mean) * scale).astype(np.float32)
    return found._replace(values=values)

  return apply


def choose(
  rates: list[float],
  correct: np.ndarray,
  valid: features.Features,
  progress: probe.Progress,
) -> dict[str, float]:
  """The best finite rate on the held-out images; of equals the smaller.

  Args:
    rates: base rates, rising.
    correct: int [R], hits among the held-out images.
    valid: the held-out images.
    progress: of the training.
  """
  best = int(np.argmax(np.where(progress.finite, correct, -1)))
  images = len(valid.ids)
  for rate, finite in zip(rates, progress.finite):
    if not finite:
      progress.note(f'linear: rate {rate:g} diverged and is left out')
  progress.note(f'linear: rate {rates[best]:g} is best on valid')
  return {
    'rate': rates[best],
    'valid_top1': int(correct[best]) / images,
    **{
      f'valid_top1_rate{rate:g}': int(n) / images
      for rate, n in zip(rates, correct)
    },
    'fit_loss': float(progress.losses[best]),
    'diverged': int(np.sum(~progress.finite)),
  }


def num_steps(config: config_dict.ConfigDict, num_examples: int) -> int:
  """Steps of the whole training; ConfigError if there is none."""
  steps = schedules.num_steps(config.epochs, num_examples, config.batch_size)
  if steps < 1:
    raise errors.ConfigError(
      f'epochs: {config.epochs:g} of {num_examples} images make no step of'
      f' batch_size {config.batch_size}; raise epochs or lower batch_size'
    )
  return steps


def check(config: config_dict.ConfigDict) -> None:
  """Refuses values that would fail late.

  Raises:
    ConfigError: names the key, what was expected and what was found.
  """
  placement.check_batch_size('batch_size', config.batch_size)
  rates = list(config.rates)
  plain = not (config.standardize and config.features != 'cached')
  rules = (
    (
      'features',
      config.features,
      config.features in ('augmented', 'cached'),
      "'augmented' or 'cached'",
    ),
    (
      'rates',
      rates,
      bool(rates) and min(rates) > 0 and len({*rates}) == len(rates),
      'different positive numbers',
    ),
    (
      'momentum',
      config.momentum,
      0 <= config.momentum < 1,
      'a number in [0, 1)',
    ),
    (
      'standardize',
      config.standardize,
      plain,
      "False unless features='cached'",
    ),
  )
  for key, found, holds, expected in rules:
    if not holds:
      raise errors.ConfigError(f'{key}: expected {expected}, found {found!r}')
