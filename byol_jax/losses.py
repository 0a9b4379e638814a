"""Defines the losses of BYOL (paper eq. 2; method.md 1.2)."""

from collections.abc import Callable
from typing import Protocol

import chex
import jax
import jax.numpy as jnp


class View(Protocol):
  """Outputs of a network for one view, as in `networks.Outputs`."""

  @property
  def projection(self) -> jax.Array: ...

  @property
  def prediction(self) -> jax.Array: ...


Pair = tuple[View, View]  # of view 1 and view 2
# (online, target) -> float32 [B], one loss per image
Objective = Callable[[Pair, Pair], jax.Array]


def l2_normalize(x: jax.Array) -> jax.Array:
  """Returns x scaled to unit length along the last axis, [..., D].

  A zero vector stays zero. The epsilon of 1e-12 is on the squared norm, as in
  the official code.
  """
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def regression_loss(prediction: jax.Array, projection: jax.Array) -> jax.Array:
  """Returns the squared distance of the unit vectors, [B, D] twice -> [B].

  This is 2 - 2 cos(prediction, projection), paper eq. 2.
  """
  chex.assert_rank([prediction, projection], 2)
  chex.assert_equal_shape([prediction, projection])
  difference = l2_normalize(prediction) - l2_normalize(projection)
  return jnp.sum(jnp.square(difference), axis=-1)


def symmetric_regression_loss(online: Pair, target: Pair) -> jax.Array:
  """Returns BYOL's loss, the sum of both directions, [B] in [0, 8].

  No gradient flows into the target's projections.
  """
  projections = [jax.lax.stop_gradient(view.projection) for view in target]
  return regression_loss(
    online[0].prediction, projections[1]
  ) + regression_loss(online[1].prediction, projections[0])


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the softmax cross-entropy, [B, classes] and int [B] -> [B]."""
  chex.assert_rank([logits, labels], [2, 1])
  log_probabilities = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)
  return -chosen[:, 0]


def regularized_cross_entropy(
  logits: jax.Array, labels: jax.Array, *, clip: float, penalty: float
) -> jax.Array:
  """Returns the cross-entropy of clipped logits with a penalty on their size.

  Of table 7 (paper, appendix C.1; method.md 5.1): with x = clip * tanh(logits /
  clip) it is cross_entropy(x, labels) + penalty * mean(x^2).

  Args:
    logits: float32 [B, classes].
    labels: int [B].
    clip: bound of the logits; 0 leaves them as they are.
    penalty: not negative.

  Returns:
    float32 [B], one loss an image.
  """
  if clip:
    logits = clip * jnp.tanh(logits / clip)
  penalties = penalty * jnp.mean(jnp.square(logits), axis=-1)
  return cross_entropy(logits, labels) + penalties


OBJECTIVES: dict[str, Objective] = {'regression': symmetric_regression_loss}


def make_objective(name: str) -> Objective:
  """Returns the objective of the config section `objective`."""
  return OBJECTIVES[name]
