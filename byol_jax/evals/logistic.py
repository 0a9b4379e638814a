"""Logistic regression with an l2 penalty, on representations in memory.

The objective is the sum over the images of the softmax cross-entropy, or of
the sigmoid cross-entropies of classes that do not exclude each other, plus
penalty / 2 times the squared norm of the weights; biases have no penalty. For
a softmax it is that of scikit-learn with C = 1 / penalty.

L-BFGS (SciPy's) needs few evaluations where all directions have the same
curvature. So each penalty is solved in coordinates in which that nearly holds:
the principal axes of the centred representations, each divided by the square
root of its curvature. The axes are orthogonal and the bias is free, hence the
optimum is that of the raw representations.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import errors

_ROWS = 8192  # converted to float64 at once
_RANK = 1e-14  # of the largest squared singular value; less is rounding
_MIN_CURVATURE = 1e-10  # where all images have probabilities of 0 or 1
_TOLERANCE = 1e-4  # of the gradient, relative to the root of the objective
_HISTORY = 10  # pairs that L-BFGS keeps


class Classifier(NamedTuple):
  """A linear classifier: float32 [D, C] and [C].

  A class that cannot be fitted has weights of 0 and a bias of -inf: one
  without an image, or, among classes that do not exclude each other, one that
  all images have or lack.
  """

  weights: np.ndarray
  bias: np.ndarray

  def score(self, values: np.ndarray) -> np.ndarray:
    """Returns the scores of representations, [N, D] -> float32 [N, C]."""
    return values @ self.weights + self.bias


class Regression:
  """The classifiers of one training set.

  Args:
    values: representations, float32 [N, D], finite.
    targets: labels, int [N] in [0, num_classes): a softmax over the classes;
      or [N, num_classes] of 1 (has the class), 0 (lacks it) and -1 (does not
      count): a sigmoid for each class.
    num_classes: C.
    max_iterations: of L-BFGS, for one penalty.

  Raises:
    DataError: labels do not fit, fewer than two classes have images, or the
      representations are all equal.
  """

  def __init__(
    self,
    values: np.ndarray,
    targets: np.ndarray,
    num_classes: int,
    max_iterations: int = 1000,
  ) -> None:
    _check_labels(targets, num_classes)
    if (values == values[0]).all():
      raise errors.DataError(
        f'logistic regression: all {len(values)} representations are equal; the'
        ' encoder has collapsed'
      )
    self._shape = values.shape[1], num_classes
    self._max_iterations = max_iterations
    if targets.ndim == 1:
      self._classes = np.unique(targets)
      targets = np.searchsorted(self._classes, targets)
    else:
      varied = (targets == 1).any(axis=0) & (targets == 0).any(axis=0)
      self._classes = np.flatnonzero(varied)
      targets = targets[:, varied]
    if len(self._classes) < 1 + (targets.ndim == 1):
      raise errors.DataError(
        f'logistic regression: expected images of at least two classes of'
        f' {num_classes}, found {len(self._classes)}'
      )
    self._targets = jnp.asarray(targets, jnp.int32)
    self._mean = values.mean(axis=0, dtype=np.float64)
    self._squares, self._axes = _find_axes(values, self._mean)
    rotated = [
      (values[rows] - self._mean).astype(np.float32) @ self._axes
      for rows in _slices(len(values))
    ]
    self._values = jnp.asarray(np.concatenate(rotated))

  def fit(
    self, penalty: float, start: Classifier | None = None
  ) -> tuple[Classifier, int]:
    """Returns the classifier for a penalty, and the iterations that it took.

    Args:
      penalty: factor of half the squared norm of the weights, positive.
      start: of another penalty or another training set; None is zero.
    """
    weights, bias = self._to_axes(start)
    num_iterations, fell = 0, True
    # Curvatures and tolerance are those of the start: where the objective has
    # fallen a lot they are taken anew.
    while fell and num_iterations < self._max_iterations:
      before, found, scale = self._minimize(weights, bias, penalty)
      weights, bias = found.x[:-1] * scale[:-1], found.x[-1] * scale[-1]
      num_iterations += int(found.nit)
      fell = found.fun < before / 2
    return self._from_axes(weights, bias), num_iterations

  def _minimize(
    self, weights: np.ndarray, bias: np.ndarray, penalty: float
  ) -> tuple[float, Any, np.ndarray]:
    """Runs L-BFGS; returns objective before, SciPy's result, and the scale.

    The result's `x` and the scale are [R + 1, C]: weights, and bias.
    """
    curvature = _measure_curvature(
      weights, bias, self._values, is_softmax=self._targets.ndim == 1
    )
    curvature = np.maximum(np.asarray(curvature, np.float64), _MIN_CURVATURE)
    squares = np.append(self._squares, len(self._values))[:, None]
    penalties = np.append(np.full(len(squares) - 1, penalty), 0)[:, None]
    scale = 1 / np.sqrt(curvature * squares + penalties)
    device_scale = jnp.asarray(scale, jnp.float32)

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
      scaled = x.reshape(scale.shape).astype(np.float32)
      value, gradient = _evaluate(
        scaled, device_scale, penalty, self._values, self._targets
      )
      return float(value), np.asarray(gradient, np.float64).ravel()

    import scipy.optimize  # 0.3 s of the start of every verb

    start = np.vstack([weights, bias]) / scale
    before = objective(start.ravel())[0]
    found = scipy.optimize.minimize(
      objective,
      start.ravel(),
      jac=True,
      method='L-BFGS-B',
      options={
        'maxiter': self._max_iterations,
        'maxfun': 10 * self._max_iterations,
        'maxcor': _HISTORY,
        'gtol': _TOLERANCE * np.sqrt(before),
        'ftol': 1e-9,  # below the rounding of a sum in float32
      },
    )
    found.x = found.x.reshape(scale.shape)
    return before, found, scale

  def _to_axes(self, start: Classifier | None) -> tuple[np.ndarray, np.ndarray]:
    if start is None:
      num_classes = len(self._classes)
      shape = len(self._squares), num_classes
      return np.zeros(shape, np.float32), np.zeros(num_classes, np.float32)
    weights = start.weights[:, self._classes]
    bias = start.bias[self._classes] + self._mean @ weights
    # A class that the other training set lacked.
    bias = np.where(np.isfinite(bias), bias, 0)
    return self._axes.T @ weights, bias.astype(np.float32)

  def _from_axes(self, weights: np.ndarray, bias: np.ndarray) -> Classifier:
    weights = self._axes @ weights
    num_features, num_classes = self._shape
    found = Classifier(
      np.zeros((num_features, num_classes), np.float32),
      np.full(num_classes, -np.inf, np.float32),
    )
    found.weights[:, self._classes] = weights
    found.bias[self._classes] = bias - self._mean @ weights
    return found


def _check_labels(targets: np.ndarray, num_classes: int) -> None:
  low, high = (0, num_classes) if targets.ndim == 1 else (-1, 2)
  wrong = targets[(targets < low) | (targets >= high)]
  if wrong.size:
    raise errors.DataError(
      f'logistic regression: expected labels in [{low}, {high}), found'
      f' {wrong.flat[0]}; every image needs one'
    )


def _slices(count: int) -> list[slice]:
  return [slice(i, i + _ROWS) for i in range(0, count, _ROWS)]


def _find_axes(
  values: np.ndarray, mean: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the principal axes of centred rows, with their sums of squares.

  Returns:
    float64 [R], and float32 [D, R], orthonormal columns that span the rows.
  """
  parts = [values[rows] - mean for rows in _slices(len(values))]
  if len(values) < values.shape[1]:
    centred = np.concatenate(parts)
    squares, left = np.linalg.eigh(centred @ centred.T)
    kept = squares > _RANK * squares[-1]
    squares = squares[kept]
    axes = centred.T @ left[:, kept] / np.sqrt(squares)
  else:
    squares, axes = np.linalg.eigh(sum(part.T @ part for part in parts))
    kept = squares > _RANK * squares[-1]
    squares, axes = squares[kept], axes[:, kept]
  return squares, axes.astype(np.float32)


