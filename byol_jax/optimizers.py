"""Builds optimizers as chains of optax parts in the order in which they act.

LARS follows the official code (method.md 4.1).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax


def mask_kernels(params: Any) -> Any:
  """Returns {module: {leaf: bool}}: what gets weight decay and trust ratio.

  Biases and all leaves of modules with 'norm' in their name are left out.
  """
  return {
    module: {name: name != 'b' and 'norm' not in module for name in leaves}
    for module, leaves in params.items()
  }


def lars(
  learning_rate: optax.Schedule,
  *,
  weight_decay: float,
  momentum: float,
  trust_coefficient: float,
  clip_trust_ratio: bool = False,
) -> optax.GradientTransformation:
  """Returns LARS with the learning rate outside the momentum buffer.

  It differs from `optax.lars`, which applies the rate before the momentum, as
  soon as the rate changes (method.md 4.1).

  Args:
    learning_rate: step -> rate.
    weight_decay: added to the gradients of kernels, before the trust ratio.
    momentum: decay of the momentum buffer, in [0, 1).
    trust_coefficient: eta of the paper.
    clip_trust_ratio: whether a kernel moves at the smaller of trust ratio and
      learning rate, instead of their product (method.md 4.1).
  """
  limit = learning_rate if clip_trust_ratio else None
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask_kernels),
    optax.masked(scale_by_trust_ratio(trust_coefficient, limit), mask_kernels),
    optax.trace(momentum),
    optax.scale_by_learning_rate(learning_rate),
  )


def scale_by_trust_ratio(
  coefficient: float, limit: optax.Schedule | None = None
) -> optax.GradientTransformation:
  """Scales each leaf by its trust ratio, coefficient * |parameter| / |update|.

  The factor is 1 where either norm is 0. optax's part reads every array twice,
  to make the norm differentiable at zero, which costs 4 % of a step on a TPU.

  Args:
    coefficient: of the ratio.
    limit: step -> learning rate, by which the result will be multiplied: the
      factor is then min(ratio / rate, 1), 1 at a rate of 0; None: the ratio.
  """

  def scale(update: jax.Array, param: jax.Array, rate: Any) -> jax.Array:
    size, change = jnp.linalg.norm(param), jnp.linalg.norm(update)
    is_zero = (size == 0) | (change == 0)
    ratio = coefficient * size / jnp.where(is_zero, 1.0, change)
    if rate is not None:
      ratio /= jnp.maximum(ratio, rate)
    return update * jnp.where(is_zero, 1.0, ratio)

  def scale_all(updates: Any, params: Any, rate: Any = None) -> Any:
    return jax.tree.map(lambda u, p: scale(u, p, rate), updates, params)

  if limit is None:
    return optax.stateless(scale_all)

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    scaled = scale_all(updates, params, limit(state.count))
    return scaled, state._replace(count=optax.safe_increment(state.count))

  return optax.GradientTransformation(
    lambda params: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update
  )


def adamw(
  learning_rate: optax.Schedule, *, weight_decay: float
) -> optax.GradientTransformation:
  """Returns AdamW with decay on kernels, for presets too short for LARS."""
  return optax.adamw(
    learning_rate, weight_decay=weight_decay, mask=mask_kernels
  )


def sgd(
  learning_rate: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
  """Returns SGD with momentum (not Nesterov) and decay on kernels."""
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask_kernels),
    optax.trace(momentum),
    optax.scale_by_learning_rate(learning_rate),
  )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  'lars': lars,
  'adamw': adamw,
  'sgd': sgd,
}


def scale_heads(
  head_rates: Mapping[str, float],
) -> optax.GradientTransformation:
  """Multiplies the updates of heads by factors (method.md 4.6).

  `head_rates` are by the first part of the modules' paths; the others stay.
  """

  def scale(updates: Any, params: Any) -> Any:
    del params
    rates = {m: head_rates.get(m.partition('/')[0], 1.0) for m in updates}
    return {
      module: {name: rates[module] * x for name, x in leaves.items()}
      for module, leaves in updates.items()
    }

  return optax.stateless(scale)


def make_optimizer(
  name: str,
  learning_rate: optax.Schedule,
  head_rates: Mapping[str, float] | None = None,
  **settings: float,
) -> optax.GradientTransformation:
  """Returns the optimizer of the config section `optimizer`.

  Args:
    name: a key of `OPTIMIZERS`.
    learning_rate: step -> rate.
    head_rates: see `scale_heads`; empty: nothing is scaled, and the
      state has no part for it.
    **settings: keyword arguments of that optimizer.

  Raises:
    KeyError: the name is unknown.
    TypeError: the optimizer does not take a setting.
  """
  optimizer = OPTIMIZERS[name](learning_rate, **settings)
  if head_rates:
    return optax.chain(optimizer, scale_heads(head_rates))
  return optimizer
