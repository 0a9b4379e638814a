"""Skips a step that produced a value that is not finite.

One such value, in any image on any device, would spread: gradients are
averaged over all devices and kept in momentum, batch-norm averages and target
parameters. So each step decides on the devices, the same on all of them,
whether its result replaces the state.
"""

from typing import Any

import jax
import jax.numpy as jnp

from byol_jax import parallel

SKIPPED = 'skipped'  # name of the scalar that is 1 for a skipped step


def is_finite(large: Any, small: Any) -> jax.Array:
  """Returns whether all values are finite on all devices; inside `pmap`.

  Costs one all-reduce of one number and no transfer to the host.

  Args:
    large: gradients and the parameters they belong to. The sum of squares of
      each array must be finite, which bounds its elements by 1.8e19. Momentum,
      parameters and target after the step are then finite too, without another
      pass over them: the step adds at most a few times these values.
    small: scalars and batch-norm averages; each element is checked.

  Returns:
    bool [].
  """
  sums = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(large)]
  flags = [
    jnp.all(jnp.isfinite(x))
    for x in jax.tree.leaves((sums, small))
    if jnp.issubdtype(x.dtype, jnp.inexact)
  ]
  # Counted by a dot product, which XLA computes once. A chain of hundreds of
  # logical ands is repeated, on one device, in the loop of every leaf that
  # `select` writes, and takes seven times as long to compile.
  found = jnp.stack(flags).astype(jnp.float32)
  count = jnp.dot(found, jnp.ones_like(found))
  return parallel.all_true(count == len(flags))


def select(is_finite: jax.Array, new: Any, old: Any) -> Any:
  """Returns the state `new`, or `old` bit for bit with the counts of `new`.

  `step`, which data and schedules follow, always advances. So do the integer
  leaves of `opt_state`, so that the learning rate stays that of the step.
  """

  def choose(new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(is_finite, new, old)

  def count(new: jax.Array, old: jax.Array) -> jax.Array:
    return new if jnp.issubdtype(new.dtype, jnp.integer) else choose(new, old)

  kept = jax.tree.map(choose, new, old)
  opt_state = jax.tree.map(count, new.opt_state, old.opt_state)
  return kept._replace(step=new.step, opt_state=opt_state)
