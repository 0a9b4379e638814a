"""From a configuration to the functions of the method.

`build` is the only reader of the method's part of a configuration: each
section is the keyword arguments of one factory.
"""

from collections.abc import Callable, Collection, Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np
import optax

from byol_jax import (
  augment,
  byol,
  configuration,
  errors,
  gradients,
  losses,
  networks,
  optimizers,
  parallel,
  ranges,
  resnet,
  schedules,
)

# Shorter runs were worse than no training (docs/results.md).
SHORT_RUN = 1000
# The fewest whose gain was measured (docs/own_data.md).
FEW_IMAGES = 300

# Parts of the encoder, the stem and one group of blocks, that are faster on a
# TPU with both views in the channels (benchmarks/results/plan_*.json).
_PARTS_IN_CHANNELS = 2

Update = Callable[
  [byol.ByolState, byol.Batch], tuple[byol.ByolState, byol.Scalars]
]
Monitor = Callable[[byol.ByolState, byol.Batch], byol.Scalars]


class Weights(NamedTuple):
  """Parameters and batch-norm averages with which a run starts."""

  params: networks.Params
  state: networks.NetState
  card: Mapping[str, Any]  # of `EncoderWeights`


class Experiment(NamedTuple):
  """What a configuration stands for: functions, sizes and lengths."""

  forward: networks.Forward  # float32, whatever the precision of the update
  optimizer: optax.GradientTransformation
  update: Update  # runs inside `pmap` over `parallel.AXIS`
  monitor: Monitor  # the same
  image_size: int
  batch_size: int  # of all devices
  num_steps: int
  seed: int
  derived: tuple[str, ...]  # lines for the log: the derived numbers
  target_start: str  # see `byol.init`
  weights: Weights | None = None  # of the state before step 0; None: random
  shard_optimizer: bool = False  # `update` takes parts of `opt_state`

  def initial_state(self) -> byol.ByolState:
    """Returns the state before step 0; traceable."""
    return self._init(_jit_init(self.forward.init))

  def init_on_host(self) -> byol.ByolState:
    """Returns the state before step 0 as numpy, for any number of devices."""
    init = _jit_init(self.forward.init)
    # Compiled once and called twice: most of the compilation is random draws.
    lowered = init.lower(jax.random.PRNGKey(self.seed), self._images(), True)
    compiled = lowered.compile(compiler_options=_find_quick_options())
    state = self._init(lambda rng, images, is_training: compiled(rng, images))
    state = jax.device_get(state)
    return state if self.weights is None else start_from(state, self.weights)

  def _init(self, init: Callable) -> byol.ByolState:
    forward = self.forward._replace(init=init)
    rng, images = jax.random.PRNGKey(self.seed), self._images()
    return byol.init(forward, self.optimizer, rng, images, self.target_start)

  def _images(self) -> jax.Array:
    return jnp.zeros((1, self.image_size, self.image_size, 3))

  def state_at(
    self,
    step: int,
    rng: np.ndarray,
    momentum: Any,
    **trees: Any,
  ) -> byol.ByolState:
    """Returns the state of a run of LARS or SGD after `step` steps.

    Args:
      step: completed.
      rng: key of the run, uint32 [2].
      momentum: of the optimizer, like `online_params`; None: zeros.
      **trees: the parameters and states of `byol.ByolState`.
    """
    opt_state = self.optimizer.init(trees['online_params'])
    facts: dict[str, Any] = {'count': np.int32(step)}
    if momentum is not None:
      facts['trace'] = momentum
    opt_state = optax.tree_utils.tree_set(opt_state, **facts)
    start: Any = {'step': np.int32(step), 'rng': rng}  # on the host
    return byol.ByolState(opt_state=opt_state, **start, **trees)


@functools.lru_cache(maxsize=4)  # traced once for shapes and values
def _jit_init(init: Callable) -> Any:
  """Returns `networks.Forward.init` as one program, for `is_training` True."""
  return jax.jit(init, static_argnums=2)


def _find_quick_options() -> dict[str, Any]:
  """Returns the compiler's options for a program that runs once; {}: none.

  On CPUs LLVM's level 1 takes less than half the time, to the same values but
  for the last bits of a few.
  """
  is_lower: bool = jax.config.read('jax_disable_most_optimizations')
  if is_lower or jax.default_backend() != 'cpu':
    return {}
  return {'xla_backend_optimization_level': 1}


