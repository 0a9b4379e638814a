"""Accuracy of the classifier that was trained along with the encoder.

The online classifier learns on the frozen representation during pretraining
(method.md 1.4). Here it classifies the centre crops of the test split, as the
official evaluation worker does: nothing is trained, and no labels but those of
the pretraining were used.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from byol_jax import errors, metrics, networks
from byol_jax.distributed import placement
from byol_jax.evals import features, headlines, splits


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of the protocol; `configs/evals/online.py` explains them."""

  batch_size: int


def measure_accuracy(
  options: Options,
  encoder: features.Encoder,
  load: splits.Load,
  log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
  """Returns the accuracy of the encoder's own classifier on the test split.

  Args:
    options: of the protocol.
    encoder: frozen, with a classifier.
    load: 'test' -> image set, whose classes are those of the pretraining.
    log: called with lines of progress.

  Returns:
    `top1` and, of more than five classes, `top5`, in [0, 1]; `test` (images),
    `num_classes`.

  Raises:
    ConfigError: the devices do not divide the batch size.
    DataError: there is no classifier, it has another number of classes than the
      set, or labels are absent or do not fit.
    DivergedError: a logit is not finite.
  """
  placement.check_batch_size('batch_size', options.batch_size)
  classifier = make_classifier(encoder)
  named, num_classes = splits.open_splits(load, ('test',))
  if num_classes != classifier.dim:
    raise errors.DataError(
      f'the classifier of the {encoder.name} encoder has {classifier.dim}'
      f" classes, split 'test' has {num_classes}; use the set of the"
      ' pretraining, or train a classifier for this one: byol-jax linear'
    )
  found = splits.encode_split(
    classifier, named, options.batch_size, log, 'test'
  )
  splits.check_test(found, {}, num_classes, log)
  return score_logits(found, num_classes)


def score_logits(found: features.Features, num_classes: int) -> dict[str, Any]:
  """Returns the results of `measure_accuracy` of logits, [N, C], and labels."""
  hits = metrics.find_hits(_get_logits, None, found.values, found.labels)
  return {name: float(hit.mean()) for name, hit in hits.items()} | {
    'test': len(found.ids),
    'num_classes': num_classes,
  }


def list_headlines(results: dict[str, Any]) -> list[headlines.Headline]:
  """Returns the accuracies, from the results of `measure_accuracy`."""
  return headlines.list_accuracies('online', results, results['test'])


def make_classifier(
  encoder: features.Encoder, with_representation: bool = False
) -> features.Encoder:
  """Returns an encoder whose representation are the logits, float32 [B, C].

  Args:
    encoder: with a classifier.
    with_representation: puts the representation before them, [B, D + C].

  Raises:
    DataError: there is no classifier.
  """
  forward = _classify(encoder.forward, with_representation)
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  apply = functools.partial(forward.apply, is_training=False)
  outputs, _ = jax.eval_shape(apply, encoder.params, encoder.state, images)
  if outputs.representation is None:
    raise errors.DataError(
      f'the {encoder.name} encoder has no classifier: it was pretrained without'
      ' labels, or exported without it; train one: byol-jax linear'
    )
  dim = outputs.representation.shape[-1]
  return encoder._replace(forward=forward, dim=dim, store=None)


# One program for the encoders of a run.
@functools.lru_cache(maxsize=4)
def _classify(
  forward: networks.Forward, with_representation: bool
) -> networks.Forward:
  def apply(*arguments: Any, **options: Any) -> Any:
    outputs, state = forward.apply(*arguments, **options)
    logits: Any = outputs.logits  # None without a classifier
    if with_representation and logits is not None:
      logits = jnp.concatenate([outputs.representation, logits], axis=-1)
    return outputs._replace(representation=logits), state

  return forward._replace(apply=apply)


def _get_logits(params: None, values: jax.Array) -> jax.Array:
  del params
  return values[None]
