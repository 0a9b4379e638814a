"""Computes gradients, of all images at once or of sub-batches (method.md 4.7).

Accumulation gives a large batch the memory of a small one: one device computes
what several devices with a sub-batch each would.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from byol_jax import byol, networks, parallel


def make_gradients(
  loss_fn: byol.LossFn, *, accumulate: int = 1, bn_group: int = 0
) -> byol.GradientFn:
  """Returns the gradients of the loss of one device's images.

  The images of each device are divided into `accumulate` sub-batches, which are
  computed one after another in the memory of one. Batch statistics and the
  objective are computed over one sub-batch. Each starts from the batch-norm
  averages of the state; gradients, new averages and scalars are means over the
  sub-batches. One device then computes what `accumulate` devices with a
  sub-batch each and `bn_group` 1 compute.

  Args:
    loss_fn: from `byol.make_loss`.
    accumulate: number of sub-batches; divides the images of a device.
    bn_group: of `networks.make_forward`; new averages are means over groups.
  """
  compute: byol.GradientFn = jax.grad(loss_fn, has_aux=True)
  if accumulate > 1:
    compute = functools.partial(_accumulate, compute, accumulate)
  if not bn_group:
    return compute

  def compute_and_combine(*args: Any) -> Any:
    grads, (states, scalars) = compute(*args)
    return grads, (parallel.mean_averages(states), scalars)

  return compute_and_combine


def _accumulate(
  compute: byol.GradientFn,
  count: int,
  online_params: networks.Params,
  state: byol.ByolState,
  batch: byol.Batch,
) -> tuple[networks.Params, tuple[dict[str, Any], byol.Scalars]]:
  """Returns the means of `compute` over `count` parts of a batch."""
  # What does not depend on how a batch is divided.
  batch = {**batch, 'keys': byol.make_keys(state, batch)}
  whole = {}
  if 'is_labelled' in batch:
    whole = {'labelled': byol.compute_label_share(batch)}

  def add(sums: Any, part: byol.Batch) -> tuple[Any, byol.Scalars]:
    grads, (states, scalars) = compute(online_params, state, {**part, **whole})
    return jax.tree.map(jnp.add, sums, (grads, states)), scalars

  states = {k: getattr(state, k) for k in ('online_state', 'target_state')}
  scan = functools.partial(jax.lax.scan, add)
  # XLA on a CPU is 14 times slower at the convolutions of a loop
  # (benchmarks/results/accumulate.json), and there memory is not short.
  sums, scalars = jax.lax.platform_dependent(
    jax.tree.map(jnp.zeros_like, (online_params, states)),
    {k: x.reshape(count, -1, *x.shape[1:]) for k, x in batch.items()},
    cpu=functools.partial(scan, unroll=True),
    default=scan,
  )
  # The counters of batch norm are the same in all parts.
  divide = lambda x: x // count if x.dtype == jnp.int32 else x / count
  grads, states = jax.tree.map(divide, sums)
  scalars = jax.tree.map(lambda x: jnp.mean(x, axis=0), scalars)
  return grads, (states, scalars)
