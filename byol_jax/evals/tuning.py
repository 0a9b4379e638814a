"""Trains an encoder together with a linear classifier, and tests both.

The update is `supervised.make_update`, the loop that of pretraining. A state
dict of parameters holds the encoder's modules, and `classifier` with `w`,
[D, C], and `b`, [C].
"""

from collections.abc import Callable, Mapping
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from byol_jax import errors, losses, metrics, networks, parallel
from byol_jax.evals import features, splits, supervised

CLASSIFIER = 'classifier'
PROGRESS_LINES = 4  # of a training
# A number of steps after which the zero-debiasing of averages has no effect.
_MANY_STEPS = 1 << 20


class Trainer(NamedTuple):
  """One program for trainings that differ in numbers only."""

  forward: networks.Forward  # of the encoder without heads
  update: Callable
  # (rate, weight_decay, num_steps) -> the optimizer whose state has them
  make_optimizer: Callable[..., optax.GradientTransformation]


def make_trainer(
  network: Mapping[str, Any],
  *,
  batch_norm: str,
  bn_decay: float,
  momentum: float,
  encoder_rate: float,
  warmup_share: float,
  label_smoothing: float,
) -> Trainer:
  """Returns the update of an encoder and its classifier.

  Args:
    network: the config section `network` of the encoder.
    batch_norm: statistics of a batch of each device, 'local', or of all,
      'cross_replica'; 'frozen': moving averages, which stay as they are. Moving
      averages are those of all devices in any case.
    bn_decay: of the moving averages, in [0, 1).
    momentum: of SGD, in [0, 1).
    encoder_rate: the encoder's learning rate as a multiple of the
      classifier's; 0 leaves its parameters as they are.
    warmup_share: of the steps, in which the rate rises from 0, in [0, 1).
    label_smoothing: share of each target that all classes have, in [0, 1).
  """
  no_heads = {'projector': None, 'predictor': None}
  forward = networks.make_forward(
    num_classes=None,
    axis_name=parallel.AXIS if batch_norm == 'cross_replica' else None,
    **{**network, **no_heads, 'bn_decay': bn_decay, 'bn_group': 0},
  )
  is_training = batch_norm != 'frozen'

  def compute_logits(params: Any, net_state: Any, batch: Any) -> Any:
    outputs, new = forward.apply(
      params, net_state, batch['images'], is_training
    )
    if batch_norm == 'local':
      new = parallel.mean_averages(new)
    logits = classify(params[CLASSIFIER], outputs.representation)
    return logits[None], new  # [R=1, B, C]

  make_optimizer = optax.inject_hyperparams(
    functools.partial(
      _make_optimizer,
      momentum=momentum,
      encoder_rate=encoder_rate,
      warmup_share=warmup_share,
    ),
    static_args='warmup_share',
  )
  update = supervised.make_update(
    make_optimizer(0.0, 0.0, 1),
    parallel.mean,
    compute_logits,
    functools.partial(losses.cross_entropy, smoothing=label_smoothing),
  )
  return Trainer(forward, update, make_optimizer)


def _make_optimizer(
  rate: Any,
  weight_decay: Any,
  num_steps: Any,
  *,
  momentum: float,
  encoder_rate: float,
  warmup_share: float,
) -> optax.GradientTransformation:
  def scale_encoder(updates: Any, params: Any) -> Any:
    del params
    return {
      module: leaves
      if module == CLASSIFIER
      else jax.tree.map(lambda x: encoder_rate * x, leaves)
      for module, leaves in updates.items()
    }

  sgd = supervised.nesterov(
    [rate],
    momentum=momentum,
    num_steps=num_steps,
    weight_decay=weight_decay,
    warmup_share=warmup_share,
  )
  return optax.chain(sgd, optax.stateless(scale_encoder))


def init_state(
  trainer: Trainer,
  encoder: features.Encoder,
  num_classes: int,
  seed: int,
  **numbers: float,
) -> supervised.TrainState:
  """Returns the state before step 0: the encoder and a new classifier.

  The encoder's heads are left out; `seed` is that of the classifier's weights,
  `numbers` are `rate`, `weight_decay` and `num_steps` of the optimizer.
  """
  params, net_state = (
    {k: v for k, v in tree.items() if k.partition('/')[0] not in networks.HEADS}
    for tree in (encoder.params, encoder.state)
  )
  classifier = supervised.init_classifier(
    jax.random.PRNGKey(seed), encoder.dim, num_classes
  )
  state = supervised.make_state(
    trainer.make_optimizer(**numbers),
    {**params, CLASSIFIER: classifier},
    continue_averages(net_state),
  )
  return jax.device_get(state)


