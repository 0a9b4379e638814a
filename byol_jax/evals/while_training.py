"""The kNN accuracy of an encoder between two steps of its training."""

from collections.abc import Callable
from typing import Any

import jax

from byol_jax import errors, networks
from byol_jax.evals import features, headlines, knn, splits

PER_DEVICE = 32  # images: little memory beside that of the training
# As many neighbours and the temperature that `docs/results.md` compares; one
# for small banks.
KS, TEMPERATURE = (1, 20), 0.1


def make_knn(
  forward: networks.Forward, load: splits.Load | None
) -> Callable[[Any], tuple[dict[str, float], str]]:
  """Returns the kNN evaluation of the states of a run.

  The bank is `train`, the queries are `test`, all images of both, as in `knn`.
  All processes of a job call it together; its programs are compiled once.

  Returns:
    state -> accuracies in [0, 1] as `knn_k<k>_t<temperature>`, and a sentence
    on the most neighbours. A state has `online_params` and `online_state`.

  Raises:
    ConfigError: there is no `load`, which opens 'train' and 'test'.
    DataError: there is no such split, a split has no labels, or the first
      images cannot be read: before the training, not at its first evaluation.
  """
  if load is None:
    raise errors.ConfigError(
      'eval.knn_every_steps: expected 0 without `load`, which opens the splits'
    )
  batch_size = PER_DEVICE * jax.device_count()
  try:
    named, num_classes = splits.open_splits(load, ('train', 'test'))
    for split in named.values():
      next(split.eval_batches(batch_size))
  except errors.DataError as error:
    raise errors.DataError(
      f'eval.knn_every_steps: {error}; or set it to 0'
    ) from error
  quiet = lambda text: None
  options = knn.Options(batch_size, KS, (TEMPERATURE,))

  def evaluate(state: Any) -> tuple[dict[str, float], str]:
    encoder = features.make_encoder(
      forward, state.online_params, state.online_state, 'online'
    )
    bank, queries = (
      splits.encode_split(encoder, named, batch_size, quiet, name)
      for name in named
    )
    results = knn.score_features(options, bank, queries, num_classes)
    scalars = {k: v for k, v in results.items() if k.startswith('knn_k')}
    text = headlines.format_headline(knn.list_headlines(results)[-1])
    try:
      splits.check_test(queries, {'train': bank}, num_classes, quiet)
    except errors.DataError as error:  # no reason to end a training
      text += f'; {error}'
    return scalars, text

  return evaluate
