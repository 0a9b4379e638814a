"""The method: state, loss, update (paper 3.1, algorithm 1; spec 1).

Pure functions; no config, file, clock or host. `update` runs inside `pmap`
over `parallel.AXIS`. Two networks of one architecture: the online one learns
to predict the target's projection of the other view, the target follows by a
moving average.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byol_jax import (
  augment as augmentation,
  finite,
  losses,
  metrics,
  monitor,
  networks,
  parallel,
)

# view1, view2: float32 [B, H, W, 3] in [0, 1]; labels: int32 [B], if any.
Batch = Mapping[str, jax.Array]
Scalars = dict[str, jax.Array]
# (online_params, state, batch) -> loss [], (network states, scalars)
LossFn = Callable[..., tuple[jax.Array, tuple[dict[str, Any], Scalars]]]


class ByolState(NamedTuple):
  """All that a resumed run needs."""

  step: jax.Array  # int32 [], updates done
  rng: jax.Array  # uint32 [2], the run's key, never advanced
  online_params: networks.Params
  target_params: networks.Params
  online_state: networks.NetState  # batch-norm averages
  target_state: networks.NetState
  opt_state: optax.OptState


def init(
  forward: networks.Forward,
  optimizer: optax.GradientTransformation,
  rng: jax.Array,
  images: jax.Array,
) -> ByolState:
  """The state before step 0; runs under `parallel.AXIS`.

  Args:
    forward: the network.
    optimizer: sees the online parameters only.
    rng: uint32 [2]; both networks take keys of their own from it (spec 1.3).
    images: [B, H, W, 3], for their shape.
  """
  online_key, target_key = jax.random.split(rng)
  online_params, online_state = forward.init(online_key, images, True)
  target_params, target_state = forward.init(target_key, images, True)
  return ByolState(
    step=jnp.zeros((), jnp.int32),
    rng=rng,
    online_params=online_params,
    target_params=target_params,
    online_state=online_state,
    target_state=target_state,
    opt_state=optimizer.init(online_params),
  )


def make_loss(
  forward: networks.Forward,
  augments: tuple[augmentation.Augment, augmentation.Augment],
  objective: losses.Objective,
) -> LossFn:
  """The loss of one device's images under the online parameters.

  Each view is a forward pass of its own: views never share batch statistics.
  Both networks run in training mode, the target's included (spec 1.3).
  """

  def loss_fn(
    online_params: networks.Params, state: ByolState, batch: Batch
  ) -> tuple[jax.Array, tuple[dict[str, Any], Scalars]]:
    keys = parallel.image_keys(state.rng, state.step, len(batch['view1']))
    views = [
      augment(batch[name], jax.vmap(jax.random.fold_in, (0, None))(keys, i))
      for i, (name, augment) in enumerate(
        zip(('view1', 'view2'), augments, strict=True)
      )
    ]
    online, online_state = both(
      forward, online_params, state.online_state, views
    )
    target, target_state = both(
      forward, state.target_params, state.target_state, views
    )
    repr_loss = jnp.mean(objective(online, jax.lax.stop_gradient(target)))
    scalars = {
      'repr_loss': repr_loss,
      'projection_std': monitor.projection_std(
        online[0].projection, parallel.mean
      ),
    }
    if online[0].logits is not None:
      # The probe sees view 1 only (spec 1.4).
      scalars |= probe(online[0].logits, batch['labels'])
    scalars['loss'] = repr_loss + scalars.get('classif_loss', 0.0)
    states = {'online_state': online_state, 'target_state': target_state}
    return scalars['loss'], (states, scalars)

  return loss_fn


def both(
  forward: networks.Forward,
  params: networks.Params,
  state: networks.NetState,
  views: list[jax.Array],
) -> tuple[tuple[networks.Outputs, networks.Outputs], networks.NetState]:
  """View 1, then view 2; the batch-norm averages move at each."""
  first, state = forward.apply(params, state, views[0], is_training=True)
  second, state = forward.apply(params, state, views[1], is_training=True)
  return (first, second), state


def probe(logits: jax.Array, labels: jax.Array) -> Scalars:
  """Loss and accuracy of the online classifier, means over the batch."""
  return {
    'classif_loss': jnp.mean(losses.cross_entropy(logits, labels)),
    'top1_accuracy': jnp.mean(metrics.in_top_k(logits, labels, 1)),
    'top5_accuracy': jnp.mean(metrics.in_top_k(logits, labels, 5)),
  }


def make_update(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  tau: optax.Schedule,
  learning_rate: optax.Schedule,
) -> Callable[[ByolState, Batch], tuple[ByolState, Scalars]]:
  """One step: gradient of the online network, then the moving average.

  A step in which anything is not finite leaves the state as it was but for its
  number, and says so by the scalar `skipped` (see `guard`).

  Args:
    loss_fn: from `make_loss`.
    optimizer: its updates are added to the online parameters.
    tau: decay of the target at a step, in [0, 1].
    learning_rate: for the log; the optimiser has its own.
  """

  def update(state: ByolState, batch: Batch) -> tuple[ByolState, Scalars]:
    grads, (states, scalars) = jax.grad(loss_fn, has_aux=True)(
      state.online_params, state, batch
    )
    grads, scalars = parallel.mean((grads, scalars))
    updates, opt_state = optimizer.update(
      grads, state.opt_state, state.online_params
    )
    online_params = optax.apply_updates(state.online_params, updates)
    # After the optimiser, with the new online parameters.
    decay = tau(state.step)
    target_params = optax.incremental_update(
      online_params, state.target_params, step_size=1 - decay
    )
    new = state._replace(
      step=state.step + 1,
      online_params=online_params,
      target_params=target_params,
      opt_state=opt_state,
      **states,
    )
    is_finite = finite.is_finite(
      (grads, state.online_params), (states, scalars)
    )
    scalars |= {
      'tau': decay,
      'learning_rate': learning_rate(state.step),
      finite.SKIPPED: 1.0 - is_finite,
    }
    return finite.select(is_finite, new, state), scalars

  return update
