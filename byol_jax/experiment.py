"""From a configuration to the functions of the method.

`build` is the only reader of the method's part of a configuration: each
section is the keyword arguments of one factory.
"""

from collections.abc import Callable, Mapping
import copy
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

# What the lack of a key in a saved configuration means: the value that gives
# the behaviour before the key existed. Every new key of a run is added here.
OLD_VALUES: dict[str, Any] = {
  'network.padding': 'same',
  'schedule.max_warmup_share': 1.0,
  'data.eval_crop': 'resize',
  'data.decoding': 'once',
  'data.transfer': 'float32',
  'data.resident': False,
  'input.cache': 'none',
  'input.cache_gib': 0.0,
  'input.max_bad_share': 0.001,
  'input.resident_gib': 8.0,
  'input.steps_per_call': 0,
  'checkpoint.folder': '',
}

Update = Callable[
  [byol.ByolState, byol.Batch], tuple[byol.ByolState, byol.Scalars]
]


class Experiment(NamedTuple):
  """What a configuration stands for: functions, sizes and lengths."""

  forward: networks.Forward
  optimizer: optax.GradientTransformation
  update: Update  # runs inside `pmap` over `parallel.AXIS`
  image_size: int
  batch_size: int  # of all devices
  num_steps: int
  seed: int
  derived: tuple[str, ...]  # lines for the log: the derived numbers

  def initial_state(self) -> byol.ByolState:
    """Returns the state before step 0; traceable."""
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
    """Returns the state before step 0 as numpy, for any number of devices."""
    return jax.device_get(self.initial_state())


def add_old_values(saved: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a saved configuration with the keys of `OLD_VALUES` it lacks.

  Raises:
    AttributeError, TypeError: a section is not a dict.
  """
  filled = copy.deepcopy(dict(saved))
  for key, value in OLD_VALUES.items():
    *sections, name = key.split('.')
    section = filled
    for part in sections:
      section = section.setdefault(part, {})
    section.setdefault(name, value)
  return filled


def build(
  config: config_dict.ConfigDict, num_examples: int, num_classes: int | None
) -> Experiment:
  """Builds the functions of a configuration.

  Args:
    config: as in `configs/pretrain.py`.
    num_examples: images in the training set.
    num_classes: None for an unlabelled set.

  Raises:
    ConfigError: a value is out of its range, or the run has no step.
  """
  configuration.check_ranges(config)
  batch_size = config.batch_size
  num_steps = schedules.count_steps(config.epochs, num_examples, batch_size)
  if num_steps < 1:
    raise errors.ConfigError(
      f'epochs: {config.epochs:g} of {num_examples} images make no step of'
      f' batch_size {batch_size}; raise epochs or lower batch_size'
    )
  rate = schedules.make_learning_rate(
    num_examples=num_examples,
    batch_size=batch_size,
    total_steps=num_steps,
    **config.schedule,
  )
  tau = schedules.tau_schedule(total_steps=num_steps, **config.target)
  forward = networks.make_forward(
    num_classes=num_classes, axis_name=parallel.AXIS, **config.network
  )
  optimizer = optimizers.make_optimizer(
    learning_rate=rate.schedule, **config.optimizer
  )
  view1, view2 = (
    # The crop is the data's part of a view.
    augment.make_augment(**{k: v for k, v in view.items() if k != 'crop'})
    for view in (config.augment.view1, config.augment.view2)
  )
  objective = losses.make_objective(**config.objective)
  loss_fn = byol.make_loss(forward, (view1, view2), objective)
  return Experiment(
    forward=forward,
    optimizer=optimizer,
    update=byol.make_update(loss_fn, optimizer, tau, rate.schedule),
    image_size=config.image_size,
    batch_size=batch_size,
    num_steps=num_steps,
    seed=config.seed,
    derived=_describe_rates(config, rate, num_examples, num_steps),
  )


def _describe_rates(
  config: config_dict.ConfigDict,
  rate: schedules.LearningRate,
  num_examples: int,
  num_steps: int,
) -> tuple[str, str]:
  """Returns two lines: the rates and their preset; the derived numbers."""
  preset = (
    f'preset {config.preset}: base rate {config.schedule.base_rate:g}, base'
    f' tau {config.target.base_tau:g}, weight decay'
    f' {config.optimizer.weight_decay:g}'
  )
  epochs, batch_size = config.preset_epochs, config.preset_batch_size
  if (config.epochs, config.batch_size) != (epochs, batch_size):
    preset += (
      f'; that preset is for {epochs:g} epochs at batch {batch_size:,}: base'
      ' values kept, steps and peak rate derived'
    )
  numbers = (
    f'{num_examples:,} images, {config.epochs:g} epochs, batch'
    f' {config.batch_size:,}: {num_steps:,} steps, {rate.warmup_steps:,} of'
    f' warm-up, peak learning rate {rate.peak:g}'
  )
  warmup_epochs = config.schedule.warmup_epochs
  if rate.warmup_steps < schedules.count_steps(
    warmup_epochs, num_examples, config.batch_size
  ):
    share = config.schedule.max_warmup_share
    numbers += f' ({share:g} of the run, not the {warmup_epochs:g} epochs set)'
  return preset, numbers