def _compute_scores(
  weights: jax.Array, bias: jax.Array, values: jax.Array
) -> jax.Array:
  scores = jnp.matmul(values, weights, precision=jax.lax.Precision.HIGHEST)
  return scores + bias


@jax.jit
@jax.value_and_grad
def _evaluate(
  scaled: jax.Array,
  scale: jax.Array,
  penalty: float,
  values: jax.Array,
  targets: jax.Array,
) -> jax.Array:
  """Returns the objective, of weights and bias [R + 1, C] divided by scale."""
  weights, bias = (scaled * scale)[:-1], (scaled * scale)[-1]
  scores = _compute_scores(weights, bias, values)
  # softplus keeps the digits of a loss that is nearly 0, which the difference
  # of a logsumexp and a score of the same size would not.
  if targets.ndim == 1:
    is_own = targets[:, None] == jnp.arange(scores.shape[1])
    own = jnp.sum(jnp.where(is_own, scores, 0), axis=1)
    others = jax.nn.logsumexp(jnp.where(is_own, -jnp.inf, scores), axis=1)
    losses = jax.nn.softplus(others - own)
  else:
    losses = jax.nn.softplus(jnp.where(targets > 0, -scores, scores))
    losses = jnp.where(targets < 0, 0, losses)
  return jnp.sum(losses) + penalty / 2 * jnp.sum(jnp.square(weights))


@functools.partial(jax.jit, static_argnames='is_softmax')
def _measure_curvature(
  weights: jax.Array, bias: jax.Array, values: jax.Array, *, is_softmax: bool
) -> jax.Array:
  """Returns the mean of p (1 - p) over the images, for each class."""
  scores = _compute_scores(weights, bias, values)
  shares = jax.nn.softmax(scores) if is_softmax else jax.nn.sigmoid(scores)
  return jnp.mean(shares * (1 - shares), axis=0)
