"""Defines the losses of BYOL and of its ablations (method.md 1.2, 4.6, 4.7).

An objective compares what two networks make of both views. Which parameters the
second one has, and whether a gradient reaches them, is decided in `byol`.
"""

from collections.abc import Callable
import functools
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp


class View(Protocol):
  """Outputs of a network for one view, as in `networks.Outputs`."""

  @property
  def projection(self) -> jax.Array: ...

  @property
  def prediction(self) -> jax.Array: ...


class Devices(Protocol):
  """What crosses devices inside a mapped step, as in the module `parallel`."""

  def mean(self, tree: Any) -> Any: ...

  def all_gather(self, x: jax.Array) -> jax.Array: ...

  def find_positions(self, per_device: int) -> jax.Array: ...


Pair = tuple[View, View]  # of view 1 and view 2
# (online, target) of one device -> float32 [b], one loss per image
Objective = Callable[[Pair, Pair], jax.Array]
# [b, D] of one device -> [b, D]
Normalize = Callable[[jax.Array], jax.Array]

EPSILON = 1e-12  # least squared norm that is divided by
# On TPUs the default products round to 8 bits, which 1 / temperature enlarges.
_multiply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def l2_normalize(x: jax.Array) -> jax.Array:
  """Returns x scaled to unit length along the last axis, [..., D].

  A zero vector stays zero. The epsilon of 1e-12 is on the squared norm, as in
  the official code.
  """
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, EPSILON))


def layer_normalize(x: jax.Array) -> jax.Array:
  """Returns (x - mean) / (deviation sqrt(D)) over the features, [..., D]."""
  return l2_normalize(x - jnp.mean(x, axis=-1, keepdims=True))


def batch_normalize(x: jax.Array, devices: Devices) -> jax.Array:
  """Returns (x - mean) / (deviation sqrt(D)) over the global batch, [b, D].

  The epsilon is that of `l2_normalize`; nothing is learned (method.md 4.6).
  """
  centered = x - devices.mean(jnp.mean(x, axis=0))
  variance = devices.mean(jnp.mean(jnp.square(centered), axis=0))
  square = x.shape[-1] * variance
  return centered * jax.lax.rsqrt(jnp.maximum(square, EPSILON))


# Table 20 of the paper; applied to predictions and projections.
NORMALIZATIONS: dict[str, Callable[[jax.Array, Devices], jax.Array]] = {
  'l2': lambda x, devices: l2_normalize(x),
  'layer_norm': lambda x, devices: layer_normalize(x),
  'batch_norm': batch_normalize,
  'none': lambda x, devices: x,
}


def regression_loss(
  prediction: jax.Array,
  projection: jax.Array,
  normalize: Normalize = l2_normalize,
) -> jax.Array:
  """Returns the squared distance after a normalization, [b, D] twice -> [b].

  Of unit vectors this is 2 - 2 cos(prediction, projection), paper eq. 2.
  """
  chex.assert_rank([prediction, projection], 2)
  chex.assert_equal_shape([prediction, projection])
  difference = normalize(prediction) - normalize(projection)
  return jnp.sum(jnp.square(difference), axis=-1)


def make_regression(
  devices: Devices, *, normalization: str, symmetric: bool
) -> Objective:
  """Returns BYOL's loss (method.md 1.2), with 'l2' in [0, 8].

  Args:
    devices: what crosses them.
    normalization: a key of `NORMALIZATIONS`.
    symmetric: whether it is the sum of both directions, or only that from the
      prediction of view 1 to the target's projection of view 2.
  """
  normalize = lambda x: NORMALIZATIONS[normalization](x, devices)

  def objective(online: Pair, target: Pair) -> jax.Array:
    loss = regression_loss(
      online[0].prediction, target[1].projection, normalize
    )
    if symmetric:
      loss += regression_loss(
        online[1].prediction, target[0].projection, normalize
      )
    return loss

  return objective


def info_nce_loss(
  anchors: jax.Array,
  same: jax.Array,
  crossed: jax.Array,
  positions: jax.Array,
  *,
  temperature: float,
  negatives_weight: float,
) -> jax.Array:
  """Returns one direction of generalised InfoNCE (method.md 4.7), float32 [b].

  With s = cosine / temperature, an anchor i's loss is -s(i, crossed i) +
  negatives_weight * ln(sum_{j != i} exp s(i, same j) + sum_j exp s(i, crossed
  j)).

  Args:
    anchors: unit vectors of this device's images in one view, [b, D].
    same: unit vectors of all images in that view, [B, D].
    crossed: of all images in the other view, [B, D].
    positions: of this device's images among all, int [b].
    temperature: alpha of the paper.
    negatives_weight: beta.
  """
  chex.assert_equal_shape([same, crossed])
  is_own = positions[:, None] == jnp.arange(len(same))
  to_same = _multiply(anchors, same.T) / temperature
  to_crossed = _multiply(anchors, crossed.T) / temperature
  to_same = jnp.where(is_own, -jnp.inf, to_same)
  both = jnp.concatenate([to_same, to_crossed], axis=1)
  negatives = jax.nn.logsumexp(both, axis=1)
  positive = jnp.sum(jnp.where(is_own, to_crossed, 0), axis=1)
  return negatives_weight * negatives - positive