def continue_averages(net_state: networks.NetState) -> dict[str, Any]:
  """Returns batch-norm averages that go on from their values at any decay.

  Haiku corrects an average for its start from zero by decay ** counter, which
  another decay would falsify. Averages of no batch yet still start from zero.
  """

  def go_on(average: Mapping[str, Any]) -> dict[str, Any]:
    if not int(average['counter']):
      return dict(average)
    values = np.asarray(average['average'])
    counter = np.int32(_MANY_STEPS)
    return {'counter': counter, 'hidden': values, 'average': values}

  return {name: go_on(average) for name, average in net_state.items()}


def has_averages(net_state: networks.NetState) -> bool:
  """Returns whether each batch-norm average is that of some batch.

  Without, all are zero, and so is the variance that activations are divided by.
  """
  return all(
    int(average['counter']) or np.any(average['average'])
    for average in net_state.values()
  )


def compute_bn_decay(num_images: int, batch_size: int) -> float:
  """Returns max(1 - 10 / s, 0.9) for s steps per epoch (method.md 5.5)."""
  return max(1 - 10 * batch_size / num_images, 0.9)


def classify(
  classifier: Mapping[str, jax.Array], representations: jax.Array
) -> jax.Array:
  """Returns the scores of the classes, [B, D] -> [B, C]."""
  return representations @ classifier['w'] + classifier['b']


def train_classifier(
  trainer: Trainer,
  state: supervised.TrainState,
  split: splits.Split,
  batch_size: int,
  train: Callable,
  name: str,
  log: Callable[[str], None],
) -> tuple[supervised.TrainState, float]:
  """Trains on random crops to the last step of the state's optimizer.

  `name` is that of the training within its evaluation.

  Returns:
    The last state, and the loss of its last step.

  Raises:
    DataError: a label does not fit.
    DivergedError: a loss is not finite.
  """
  num_steps = int(state.opt_state.hyperparams['num_steps'])
  step, loss = 0, math.nan

  def observe(values: dict[str, Any]) -> None:
    nonlocal step, loss
    losses = np.ravel(values['loss'])
    before, step, loss = step, step + len(losses), float(losses[-1])
    if not np.isfinite(losses).all():
      raise errors.DivergedError(
        f'{name}: the loss is not finite by step {step} of {num_steps}; lower'
        ' the rate'
      )
    lines = [n * PROGRESS_LINES // num_steps for n in (before, step)]
    if lines[1] > lines[0]:
      log(f'{name}: step {step} of {num_steps}, loss {loss:.4f}')

  make_batches = functools.partial(splits.labelled_batches, split)
  arguments = (make_batches, batch_size, num_steps, observe)
  last = train(trainer.update, state, *arguments, name=name)
  return last, loss


def encode_split(
  trainer: Trainer,
  state: supervised.TrainState,
  split: splits.Split,
  batch_size: int,
  name: str,
) -> features.Features:
  """Returns `splits.encode_split` of the encoder in a state."""
  params = {k: v for k, v in state.params.items() if k != CLASSIFIER}
  dim = len(state.params[CLASSIFIER]['w'])
  encoder = features.Encoder(
    trainer.forward, params, state.net_state, dim, 'fine-tuned'
  )
  quiet = lambda text: None
  return splits.encode_split(encoder, {name: split}, batch_size, quiet, name)


def compute_scores(
  classifier: Mapping[str, jax.Array], found: features.Features
) -> dict[str, float]:
  """Returns `find_hits` as shares, and `mean_per_class` with its half width."""
  hits = find_hits(classifier, found)
  scores = {name: float(hit.mean()) for name, hit in hits.items()}
  mean, half_width = metrics.mean_per_class(hits['top1'], found.labels)
  return scores | {
    'mean_per_class': mean,
    'mean_per_class_half_width': half_width,
  }


def find_hits(
  classifier: Mapping[str, jax.Array], found: features.Features
) -> dict[str, np.ndarray]:
  """Returns `top1` and, of more than five classes, `top5`: bool [N]."""
  arguments = classifier, found.values, found.labels
  hits = metrics.find_hits(_compute_scores, *arguments)
  return {name: hit[0] for name, hit in hits.items()}


def _compute_scores(classifier: Any, values: jax.Array) -> jax.Array:
  return classify(classifier, values)[None]
