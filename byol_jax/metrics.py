"""Computes metrics: accuracies, precision, and what shows a collapse."""

from collections.abc import Callable
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import losses

ROWS = 1024  # that are scored at once
# Average over the devices, such as `parallel.mean`.
Mean = Callable[[jax.Array], jax.Array]


def in_top_k(scores: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Returns whether the label is among the k best, [B, C], int [B] -> bool [B].

  Of equal scores the lower class ranks higher. With at most k classes every
  label is among the best; a label whose score is NaN never is.
  """
  chex.assert_rank([scores, labels], [2, 1])
  chosen = jnp.take_along_axis(scores, labels[:, None], axis=-1)
  is_lower = jnp.arange(scores.shape[-1]) < labels[:, None]
  better = jnp.where(is_lower, scores >= chosen, scores > chosen)
  # The label's own score may be computed twice, with another rounding.
  is_other = jnp.arange(scores.shape[-1]) != labels[:, None]
  rank = jnp.sum(better & is_other, axis=-1)
  return (rank < k) & ~jnp.isnan(chosen[:, 0])


def find_hits(
  compute_scores: Callable[[Any, Any], jax.Array],
  params: Any,
  values: np.ndarray,
  labels: np.ndarray,
) -> dict[str, np.ndarray]:
  """Returns which labels are the best, and which among the five best.

  Args:
    compute_scores: (params, rows of values) -> scores of R classifiers,
      [R, B, C]; compiled once for each function.
    params: of the classifiers.
    values: float32 [N, D], in the memory of the host.
    labels: int [N].

  Returns:
    `top1` and, of more than five classes, `top5`: bool [R, N].
  """
  parts = [
    jax.device_get(
      _find_hits(
        compute_scores, params, values[i : i + ROWS], labels[i : i + ROWS]
      )
    )
    for i in range(0, len(labels), ROWS)
  ]
  return jax.tree.map(lambda *x: np.concatenate(x, axis=-1), *parts)


@functools.partial(jax.jit, static_argnames='compute_scores')
def _find_hits(
  compute_scores: Callable, params: Any, values: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
  scores = compute_scores(params, values)
  ks = (1, 5) if scores.shape[-1] > 5 else (1,)
  return {
    f'top{k}': jnp.stack([in_top_k(one, labels, k) for one in scores])
    for k in ks
  }


def mean_per_class(hits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
  """Returns the mean over the classes of the share of their images hit.

  Args:
    hits: bool [N].
    labels: int [N], not negative; a class without an image does not count.

  Returns:
    The mean, in [0, 1], and half the width of its 95 % interval: the shares of
    the classes are independent, and the variance of each is that of a share
    with one more hit and one more miss, so that few images never mean none.
  """
  counts = np.bincount(labels)
  found = np.bincount(labels, weights=hits)[counts > 0]
  counts = counts[counts > 0]
  shares = (found + 1) / (counts + 2)
  variance = np.sum(shares * (1 - shares) / counts) / len(counts) ** 2
  return float(np.mean(found / counts)), 1.96 * float(np.sqrt(variance))


def interpolated_precision(
  scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray
) -> np.ndarray:
  """Returns the 11-point average precision of PASCAL VOC 2007.

  The mean over recalls of 0, 0.1, ..., 1 of the best precision at that recall
  or a higher one. Images of equal scores are retrieved together.

  Args:
    scores: float [N].
    relevant: bool [N].
    weights: int [..., N], how often each image counts.

  Returns:
    float64 [...] in [0, 1]; NaN where no image is relevant.
  """
  order = np.argsort(-scores, kind='stable')
  ranked = scores[order]
  ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
  weights = weights[..., order]
  hits = np.cumsum(weights * relevant[order], axis=-1)[..., ends]
  seen = np.cumsum(weights, axis=-1)[..., ends]
  precision = hits / np.maximum(seen, 1)
  best = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
  total = hits[..., -1:]
  found = [
    # In integers: 3 of 10 is a recall of 0.3.
    np.take_along_axis(
      best, np.sum(10 * hits < i * total, axis=-1, keepdims=True), axis=-1
    )[..., 0]
    for i in range(11)
  ]
  return np.where(total[..., 0] > 0, np.mean(found, axis=0), np.nan)


def mean_average_precision(
  scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
  """Returns the mean over the classes of `interpolated_precision`.

  Args:
    scores: float [N, C].
    targets: int [N, C]: 1 has the class, 0 lacks it, -1 does not count for it.
      A class that no image has does not count.
    weights: int [..., N], how often each image counts; by default once.

  Returns:
    float64 [...] in [0, 1].
  """
  if weights is None:
    weights = np.ones(len(scores), np.int64)
  found = []
  for i in range(scores.shape[1]):
    rows = targets[:, i] >= 0
    relevant = targets[rows, i] == 1
    if relevant.any():
      found.append(
        interpolated_precision(scores[rows, i], relevant, weights[..., rows])
      )
  return np.nanmean(found, axis=0)


def projection_std(projection: jax.Array, mean: Mean) -> jax.Array:
  """Returns the spread of the unit projections over the global batch.

  It falls to 0 where the representation collapses.

  Args:
    projection: float32 [B, D], of one device.
    mean: average over the devices, such as `parallel.mean`.

  Returns:
    float32 [] in [0, 1], the square root of the summed variances: 0 when all
    projections have the same direction (collapse), 1 when their mean is zero.
  """
  unit = losses.l2_normalize(projection)
  first = mean(jnp.mean(unit, axis=0))
  second = mean(jnp.mean(jnp.square(unit), axis=0))
  variance = jnp.maximum(second - jnp.square(first), 0.0)
  return jnp.sqrt(jnp.sum(variance))


def effective_rank(projection: jax.Array, mean: Mean) -> jax.Array:
  """Returns in how many directions the unit projections differ.

  Of the eigenvalues x of their covariance over the global batch it is
  sum(x)^2 / sum(x^2), the participation ratio, for which no eigenvalue has to
  be computed.

  Args:
    projection: float32 [B, D], of one device.
    mean: average over the devices.

  Returns:
    float32 []: n for n directions of equal variance, at most D; 0 when all
    projections are the same.
  """
  unit = losses.l2_normalize(projection)
  centred = unit - mean(jnp.mean(unit, axis=0))
  covariance = mean(
    jnp.matmul(centred.T, centred, precision='highest') / len(unit)
  )
  # Divided first: the squares of small variances are no float32.
  shares = covariance / jnp.maximum(jnp.trace(covariance), 1e-12)
  return jnp.trace(shares) / jnp.maximum(jnp.sum(jnp.square(shares)), 1e-12)


def cosines(
  prediction: jax.Array, projection: jax.Array, mean: Mean
) -> tuple[jax.Array, jax.Array]:
  """Returns the cosines of predictions with what they predict, averaged.

  Args:
    prediction: float32 [B, D], of one device.
    projection: float32 [B, D], of the same images.
    mean: average over the devices.

  Returns:
    Means over the global batch, float32 [] in [-1, 1]: of the cosines with the
    projection of the same image, and of those with all projections.
  """
  units = losses.l2_normalize(prediction), losses.l2_normalize(projection)
  own = mean(jnp.mean(jnp.sum(units[0] * units[1], axis=-1)))
  centres = [mean(jnp.mean(unit, axis=0)) for unit in units]
  return own, jnp.sum(centres[0] * centres[1])


def dead_units(values: jax.Array, mean: Mean) -> jax.Array:
  """Returns the share of units that are positive for no image, [] in [0, 1].

  Args:
    values: float32 [B, D], of one device.
    mean: average over the devices.
  """
  is_alive = mean(jnp.any(values > 0, axis=0).astype(jnp.float32)) > 0
  return 1 - jnp.mean(is_alive)


def find_signs(
  online: Any, target: jax.Array, mean: Mean
) -> dict[str, jax.Array]:
  """Returns the signs of a collapse in the outputs for a batch.

  Args:
    online: `networks.Outputs` of one device; the predictions are what the
      objective compares with `target`.
    target: float32 [B, D], what they shall predict.
    mean: average over the devices.

  Returns:
    float32 [] each; `training.scalars` says what they mean.
  """
  own, any_image = cosines(online.prediction, target, mean)
  norms = jnp.linalg.norm(online.prediction, axis=-1)
  return {
    'effective_rank': effective_rank(online.projection, mean),
    'target_cosine': own,
    'target_margin': own - any_image,
    'prediction_norm': mean(jnp.mean(norms)),
    'dead_units': dead_units(online.representation, mean),
  }