def make_info_nce(
  devices: Devices,
  *,
  temperature: float,
  negatives_weight: float,
  from_prediction: bool,
  scale_by_temperature: bool,
) -> Objective:
  """Returns generalised InfoNCE of the global batch (paper eq. 6, 7).

  It is the sum of both directions, each with one of the views as anchors; with
  negatives_weight 0 it is BYOL's loss less 4.

  Args:
    devices: what crosses them.
    temperature: alpha of the paper, greater than 0.
    negatives_weight: beta, not negative.
    from_prediction: whether the anchors are predictions, or projections.
    scale_by_temperature: whether the loss is times 2 temperature, as in eq. 6;
      SimCLR as published is without it.
  """
  scale = 2 * temperature if scale_by_temperature else 1.0

  def objective(online: Pair, target: Pair) -> jax.Array:
    view1, view2 = (
      l2_normalize(view.prediction if from_prediction else view.projection)
      for view in online
    )
    all1, all2 = (
      devices.all_gather(l2_normalize(view.projection)) for view in target
    )
    loss = functools.partial(
      info_nce_loss,
      positions=devices.find_positions(len(view1)),
      temperature=temperature,
      negatives_weight=negatives_weight,
    )
    return scale * (loss(view1, all1, all2) + loss(view2, all2, all1))

  return objective


def solve_linear_predictor(
  projection: jax.Array, target: jax.Array, ridge: float, devices: Devices
) -> jax.Array:
  """Returns the matrix Q of least squares over the global batch, [D, D].

  It minimises the mean over images of |projection Q - target|^2, plus ridge
  times the mean square of a projection's numbers times |Q|^2, so that the scale
  of the projections does not matter (method.md 4.6).

  Args:
    projection: [b, D], of this device's images.
    target: [b, D].
    ridge: greater than 0.
    devices: what crosses them.
  """
  chex.assert_equal_shape([projection, target])
  size = projection.shape[1]
  rows = projection.T / len(projection)
  gram, cross = devices.mean(
    (_multiply(rows, projection), _multiply(rows, target))
  )
  mean_square = jnp.maximum(jnp.trace(gram) / size, EPSILON)
  gram += ridge * mean_square * jnp.eye(size)
  return jax.scipy.linalg.solve(gram, cross, assume_a='pos')


def make_optimal_linear(
  devices: Devices, *, ridge: float, stop_predictor_gradient: bool
) -> Objective:
  """Returns BYOL's loss with the optimal linear predictor of the batch.

  Each direction has its own predictor (paper, appendix I.2; method.md 4.6); the
  network's predictor is not used.

  Args:
    devices: what crosses them.
    ridge: see `solve_linear_predictor`.
    stop_predictor_gradient: whether the gradient flows through the projections
      that are multiplied only, not through the matrix.
  """

  def predict(projection: jax.Array, target: jax.Array) -> jax.Array:
    matrix = solve_linear_predictor(projection, target, ridge, devices)
    if stop_predictor_gradient:
      matrix = jax.lax.stop_gradient(matrix)
    return _multiply(projection, matrix)

  def objective(online: Pair, target: Pair) -> jax.Array:
    (online1, online2), (target1, target2) = (
      [view.projection for view in pair] for pair in (online, target)
    )
    loss1 = regression_loss(predict(online1, target2), target2)
    return loss1 + regression_loss(predict(online2, target1), target1)

  return objective


def cross_entropy(
  logits: jax.Array, labels: jax.Array, smoothing: float = 0.0
) -> jax.Array:
  """Returns the softmax cross-entropy, [B, classes] and int [B] -> [B].

  `smoothing`, in [0, 1), is the share of a target that all classes have alike.
  """
  chex.assert_rank([logits, labels], [2, 1])
  log_probabilities = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)
  if smoothing:
    alike = jnp.mean(log_probabilities, axis=-1)
    return -(1 - smoothing) * chosen[:, 0] - smoothing * alike
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


OBJECTIVES: dict[str, Callable[..., Objective]] = {
  'regression': make_regression,
  'info_nce': make_info_nce,
  'optimal_linear': make_optimal_linear,
}


def make_objective(name: str, devices: Devices, **settings: Any) -> Objective:
  """Returns the objective of the config section `objective`.

  Args:
    name: a key of `OBJECTIVES`.
    devices: what crosses them: the module `parallel`.
    **settings: keyword arguments of that objective's factory.

  Raises:
    KeyError: the name is unknown.
    TypeError: the objective does not take a setting.
  """
  return OBJECTIVES[name](devices, **settings)


def reads_prediction(name: str, **settings: Any) -> bool:
  """Returns whether an objective compares predictions, or only projections.

  Arguments as of `make_objective`.
  """
  return name == 'regression' or bool(settings.get('from_prediction'))