def start_from(state: byol.ByolState, weights: Weights) -> byol.ByolState:
  """Returns the state before step 0 with the weights in both networks.

  Heads that do not fit keep their initial values, see `find_fitting_parts`;
  momentum and step are as in `state`, from `Experiment.initial_state`.
  """
  fitting = find_fitting_parts(state, weights)

  def take(tree: Any, source: Any) -> Any:
    return {
      module: dict(source[module]) if _is_in(module, fitting) else leaves
      for module, leaves in tree.items()
    }

  return state._replace(
    online_params=take(state.online_params, weights.params),
    target_params=take(state.target_params, weights.params),
    online_state=take(state.online_state, weights.state),
    target_state=take(state.target_state, weights.state),
  )


def find_fitting_parts(state: byol.ByolState, weights: Weights) -> set[str]:
  """Returns the encoder, and the heads with all names and shapes of a run.

  Args:
    state: of the run, arrays or shapes.
    weights: what else they hold may be unknown.

  Raises:
    DataError: the encoders differ; lists every difference.
  """
  parts = {module.partition('/')[0] for module in state.online_params}
  lines = {part: _compare_part(part, state, weights) for part in parts}
  (encoder,) = parts - {*networks.HEADS}
  if lines[encoder]:
    found = {module.partition('/')[0] for module in weights.params}
    differences = lines[encoder]
    if encoder not in found:
      differences = f'found {sorted(found - {*networks.HEADS})}'
    raise errors.DataError(
      f'init.checkpoint: {errors.quote(weights.card["source"])}: expected the'
      f" encoder of this configuration, '{encoder}'; set --config.network as"
      f' that of the weights: {differences}'
    )
  return {part for part in parts if not lines[part]}


def _is_in(module: str, parts: Collection[str]) -> bool:
  return module.partition('/')[0] in parts


def _compare_part(name: str, state: byol.ByolState, weights: Weights) -> str:
  """Returns how names and shapes differ in an encoder or a head."""
  found, expected = (
    [
      networks.list_shapes({m: v for m, v in x.items() if _is_in(m, {name})})
      for x in trees
    ]
    for trees in (weights[:2], (state.online_params, state.online_state))
  )
  return networks.describe_differences(*zip(found, expected, strict=True))


def build(
  config: config_dict.ConfigDict,
  num_examples: int,
  num_classes: int | None,
  platform: str | None = None,
) -> Experiment:
  """Builds the functions of a configuration.

  Args:
    config: as in `configs/pretrain.py`.
    num_examples: images in the training set.
    num_classes: None for an unlabelled set.
    platform: that the update will be compiled for; None: the one at hand.

  Raises:
    ConfigError: a value is out of its range, or the run has no step.
  """
  configuration.check_ranges(config)
  num_steps = schedules.choose_length(
    config.steps, config.epochs, num_examples, config.batch_size
  )
  rate = schedules.make_learning_rate(
    num_examples=num_examples,
    batch_size=config.batch_size,
    total_steps=num_steps,
    in_epochs=not config.steps,
    **config.schedule,
  )
  target = byol.make_target(total_steps=num_steps, **config.target)
  forward, in_training = _make_forwards(config, num_classes, platform)
  optimizer = optimizers.make_optimizer(
    learning_rate=rate.schedule,
    head_rates=rate.head_rates,
    **config.optimizer,
  )
  augments = make_augments(config)
  objective = losses.make_objective(devices=parallel, **config.objective)
  loss_fn = byol.make_loss(in_training, augments, objective, target.get_params)
  compute = gradients.make_gradients(
    loss_fn, bn_group=config.network.bn_group, **config.batch
  )
  in_update = optimizer
  if config.shard_optimizer:
    in_update = parallel.shard_optimizer(optimizer)
  return Experiment(
    forward=forward,
    optimizer=optimizer,
    update=byol.make_update(compute, in_update, target.tau, rate.schedule),
    monitor=_make_monitor(config, in_training, augments, target),
    image_size=config.image_size,
    batch_size=config.batch_size,
    num_steps=num_steps,
    seed=config.seed,
    target_start=target.start,
    shard_optimizer=config.shard_optimizer,
    derived=(
      *_describe_rates(config, rate, num_examples, num_steps),
      *_list_warnings(config, num_examples, num_steps),
    ),
  )


def _make_monitor(
  config: config_dict.ConfigDict,
  forward: networks.Forward,
  augments: tuple[augment.Augment, augment.Augment],
  target: byol.Target,
) -> Monitor:
  return byol.make_monitor(
    forward,
    augments,
    target.get_params,
    reads_prediction=losses.reads_prediction(**config.objective),
    accumulate=config.batch.accumulate,
  )


