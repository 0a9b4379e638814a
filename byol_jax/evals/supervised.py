"""The supervised update: of linear classifiers, or of an encoder with one.

One update serves both. `compute_logits` says what is trained: classifiers on
features, several learning rates side by side, whose parameters have a leading
axis of R rates and share each batch and nothing else (method.md 5.1; paper,
appendix C.1); or an encoder and one classifier, R = 1 (method.md 5.2, 5.5).
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from byol_jax import losses, networks, optimizers, schedules

Params = networks.Params
# labels: int32 [B]; and features: float32 [B, D], or images: [B, H, W, 3].
Batch = Mapping[str, jax.Array]
Scalars = dict[str, jax.Array]
# (params, net_state, batch) -> (logits float32 [R, B, C], new net_state)
ComputeLogits = Callable[
  [Params, networks.NetState, Batch], tuple[jax.Array, networks.NetState]
]


class TrainState(NamedTuple):
  """The state of a training between two steps."""

  step: jax.Array  # int32 [], updates done
  params: Params
  net_state: networks.NetState  # batch-norm averages; {} without an encoder
  opt_state: optax.OptState


def init(
  rng: jax.Array,
  optimizer: optax.GradientTransformation,
  *,
  num_rates: int,
  num_features: int,
  num_classes: int,
) -> TrainState:
  """Returns the state of classifiers before step 0, the same for every rate.

  Parameters are {'linear': {'w': float32 [R, D, C], 'b': float32 [R, C]}}.
  """
  classifier = init_classifier(rng, num_features, num_classes)
  params = {
    'linear': {
      name: jnp.tile(x, (num_rates, *[1] * x.ndim))
      for name, x in classifier.items()
    }
  }
  return make_state(optimizer, params, {})


def init_classifier(
  rng: jax.Array, num_features: int, num_classes: int
) -> dict[str, jax.Array]:
  """Returns Haiku's default start (method.md 2.4): w [D, C], b [C]."""
  # Cut at two sigma and not rescaled.
  shape = (num_features, num_classes)
  start = jax.random.truncated_normal(rng, -2.0, 2.0, shape)
  return {'w': start / math.sqrt(num_features), 'b': jnp.zeros(num_classes)}


def make_state(
  optimizer: optax.GradientTransformation,
  params: Params,
  net_state: networks.NetState,
) -> TrainState:
  """Returns the state before step 0."""
  step = jnp.zeros((), jnp.int32)
  return TrainState(step, params, net_state, optimizer.init(params))


def nesterov(
  peak_rates: Sequence[Any],
  *,
  momentum: float,
  num_steps: int | jax.Array,
  weight_decay: float | jax.Array = 0.0,
  warmup_share: float = 0.0,
) -> optax.GradientTransformation:
  """Returns SGD with Nesterov momentum, a cosine from each peak rate to 0.

  Args:
    peak_rates: R learning rates, already scaled with the batch size.
    momentum: in [0, 1).
    num_steps: at this step the rates are 0.
    weight_decay: added to the gradients of kernels, before the momentum.
    warmup_share: of the steps, in which the rates rise from 0 before they fall.
  """
  warmup_steps = jnp.floor(warmup_share * num_steps) if warmup_share else 0
  peaks = jnp.asarray(peak_rates, jnp.float32)

  def by_rate(update: jax.Array, _: Any) -> jax.Array:
    return update * peaks.reshape(-1, *[1] * (update.ndim - 1))

  return optax.chain(
    optax.add_decayed_weights(weight_decay, optimizers.mask_kernels),
    optax.trace(momentum, nesterov=True),
    optax.scale_by_learning_rate(
      schedules.warmup_cosine_schedule(1.0, warmup_steps, num_steps)
    ),
    optax.stateless_with_tree_map(by_rate),
  )


def compute_logits(params: Params, features: jax.Array) -> jax.Array:
  """Returns the scores of every rate's classifier, [B, D] -> [R, B, C]."""
  chex.assert_rank(features, 2)
  linear = params['linear']
  scores = jnp.einsum('bd,rdc->rbc', features, linear['w'])
  return scores + linear['b'][:, None, :]


def _classify_features(
  params: Params, net_state: networks.NetState, batch: Batch
) -> tuple[jax.Array, networks.NetState]:
  return compute_logits(params, batch['features']), net_state


def make_update(
  optimizer: optax.GradientTransformation,
  mean: Callable[[Any], Any],
  compute_logits: ComputeLogits = _classify_features,
  compute_losses: Callable[..., jax.Array] = losses.cross_entropy,
) -> Callable[[TrainState, Batch], tuple[TrainState, Scalars]]:
  """Returns the update of one step of all rates.

  Args:
    optimizer: its updates are added to the parameters.
    mean: over the parts of a batch: `parallel.mean` under pmap, the identity
      for a batch that is not divided.
    compute_logits: in training mode, the new `net_state` the same for all
      parts; the default classifies `features`.
    compute_losses: (logits [B, C], labels [B]) -> [B].

  Returns:
    update(state, batch) -> (state, scalars); `loss` is float32 [R].
  """

  def loss_fn(params: Params, net_state: Any, batch: Batch) -> Any:
    logits, net_state = compute_logits(params, net_state, batch)
    by_image = jax.vmap(compute_losses, in_axes=(0, None))(
      logits, batch['labels']
    )
    by_rate = jnp.mean(by_image, axis=-1)
    # Summed over rates, so each rate's weights get the gradient of their loss.
    return jnp.sum(by_rate), (by_rate, net_state)

  def update(state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
    grads, (loss, net_state) = jax.grad(loss_fn, has_aux=True)(
      state.params, state.net_state, batch
    )
    grads, loss = mean((grads, loss))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new = TrainState(state.step + 1, params, net_state, opt_state)
    return new, {'loss': loss}

  return update
