"""Defines BYOL's state, loss and update (paper 3.1; method.md 1).

Two networks have the same architecture: the online network learns to predict
the target network's projection of the other view, and the target network is a
moving average of the online one. All functions are pure and read no
configuration, file or clock. `update` runs inside `pmap` over `parallel.AXIS`.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byol_jax import (
  augment as augmentation,
  losses,
  metrics,
  networks,
  parallel,
  schedules,
)

# view1, view2: float32 [B, H, W, 3] in [0, 1]; labels: int32 [B], if any;
# is_labelled: bool [B], where some images have no label. A sub-batch has what
# follows from the whole batch: keys, uint32 [B, 2], and labelled, float32 [].
Batch = Mapping[str, jax.Array]
Scalars = dict[str, jax.Array]
# (online_params, state, batch) -> loss [], (network states, scalars)
LossFn = Callable[..., tuple[jax.Array, tuple[dict[str, Any], Scalars]]]
# (online_params, state, batch) -> gradients, (network states, scalars)
GradientFn = Callable[
  ..., tuple[networks.Params, tuple[dict[str, Any], Scalars]]
]


class ByolState(NamedTuple):
  """Holds everything that a resumed run needs."""

  step: jax.Array  # int32 [], completed updates
  rng: jax.Array  # uint32 [2], key of the run, never advanced
  online_params: networks.Params
  target_params: networks.Params
  online_state: networks.NetState  # batch-norm averages
  target_state: networks.NetState
  opt_state: optax.OptState


# (online_params, state) -> parameters of the target's forward pass
GetTargetParams = Callable[[networks.Params, ByolState], networks.Params]

# Value of `target.parameters` -> whose parameters the target network has, and
# whether a gradient flows into them: xi, sg(theta), theta of method.md 4.7.
TARGET_PARAMS: dict[str, GetTargetParams] = {
  'average': lambda online_params, state: jax.lax.stop_gradient(
    state.target_params
  ),
  'online_stopped': lambda online_params, state: jax.lax.stop_gradient(
    online_params
  ),
  'online': lambda online_params, state: online_params,
}


class Target(NamedTuple):
  """The target network: its parameters, and how the moving average goes."""

  get_params: GetTargetParams
  start: str  # 'random' or 'online'
  tau: optax.Schedule  # step -> decay, in [0, 1]


def make_target(
  *,
  parameters: str,
  start: str,
  base_tau: float,
  schedule: str,
  total_steps: int,
) -> Target:
  """Returns the target network of the config section `target`.

  Args:
    parameters: a key of `TARGET_PARAMS`.
    start: of the moving average: 'random', or 'online' like that network.
    base_tau: see `schedules.tau_schedule`.
    schedule: the same.
    total_steps: the same.
  """
  tau = schedules.tau_schedule(base_tau, total_steps, schedule)
  return Target(TARGET_PARAMS[parameters], start, tau)


def init(
  forward: networks.Forward,
  optimizer: optax.GradientTransformation,
  rng: jax.Array,
  images: jax.Array,
  start: str = 'random',
) -> ByolState:
  """Returns the state before step 0; runs under `parallel.AXIS`.

  The two networks are initialised with two keys split from `rng`, uint32 [2],
  the key of the run (method.md 1.3), with `start` of 'online' by the same one.
  Of `images`, float32 [B, H, W, 3], only the shape is used.
  """
  online_key, target_key = jax.random.split(rng)
  target_key = {'random': target_key, 'online': online_key}[start]
  online_params, online_state = forward.init(online_key, images, True)
  target_params, target_state = forward.init(target_key, images, True)
  return ByolState(
    step=jnp.zeros((), jnp.int32),
    rng=rng,
    online_params=online_params,
    target_params=target_params,
    online_state=online_state,
    target_state=target_state,
    opt_state=jax.jit(optimizer.init)(online_params),  # one program
  )


def make_loss(
  forward: networks.Forward,
  augments: tuple[augmentation.Augment, augmentation.Augment],
  objective: losses.Objective,
  get_target_params: GetTargetParams = TARGET_PARAMS['average'],
) -> LossFn:
  """Returns the loss of one device's images (method.md 1.2 to 1.4).

  Both views go through a network in one call, in which they never share batch
  statistics. Both networks run in training mode (method.md 1.3).

  Args:
    forward: the network, its batch statistics averaged over `parallel.AXIS`.
    augments: of view 1 and of view 2.
    objective: from `losses.make_objective`.
    get_target_params: a value of `TARGET_PARAMS`.

  Returns:
    A `LossFn`; the network states are a dict of `online_state` and
    `target_state`, the loss and the scalars are float32 [].
  """

  def loss_fn(
    online_params: networks.Params, state: ByolState, batch: Batch
  ) -> tuple[jax.Array, tuple[dict[str, Any], Scalars]]:
    views = _augment_views(augments, state, batch)
    online, online_state = _apply_to_views(
      forward, online_params, state.online_state, views
    )
    target_params = get_target_params(online_params, state)
    target, target_state = _apply_to_views(
      forward, target_params, state.target_state, views
    )
    byol_loss = jnp.mean(objective(online, target))
    scalars = {
      'byol_loss': byol_loss,
      'projection_std': metrics.projection_std(
        online[0].projection, parallel.mean
      ),
    }
    if online[0].logits is not None:
      # The classifier is trained on view 1 only (method.md 1.4).
      scalars |= _score_classifier(online[0].logits, batch)
    scalars['total_loss'] = byol_loss + scalars.get('classifier_loss', 0.0)
    states = {'online_state': online_state, 'target_state': target_state}
    return scalars['total_loss'], (states, scalars)

  return loss_fn


def _augment_views(
  augments: tuple[augmentation.Augment, augmentation.Augment],
  state: ByolState,
  batch: Batch,
) -> list[jax.Array]:
  """Returns both views, augmented with the keys of the step."""
  keys = make_keys(state, batch)
  return [
    augment(batch[f'view{i + 1}'], parallel.fold_in_view(keys, i))
    for i, augment in enumerate(augments)
  ]


def make_keys(state: ByolState, batch: Batch) -> jax.Array:
  """Returns the keys of the images, uint32 [B, 2]."""
  if 'keys' in batch:
    return batch['keys']
  return parallel.make_image_keys(state.rng, state.step, len(batch['view1']))


def _apply_to_views(
  forward: networks.Forward,
  params: networks.Params,
  state: networks.NetState,
  views: list[jax.Array],
) -> tuple[tuple[networks.Outputs, networks.Outputs], networks.NetState]:
  """Returns the outputs for view 1 and view 2 in training mode.

  Each view moves the batch-norm averages of the state that is returned.
  """
  outputs, state = forward.apply(
    params, state, jnp.stack(views), is_training=True
  )
  select = lambda view: jax.tree.map(lambda x: x[view], outputs)
  return (select(0), select(1)), state


def _score_classifier(logits: jax.Array, batch: Batch) -> Scalars:
  """Returns mean loss and accuracies, [], of the images with a label.

  `logits` are float32 [B, C]. A set whose images all have a label gives no
  `is_labelled`, and no weights are in its step. Else `labelled` is the share of
  images with a label in the batch of all devices.
  """
  labels, mean, scalars = batch['labels'], jnp.mean, {}
  if 'is_labelled' in batch:
    is_labelled, share = batch['is_labelled'], compute_label_share(batch)
    labels, scalars = jnp.where(is_labelled, labels, 0), {'labelled': share}
    mean = functools.partial(_mean_of_labelled, is_labelled, share)
  return scalars | {
    'classifier_loss': mean(losses.cross_entropy(logits, labels)),
    'top1_accuracy': mean(metrics.in_top_k(logits, labels, 1)),
    'top5_accuracy': mean(metrics.in_top_k(logits, labels, 5)),
  }


def compute_label_share(batch: Batch) -> jax.Array:
  """Returns the share of the images of all devices with a label, []."""
  if 'labelled' in batch:
    return batch['labelled']
  return parallel.mean(jnp.mean(batch['is_labelled']))


def _mean_of_labelled(
  is_labelled: jax.Array, share: jax.Array, values: jax.Array
) -> jax.Array:
  """Returns [] of [B]; its mean over devices is that over all labelled images.

  Without one in the batch of all devices it is 0. `share` is theirs.
  """
  weighted = jnp.mean(jnp.where(is_labelled, values, 0))
  return weighted / jnp.where(share > 0, share, 1)


def make_monitor(
  forward: networks.Forward,
  augments: tuple[augmentation.Augment, augmentation.Augment],
  get_target_params: GetTargetParams = TARGET_PARAMS['average'],
  reads_prediction: bool = True,
  accumulate: int = 1,
) -> Callable[[ByolState, Batch], Scalars]:
  """Returns the function that computes the scalars of the monitor.

  The online network sees view 1 and the target network view 2, with the batch
  statistics of training; no moving average changes. It is a separate program,
  so the training step stays as it is.

  Args:
    forward, augments, get_target_params: as of `make_loss`.
    reads_prediction: of the objective, see `losses.reads_prediction`.
    accumulate: of `gradients.make_gradients`; only the first sub-batch is
      seen.

  Returns:
    (state, batch of one device) -> scalars of the batch of all devices.
  """

  def monitor(state: ByolState, batch: Batch) -> Scalars:
    batch = {key: x[: len(x) // accumulate] for key, x in batch.items()}
    views = _augment_views(augments, state, batch)
    apply = functools.partial(forward.apply, is_training=True)
    online, _ = apply(state.online_params, state.online_state, views[0])
    target_params = get_target_params(state.online_params, state)
    target, _ = apply(target_params, state.target_state, views[1])
    if not reads_prediction:
      online = online._replace(prediction=online.projection)
    return metrics.find_signs(online, target.projection, parallel.mean)

  return monitor


def make_update(
  compute_gradients: GradientFn,
  optimizer: optax.GradientTransformation,
  tau: optax.Schedule,
  learning_rate: optax.Schedule,
) -> Callable[[ByolState, Batch], tuple[ByolState, Scalars]]:
  """Returns one training step: optimizer, then moving average (method.md 1.3).

  A step with a value that is not finite changes nothing in the state except
  the counts of steps, and reports the scalar `skipped` as 1 (see
  `parallel.is_finite`).

  Args:
    compute_gradients: from `gradients.make_gradients`.
    optimizer: of the online parameters.
    tau: step -> decay of the target parameters, in [0, 1].
    learning_rate: step -> rate, for the log; the optimizer has its own.

  Returns:
    (state, batch of one device) -> (state, scalars averaged over devices).
  """

  def update(state: ByolState, batch: Batch) -> tuple[ByolState, Scalars]:
    grads, (states, scalars) = compute_gradients(
      state.online_params, state, batch
    )
    grads, scalars = parallel.mean((grads, scalars))
    updates, opt_state = optimizer.update(
      grads, state.opt_state, state.online_params
    )
    online_params = optax.apply_updates(state.online_params, updates)
    # After the optimizer, with the new online parameters (method.md 1.3).
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
    is_finite = parallel.is_finite(
      (grads, state.online_params), (states, scalars)
    )
    scalars |= {
      'tau': decay,
      'learning_rate': learning_rate(state.step),
      parallel.SKIPPED: 1.0 - is_finite,
    }
    return parallel.keep_finite(is_finite, new, state), scalars

  return update