def _make_forwards(
  config: config_dict.ConfigDict, num_classes: int | None, platform: str | None
) -> tuple[networks.Forward, networks.Forward]:
  """Returns the network in float32, and as it is in the update."""
  make = functools.partial(
    networks.make_forward,
    num_classes=num_classes,
    axis_name=parallel.AXIS,
    **config.network,
  )
  in_training = make(
    precision=config.precision,
    recompute_blocks=config.recompute_blocks,
    **_choose_form(config, platform or jax.default_backend()),
  )
  return make(), in_training


def _choose_form(
  config: config_dict.ConfigDict, platform: str
) -> dict[str, Any]:
  """Returns the arguments of `make_forward` for what a platform is fast at."""
  encoder = resnet.ENCODERS[config.network.encoder]
  halves = config.network.stem != 'small' and config.image_size % 2 == 0
  if platform == 'tpu':
    channels = encoder.initial_channels * config.network.width
    fits = config.network.stem == 'imagenet' and halves and channels <= 64
    return {'parts_in_channels': _PARTS_IN_CHANNELS if fits else 0}
  # The caches of a CPU hold the activations of one view, not of two; with few
  # channels they hold both, and one pass compiles sooner. On a GPU each view
  # has its own weights where norms are folded into them.
  is_wide = encoder.channels[0] * config.network.width >= 16
  can_fold = encoder.bottleneck and config.network.version == 1
  folds = platform in ('gpu', 'cuda') and can_fold
  return {
    'one_pass': not (folds or (platform == 'cpu' and is_wide)),
    'stem_of_blocks': platform != 'cpu' and halves,
    'fold_norms': folds,
  }


def make_augments(
  config: config_dict.ConfigDict,
) -> tuple[augment.Augment, augment.Augment]:
  """Returns the augmentations of the two views, without their crops."""
  view1, view2 = (augment.make_augment(**r) for r in list_recipes(config))
  return view1, view2


def list_recipes(config: config_dict.ConfigDict) -> list[dict[str, Any]]:
  """Returns the arguments of `augment.make_augment` of the two views."""
  return [
    # The crop is the data's part of a view.
    {key: value for key, value in view.items() if key != 'crop'}
    for view in (config.augment.view1, config.augment.view2)
  ]


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
    length = f'{epochs:g} epochs' if epochs else 'a length in steps'
    preset += (
      f'; that preset is for {length} at batch {batch_size:,}: base'
      ' values kept, steps and peak rate derived'
    )
  length = config.epochs or num_steps * config.batch_size / num_examples
  auto = ' (auto)' if config.steps == 'auto' else ''
  numbers = (
    f'{num_examples:,} images, {length:g} epochs, batch'
    f' {config.batch_size:,}: {num_steps:,} steps{auto}, {rate.warmup_steps:,}'
    f' of warm-up, peak learning rate {rate.peak:g}'
  )
  warmup_epochs = config.schedule.warmup_epochs
  if not config.steps and rate.warmup_steps < schedules.count_steps(
    warmup_epochs, num_examples, config.batch_size
  ):
    share = config.schedule.max_warmup_share
    numbers += f' ({share:g} of the run, not the {warmup_epochs:g} epochs set)'
  return preset, numbers


def _list_warnings(
  config: config_dict.ConfigDict, num_examples: int, num_steps: int
) -> list[str]:
  """Returns what to expect of a run that is short or has few images."""
  lines = []
  network = config.network
  width = ranges.find_projection_width(
    network.encoder, network.width, network.projector
  )
  images = config.batch_size // config.batch.accumulate
  if config.objective.name == 'optimal_linear' and images <= width:
    lines.append(
      f'warning: objective.name: a linear predictor fits {images:,} images of'
      f' {width:,} numbers almost exactly, so nothing is learned; raise'
      ' batch_size or lower the last width of network.projector'
    )
  if num_steps < SHORT_RUN:
    lines.append(
      f'warning: {num_steps:,} steps: below about {SHORT_RUN:,} an encoder may'
      ' be worse than a random one; --config.steps=auto sets a length'
    )
  if num_examples < FEW_IMAGES:
    lines.append(
      f'warning: {num_examples:,} images: {FEW_IMAGES} photographs were enough'
      ' for an encoder better than a random one (docs/own_data.md), fewer were'
      ' not tried; add images, or take an encoder that was trained on more'
    )
  return lines
