"""From a configuration to everything that it stands for.

`build` is the only function that reads a configuration of the method.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import config_dict
import optax

from byol_jax import (
  augment,
  byol,
  configuration,
  errors,
  losses,
  networks,
  optimizers,
  parallel,
  schedules,
)


class Experiment(NamedTuple):
  """Everything that a configuration stands for."""

  forward: networks.Forward
  optimizer: optax.GradientTransformation
  update: Any  # (ByolState, Batch) -> (ByolState, Scalars), under pmap
  image_size: int
  num_steps: int
  seed: int
  derived: tuple[str, ...]  # what the log says of the derived numbers

  def initial_state(self) -> byol.ByolState:
    """The state before step 0, traceable; `init_on_host` runs it."""
    images = jnp.zeros((1, self.image_size, self.image_size, 3))
    # Compiled once and called twice: most of the compilation is random draws.
    network = parallel.on_one_device(
      lambda rng, images: self.forward.init(rng, images, True)
    )
    forward = self.forward._replace(
      init=lambda rng, images, is_training: network(rng, images)
    )
    rng = jax.random.PRNGKey(self.seed)
    return byol.init(forward, self.optimizer, rng, images)

  def init_on_host(self) -> byol.ByolState:
    """The state before step 0 on the host: the same for any device count."""
    return jax.device_get(self.initial_state())


def build(
  config: config_dict.ConfigDict, num_examples: int, num_classes: int | None
) -> Experiment:
  """The only reader of `config`; derived numbers are computed here, once.

  Args:
    config: as in `configs/pretrain.py`.
    num_examples: images in the training set.
    num_classes: None for an unlabelled set.

  Raises:
    ConfigError: a value that no factory takes.
  """
  configuration.check_ranges(config)
  steps = schedules.num_steps(config.epochs, num_examples, config.batch_size)
  warmup = schedules.num_steps(
    config.schedule.warmup_epochs, num_examples, config.batch_size
  )
  if steps < 1:
    raise errors.ConfigError(
      f'epochs: {config.epochs:g} of {num_examples} images make no step of'
      f' batch_size {config.batch_size}; raise epochs or lower batch_size'
    )
  scale = config.batch_size / 256 if config.schedule.scale_with_batch else 1
  peak = config.schedule.base_rate * scale
  rate = schedules.warmup_cosine(peak, warmup, steps)
  tau = schedules.tau(config.target.base_tau, steps, config.target.schedule)
  forward = networks.make_forward(
    num_classes=num_classes, axis_name=parallel.AXIS, **config.network
  )
  optimizer = optimizers.make_optimizer(
    learning_rate=rate, **config.optimizer.to_dict()
  )
  first, second = (
    augment.make_augment(
      **{key: value for key, value in view.items() if key != 'crop'}
    )
    for view in (config.augment.view1, config.augment.view2)
  )
  objective = losses.OBJECTIVES[config.objective.name]
  loss_fn = byol.make_loss(forward, (first, second), objective)
  return Experiment(
    forward=forward,
    optimizer=optimizer,
    update=byol.make_update(loss_fn, optimizer, tau, rate),
    image_size=config.image_size,
    num_steps=steps,
    seed=config.seed,
    derived=(
      f'preset {config.preset}: base rate {config.schedule.base_rate:g},'
      f' base tau {config.target.base_tau:g}, weight decay'
      f' {config.optimizer.weight_decay:g}' + difference(config),
      f'{num_examples:,} images, {config.epochs:g} epochs, batch'
      f' {config.batch_size:,}: {steps:,} steps, {warmup:,} of warm-up, peak'
      f' learning rate {peak:g}'
      + ('; the run ends in its warm-up' if warmup >= steps else ''),
    ),
  )


def difference(config: config_dict.ConfigDict) -> str:
  """How far this run is from the preset that its rates come from."""
  same = (
    config.epochs == config.preset_epochs
    and config.batch_size == config.preset_batch_size
  )
  if same:
    return ''
  return (
    f'; that preset is for {config.preset_epochs:g} epochs at batch'
    f' {config.preset_batch_size:,}, this run has {config.epochs:g} at'
    f' {config.batch_size:,}: base values kept, steps and peak rate derived'
  )
