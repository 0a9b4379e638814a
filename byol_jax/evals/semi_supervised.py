"""Accuracy of an encoder fine-tuned on few labels (paper, appendix C.1).

For each fraction of the labels every point of the grid of `finetune` trains on
that part of `fit`. The best on the held-out `valid`, which no part contains,
is evaluated on `test`, after all trainings (method.md 5.2, 6.4).
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np

from byol_jax import errors
from byol_jax.evals import features, finetune, headlines, splits


@dataclasses.dataclass(frozen=True)
class Options(finetune.GridOptions):
  fractions: tuple[float, ...]
  lists: str


def measure_accuracy(
  options: Options,
  encoder: features.Encoder,
  load: splits.Load,
  train: Callable,
  log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
  """Fine-tunes on each fraction of the labels and tests the selected network.

  `load('fit', fraction=, lists=)` gives that part, whose `labels` are known.

  Returns:
    `fractions`, for each a dict: `fraction`, `images`, `per_class` (images of
    each class), `digest` of the choice, and what `finetune.measure_accuracy`
    returns of the selected point and the grid; `valid` and `test` (images),
    `num_classes`.
  """
  fractions = sorted(options.fractions)

  def load_part(name: str) -> splits.Split:
    kind, _, fraction = name.partition(' ')
    if not fraction:
      return load(kind)
    return load(kind, fraction=float(fraction), lists=options.lists)

  parts = [f'fit {fraction!r}' for fraction in fractions]
  named, num_classes = splits.open_splits(load_part, (*parts, 'valid', 'test'))
  tuner = finetune.Tuner(options, encoder, num_classes, train, log)
  tuner.check_test(named)
  found = []
  for fraction, part in zip(fractions, parts):
    subset, share = named[part], format_share(fraction)
    facts = {'fraction': fraction, **describe_part(subset, num_classes)}
    few, many = min(facts['per_class']), max(facts['per_class'])
    log(
      f'{share} of the labels: {errors.format_count(facts["images"], "image")},'
      f' {few if few == many else f"{few} to {many}"} of each class, digest'
      f' {facts["digest"]}'
    )
    _, state, results = tuner.search(subset, named['valid'], f'{share}, ')
    found.append((subset, state, facts | results))
  return {
    'fractions': [
      facts | tuner.test(state, subset, named['test'], 'test')
      for subset, state, facts in found
    ],
    'valid': named['valid'].num_examples,
    'test': named['test'].num_examples,
    'num_classes': num_classes,
  }


def describe_part(subset: Any, num_classes: int) -> dict[str, Any]:
  """Returns how many images a part has, in all and of each class.

  Raises:
    DataError: a class has none.
  """
  per_class = np.bincount(subset.labels, minlength=num_classes)
  if not per_class.all():
    size = errors.format_count(subset.num_examples, 'image')
    raise errors.DataError(
      f'{np.sum(per_class == 0)} of {num_classes} classes have no training'
      f' image in a part of {size}; raise fractions'
    )
  return {
    'images': subset.num_examples,
    'per_class': per_class.tolist(),
    'digest': subset.fingerprint[:16],
  }


def format_share(fraction: float) -> str:
  """Returns e.g. '1 %'."""
  return f'{100 * fraction:g} %'


def list_headlines(results: dict[str, Any]) -> list[headlines.Headline]:
  """Returns the accuracies on test."""
  return [
    headline
    for found in results['fractions']
    for headline in headlines.list_accuracies(
      f'semi-supervised {format_share(found["fraction"])}',
      found,
      results['test'],
    )
  ]
