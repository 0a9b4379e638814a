"""The kNN accuracy of an encoder between two steps of its training."""

from collections.abc import Callable, Iterator
from typing import Any

import jax

from byol_jax import errors, networks
from byol_jax.evals import features, headlines, knn, splits

# Pixels on a device at once, of 32 images of ImageNet: little memory beside
# that of the training.
PIXELS = 1_600_000
# As many neighbours and the temperature that `docs/results.md` compares.
KS, TEMPERATURE = (1, 20, 200), 0.1
SHOWN = 1  # of `KS`, in the line of the console
# Batches of images up to this size stay in memory for the next evaluation,
# which then decodes nothing: CIFAR-10 takes 0.7 GiB.
HELD_BYTES = 2**30


def make_knn(
  forward: networks.Forward, load: splits.Load | None
) -> Callable[[Any], tuple[dict[str, float], str]]:
  """Returns the kNN evaluation of the states of a run.

  The bank is `train`, the queries are `test`, all images of both, as in `knn`.
  All processes of a job call it together; its programs are compiled once.

  Returns:
    state -> accuracies in [0, 1] as `knn_k<k>_t<temperature>`, and a sentence
    on one of them. A state has `online_params` and `online_state`.

  Raises:
    ConfigError: there is no `load`, which opens 'train' and 'test'.
    DataError: there is no such split, a split has no labels, or the first
      images cannot be read: before the training, not at its first evaluation.
  """
  if load is None:
    raise errors.ConfigError(
      'eval.knn_every_steps: expected 0 without `load`, which opens the splits'
    )
  try:
    named, num_classes = splits.open_splits(load, ('train', 'test'))
    batch_size = min(map(_choose_batch_size, named.values()))
  except errors.DataError as error:
    raise errors.DataError(
      f'eval.knn_every_steps: {error}; or set it to 0'
    ) from error
  quiet = lambda text: None
  options = knn.Options(batch_size, KS, (TEMPERATURE,))
  batches = {
    name: _hold_batches(split, batch_size) for name, split in named.items()
  }

  def evaluate(state: Any) -> tuple[dict[str, float], str]:
    encoder = features.make_encoder(
      forward, state.online_params, state.online_state, 'online'
    )
    encoded = {
      name: features.extract_features(encoder, make_batches())
      for name, make_batches in batches.items()
    }
    for name, found in encoded.items():
      splits.check_labels(found.labels, num_classes, name)
    bank, queries = encoded['train'], encoded['test']
    results = knn.score_features(options, bank, queries, num_classes)
    scalars = {k: v for k, v in results.items() if k.startswith('knn_k')}
    shown = knn.list_headlines(results)[: SHOWN + 1][-1]
    text = headlines.format_headline(shown)
    try:
      splits.check_test(queries, {'train': bank}, num_classes, quiet)
    except errors.DataError as error:  # no reason to end a training
      text += f'; {error}'
    return scalars, text

  return evaluate


def _choose_batch_size(split: splits.Split) -> int:
  """Returns as many images as `PIXELS` hold, at most those of the split."""
  count = jax.device_count()
  images = next(iter(split.eval_batches(count)))['images']
  most = PIXELS // (images.shape[2] * images.shape[3])
  return count * max(1, min(most, -(-split.num_examples // count)))


def _hold_batches(
  split: splits.Split, batch_size: int
) -> Callable[[], Iterator[Any]]:
  """Returns what makes the batches of a split; keeps those of a small one."""
  held: list[Any] = []

  def make_batches() -> Iterator[Any]:
    if held:
      yield from held
      return
    found, size = [], 0
    for batch in split.eval_batches(batch_size):
      size += sum(column.nbytes for column in batch.values())
      if size <= HELD_BYTES:
        found.append(batch)
      yield batch
    if size <= HELD_BYTES:
      held.extend(found)

  return make_batches
