"""No number that is none enters a state.

One step with a value that is not finite, in any image or on any device, would
spread: gradients are averaged over all devices, momentum, batch-norm averages
and the target remember. So each step decides, on the devices and for all of
them alike, whether its result is taken.
"""

from typing import Any

import jax
import jax.numpy as jnp

from byol_jax import parallel

SKIPPED = 'skipped'  # the scalar: 1 for a step that left the state as it was


def is_finite(large: Any, small: Any) -> jax.Array:
  """Whether every number is finite, on every device; bool []. Inside `pmap`.

  One all-reduce of one number, no word with the host.

  Args:
    large: gradients and the parameters that they are of: the sum of each
      array's squares must be finite, so no element above 1.8e19. Then momentum,
      parameters and target after the step are finite too, without another
      pass over them: what is added to them is a few times larger at most.
    small: scalars and batch-norm averages, each element looked at.
  """
  sums = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(large)]
  flags = [
    jnp.all(jnp.isfinite(x))
    for x in jax.tree.leaves((sums, small))
    if jnp.issubdtype(x.dtype, jnp.inexact)
  ]
  # Counted by a dot product: on one device a compiler repeats a chain of
  # hundreds of ands in the loop of every leaf that `select` chooses, and then
  # takes seven times as long to compile; a product it computes once.
  found = jnp.stack(flags).astype(jnp.float32)
  count = jnp.dot(found, jnp.ones_like(found))
  return parallel.all_true(count == len(flags))


def select(is_finite: jax.Array, new: Any, old: Any) -> Any:
  """`new` or, bit for bit, `old` with the counts of `new`.

  `step` goes on, which data and schedules follow, and so do the optimiser's
  own counts, so that its rate stays that of the step.

  Args:
    is_finite: bool [].
    new: a state with the fields `step` and `opt_state`.
    old: the one before the step.
  """

  def choose(new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(is_finite, new, old)

  def count(new: jax.Array, old: jax.Array) -> jax.Array:
    return new if jnp.issubdtype(new.dtype, jnp.integer) else choose(new, old)

  kept = jax.tree.map(choose, new, old)
  opt_state = jax.tree.map(count, new.opt_state, old.opt_state)
  return kept._replace(step=new.step, opt_state=opt_state)
