"""Objectives: from the outputs of both networks to one loss an image.

An objective is a function (online, target) -> [B], each argument the pair of
outputs for view 1 and view 2. Spec 1.2; official file `utils/helpers.py`.
"""

from collections.abc import Callable
from typing import Protocol

import chex
import jax
import jax.numpy as jnp


class View(Protocol):
  """What a network made of one view: a `networks.Outputs`."""

  @property
  def projection(self) -> jax.Array: ...

  @property
  def prediction(self) -> jax.Array: ...


Pair = tuple[View, View]
Objective = Callable[[Pair, Pair], jax.Array]


def l2_normalize(x: jax.Array) -> jax.Array:
  """Unit vectors along the last axis; a zero vector stays zero."""
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  # The epsilon is on the squared norm, as in the official code.
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def regression_loss(prediction: jax.Array, projection: jax.Array) -> jax.Array:
  """Squared distance of the unit vectors, [B, D] and [B, D] -> [B]. Eq. 2."""
  chex.assert_rank([prediction, projection], 2)
  chex.assert_equal_shape([prediction, projection])
  difference = l2_normalize(prediction) - l2_normalize(projection)
  return jnp.sum(jnp.square(difference), axis=-1)


def regression(online: Pair, target: Pair) -> jax.Array:
  """BYOL's symmetric loss: the sum of both directions, [B] in [0, 8]."""
  projections = [jax.lax.stop_gradient(view.projection) for view in target]
  return regression_loss(
    online[0].prediction, projections[1]
  ) + regression_loss(online[1].prediction, projections[0])


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Softmax cross-entropy, [B, classes] and int [B] -> [B]."""
  chex.assert_rank([logits, labels], [2, 1])
  log_probabilities = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)
  return -chosen[:, 0]


OBJECTIVES: dict[str, Objective] = {'regression': regression}
