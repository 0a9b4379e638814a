"""Optimisers, as chains of optax parts in the order in which they act.

Spec 4.1; official file `utils/optimizers.py`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from byol_jax import errors


def kernels(params: Any) -> Any:
  """True for the leaves that get weight decay and trust ratio.

  Biases and everything in a module with 'norm' in its name are left out.

  Args:
    params: {module: {leaf: array}}.

  Returns:
    The same tree of bools.
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
) -> optax.GradientTransformation:
  """LARS with the learning rate outside the momentum buffer.

  Not `optax.lars`, which applies the rate before the trace: under a changing
  rate the two differ.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay, kernels),
    optax.masked(
      scale_by_trust_ratio(trust_coefficient),
      kernels,
    ),
    optax.trace(momentum),
    optax.scale_by_learning_rate(learning_rate),
  )


def scale_by_trust_ratio(coefficient: float) -> optax.GradientTransformation:
  """Each leaf times coefficient * norm of the parameter / norm of the update.

  As optax's, which reads everything twice for the sake of the gradient of a
  norm at zero: 4 % of a step on a TPU. Nobody differentiates an optimiser.
  """

  def scale(update: jax.Array, param: jax.Array) -> jax.Array:
    size, change = jnp.linalg.norm(param), jnp.linalg.norm(update)
    is_zero = (size == 0) | (change == 0)
    ratio = coefficient * size / jnp.where(is_zero, 1.0, change)
    return update * jnp.where(is_zero, 1.0, ratio)

  return optax.stateless(
    lambda updates, params: jax.tree.map(scale, updates, params)
  )


def adamw(
  learning_rate: optax.Schedule, *, weight_decay: float
) -> optax.GradientTransformation:
  """AdamW; not the paper's, for presets too short for LARS."""
  return optax.adamw(learning_rate, weight_decay=weight_decay, mask=kernels)


def sgd(
  learning_rate: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
  """SGD with momentum (not Nesterov), decay on the same leaves as LARS."""
  return optax.chain(
    optax.add_decayed_weights(weight_decay, kernels),
    optax.trace(momentum),
    optax.scale_by_learning_rate(learning_rate),
  )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  'lars': lars,
  'adamw': adamw,
  'sgd': sgd,
}


def make_optimizer(
  name: str, learning_rate: optax.Schedule, **settings: float
) -> optax.GradientTransformation:
  """The optimiser of one config section `optimizer`.

  Raises:
    ConfigError: an unknown name, or settings that it does not take.
  """
  if name not in OPTIMIZERS:
    raise errors.ConfigError(
      f'optimizer.name: expected one of {list(OPTIMIZERS)}, found {name!r}'
    )
  try:
    return OPTIMIZERS[name](learning_rate, **settings)
  except TypeError as error:
    raise errors.ConfigError(f'optimizer: {error}') from error


def momentum_of(opt_state: Any) -> Any:
  """The trace of LARS or SGD, a tree like the parameters."""
  return next(part.trace for part in opt_state if hasattr(part, 'trace'))


def with_momentum(opt_state: Any, momentum: Any, step: int) -> Any:
  """`opt_state` of LARS as it stands before `step`, with this momentum."""

  def replace(part: Any) -> Any:
    if hasattr(part, 'trace'):
      return part._replace(trace=momentum)
    # Not by attribute: every tuple has a method `count`.
    if isinstance(part, optax.ScaleByScheduleState):
      return part._replace(count=jax.numpy.asarray(step, part.count.dtype))
    return part

  return tuple(replace(part) for part in opt_state)
