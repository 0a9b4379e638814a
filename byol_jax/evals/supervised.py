"""The supervised update of linear classifiers on frozen features.

Several learning rates train side by side: parameters have a leading axis of R
rates, which share each batch and the initial weights and nothing else
(method.md 5.1; paper, appendix C.1).
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from byol_jax import losses, schedules

# {'linear': {'w': float32 [R, D, C], 'b': float32 [R, C]}}
Params = Mapping[str, Mapping[str, jax.Array]]
# features: float32 [B, D]; labels: int32 [B].
Batch = Mapping[str, jax.Array]
Scalars = dict[str, jax.Array]


class LinearState(NamedTuple):
  """The state of a training between two steps."""

  step: jax.Array  # int32 [], updates done
  params: Params
  opt_state: optax.OptState


def init(
  rng: jax.Array,
  optimizer: optax.GradientTransformation,
  *,
  num_rates: int,
  num_features: int,
  num_classes: int,
) -> LinearState:
  """Returns Haiku's default start (method.md 2.4), the same for every rate."""
  shape = (num_features, num_classes)
  # Cut at two sigma and not rescaled.
  start = jax.random.truncated_normal(rng, -2.0, 2.0, shape)
  weights = start / math.sqrt(num_features)
  params = {
    'linear': {
      'w': jnp.tile(weights, (num_rates, 1, 1)),
      'b': jnp.zeros((num_rates, num_classes)),
    }
  }
  return LinearState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
  )


def nesterov(
  peak_rates: Sequence[float], *, momentum: float, num_steps: int
) -> optax.GradientTransformation:
  """Returns SGD with Nesterov momentum, a cosine from each peak rate to 0.

  No warm-up and no regularisation.

  Args:
    peak_rates: R learning rates, already scaled with the batch size.
    momentum: in [0, 1).
    num_steps: at this step the rates are 0.
  """
  peaks = jnp.asarray(peak_rates, jnp.float32)

  def by_rate(update: jax.Array, _: Any) -> jax.Array:
    return update * peaks.reshape(-1, *[1] * (update.ndim - 1))

  return optax.chain(
    optax.trace(momentum, nesterov=True),
    optax.scale_by_learning_rate(
      schedules.warmup_cosine_schedule(1.0, 0, num_steps)
    ),
    optax.stateless_with_tree_map(by_rate),
  )


def compute_logits(params: Params, features: jax.Array) -> jax.Array:
  """Returns the scores of every rate's classifier, [B, D] -> [R, B, C]."""
  chex.assert_rank(features, 2)
  linear = params['linear']
  scores = jnp.einsum('bd,rdc->rbc', features, linear['w'])
  return scores + linear['b'][:, None, :]


def make_update(
  optimizer: optax.GradientTransformation, mean: Callable[[Any], Any]
) -> Callable[[LinearState, Batch], tuple[LinearState, Scalars]]:
  """Returns the update of one step of all rates.

  Args:
    optimizer: its updates are added to the parameters.
    mean: over the parts of a batch: `parallel.mean` under pmap, the identity
      for a batch that is not divided.

  Returns:
    update(state, batch) -> (state, scalars); `loss` is float32 [R].
  """

  def loss_fn(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    by_image = jax.vmap(losses.cross_entropy, in_axes=(0, None))(
      compute_logits(params, batch['features']), batch['labels']
    )
    by_rate = jnp.mean(by_image, axis=-1)
    # Summed over rates, so each rate's weights get the gradient of their loss.
    return jnp.sum(by_rate), by_rate

  def update(state: LinearState, batch: Batch) -> tuple[LinearState, Scalars]:
    grads, loss = jax.grad(loss_fn, has_aux=True)(state.params, batch)
    grads, loss = mean((grads, loss))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return LinearState(state.step + 1, params, opt_state), {'loss': loss}

  return update
