"""Linear accuracy of a frozen encoder (paper, appendix C.1; method.md 5.1).

All learning rates train side by side on `fit`, the part of the training split
that is not held out. The rate with the best top-1 on the held-out `valid` is
evaluated on `test`, once. Accuracy is counted in integers, on centre crops.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from byol_jax import (
  augment as augment_lib,
  errors,
  losses,
  metrics,
  parallel,
  schedules,
)
from byol_jax.distributed import placement
from byol_jax.evals import features, headlines, probe, splits, supervised


@dataclasses.dataclass(frozen=True)
class Options:
  seed: int
  batch_size: int
  epochs: float
  rates: tuple[float, ...]
  momentum: float
  logit_clip: float
  logit_penalty: float
  features: str
  augmentation: str


def measure_accuracy(
  options: Options,
  encoder: features.Encoder,
  load: splits.Load,
  train: Callable,
  log: Callable[[str], None] = lambda text: None,
  augment: augment_lib.Augment | None = None,
) -> dict[str, float]:
  """Trains the classifiers, selects the rate and tests its classifier.

  `augment` is that of view 1, for `augmentation='pretraining'`.

  Returns:
    `top1` and, of more than five classes, `top5` on test, in [0, 1], of the
    selected base `rate`; its `valid_top1` and `valid_top1_rate<r>` of each;
    its `fit_loss` at the last step; `diverged` (rates), `steps`, `fit`, `valid`
    and `test` (images), `num_classes`; `test_in_train`, test images that are in
    `valid`, or in `fit` if that is encoded.
  """
  _check_options(options)
  named, num_classes = splits.open_splits(load, ('fit', 'valid', 'test'))
  progress, start = _make_training(options, named['fit'], encoder.dim, log)
  found, overlap = _encode_splits(options, encoder, named, log)
  if options.features == 'cached':
    params = probe.train_cached(
      start, found['fit'], options.batch_size, options.seed, progress
    )
  else:
    apply = _make_step_augment(options, augment)
    params = probe.train_augmented(
      start, encoder, named['fit'], options.batch_size, progress, train, apply
    )
  valid, test = found['valid'], found['test']
  find_hits = functools.partial(metrics.find_hits, supervised.compute_logits)
  correct = find_hits(params, valid.values, valid.labels)['top1'].sum(axis=-1)
  best, results = select_rate(correct, len(valid.ids), progress)
  chosen = jax.tree.map(lambda x: x[best : best + 1], params)
  hits = find_hits(chosen, test.values, test.labels)
  results |= {name: float(found.mean()) for name, found in hits.items()}
  counts = {'valid': len(valid.ids), 'test': len(test.ids)}
  counts |= {'fit': named['fit'].num_examples, 'num_classes': num_classes}
  counts |= {'steps': progress.num_steps, 'test_in_train': overlap}
  return results | counts


def _encode_splits(
  options: Options,
  encoder: features.Encoder,
  named: dict[str, splits.Split],
  log: Callable[[str], None],
) -> tuple[dict[str, features.Features], int]:
  """Returns the features of 'valid', 'test' and, if cached, 'fit'.

  Before the training, which would be lost if the splits overlap; the second
  result is from `splits.check_test`.
  """
  names = ('fit', 'valid', 'test')[options.features == 'augmented' :]
  found = {
    name: splits.encode_split(encoder, named, options.batch_size, log, name)
    for name in names
  }
  others = {name: found[name] for name in names[:-1]}
  num_classes = named['test'].num_classes or 0
  return found, splits.check_test(found['test'], others, num_classes, log)


def list_headlines(results: dict[str, Any]) -> list[headlines.Headline]:
  """Returns the accuracies on test."""
  return headlines.list_accuracies('linear', results, results['test'])


def select_rate(
  correct: np.ndarray, num_images: int, progress: probe.Progress
) -> tuple[int, dict[str, float]]:
  """Selects the best finite rate on the held-out images; of equals the lower.

  `correct`, int [R], are hits among `num_images` held-out images, by rising
  rate.

  Returns:
    The index of the rate, and the results that do not need the test split.
  """
  rates = progress.rates
  best = int(np.argmax(np.where(progress.finite, correct, -1)))
  for rate, finite in zip(rates, progress.finite):
    if not finite:
      progress.log(f'linear: rate {rate:g} diverged and is left out')
  progress.log(f'linear: rate {rates[best]:g} is best on valid')
  return best, {
    'rate': rates[best],
    'valid_top1': int(correct[best]) / num_images,
    **{
      f'valid_top1_rate{rate:g}': int(n) / num_images
      for rate, n in zip(rates, correct)
    },
    'fit_loss': float(progress.losses[best]),
    'diverged': int(np.sum(~progress.finite)),
  }


def _make_training(
  options: Options,
  split: splits.Split,
  num_features: int,
  log: Callable[[str], None],
) -> tuple[probe.Progress, probe.Start]:
  """Returns a record of the training, and its update and initial state."""
  images, batch_size = split.num_examples, options.batch_size
  steps = schedules.choose_length(0, options.epochs, images, batch_size)
  rates = sorted(map(float, options.rates))
  optimizer = supervised.nesterov(
    [rate * batch_size / 256 for rate in rates],
    momentum=options.momentum,
    num_steps=steps,
  )
  state = supervised.init(
    jax.random.PRNGKey(options.seed),
    optimizer,
    num_rates=len(rates),
    num_features=num_features,
    num_classes=split.num_classes or 0,
  )
  is_divided = options.features == 'augmented'
  mean = parallel.mean if is_divided else lambda tree: tree
  update = supervised.make_update(
    optimizer,
    mean,
    compute_losses=functools.partial(
      losses.regularized_cross_entropy,
      clip=options.logit_clip,
      penalty=options.logit_penalty,
    ),
  )
  return probe.Progress(rates, steps, log), (update, state)


def _check_options(options: Options) -> None:
  placement.check_batch_size('batch_size', options.batch_size)
  if options.augmentation != 'crop_flip' and options.features == 'cached':
    raise errors.ConfigError(
      "augmentation: expected 'crop_flip' with features='cached', whose"
      f' images are centre crops, found {options.augmentation!r}'
    )


def _make_step_augment(
  options: Options, augment: augment_lib.Augment | None
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
  """Returns (images, step) -> images, the same for any number of devices."""
  if options.augmentation == 'crop_flip':
    return None
  assert augment is not None
  rng = jax.random.fold_in(jax.random.PRNGKey(options.seed), 2)

  def apply(images: jax.Array, step: jax.Array) -> jax.Array:
    return augment(images, parallel.make_image_keys(rng, step, len(images)))

  return apply
