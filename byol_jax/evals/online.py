"""Accuracy of the classifier that was trained along with the encoder.

The online classifier learns on the frozen representation during pretraining
(method.md 1.4). Here it classifies the centre crops of the test split, as the
official evaluation worker does: nothing is trained, and no labels but those of
the pretraining were used.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

from byol_jax import errors
from byol_jax.distributed import placement
from byol_jax.evals import features, headlines, splits, tuning


@dataclasses.dataclass(frozen=True)
class Options:
  batch_size: int


def measure_accuracy(
  options: Options,
  encoder: features.Encoder,
  load: splits.Load,
  log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
  """Returns the accuracy of the encoder's own classifier on 'test'.

  Returns:
    `top1` and, of more than five classes, `top5`, in [0, 1]; `test` (images),
    `num_classes`.

  Raises:
    DataError: there is no classifier, or it has another number of classes than
      the set; see `byol_jax.evals` for others.
  """
  placement.check_batch_size('batch_size', options.batch_size)
  classifier = encoder.params.get(tuning.CLASSIFIER)
  if classifier is None:
    raise errors.DataError(
      f'the {encoder.name} encoder has no classifier: it was pretrained without'
      ' labels, or exported without it; train one: byol-jax linear'
    )
  named, num_classes = splits.open_splits(load, ('test',))
  if num_classes != len(classifier['b']):
    raise errors.DataError(
      f'the classifier of the {encoder.name} encoder has {len(classifier["b"])}'
      f" classes, split 'test' has {num_classes}; use the set of the"
      ' pretraining, or train a classifier for this one: byol-jax linear'
    )
  found = splits.encode_split(encoder, named, options.batch_size, log, 'test')
  splits.check_test(found, {}, num_classes, log)
  hits = tuning.find_hits(classifier, found)
  return {name: float(hit.mean()) for name, hit in hits.items()} | {
    'test': len(found.ids),
    'num_classes': num_classes,
  }


def list_headlines(results: dict[str, Any]) -> list[headlines.Headline]:
  """Returns the accuracies, from the results of `measure_accuracy`."""
  return headlines.list_accuracies('online', results, results['test'])
