"""The whole network: encoder, projector, predictor and online classifier.

Images enter as float32 in [0, 1]; mean and deviation are applied inside, so
that every caller sees the same range. Spec 2 and 3.1; module names are those
of the published weights (spec 9.3).
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from byol_jax import augment, errors, resnet

# ImageNet's statistics, on [0, 1] (official `utils/dataset.py`).
MEAN_RGB = (0.485, 0.456, 0.406)
STD_RGB = (0.229, 0.224, 0.225)

# What is not part of the encoder.
HEADS = ('projector', 'predictor', 'classifier')

Params = Mapping[str, Mapping[str, jax.Array]]
NetState = Mapping[str, Mapping[str, jax.Array]]


class Outputs(NamedTuple):
  """One forward pass of B images."""

  representation: jax.Array  # y, [B, D]
  projection: jax.Array  # z, [B, P]
  prediction: jax.Array  # q(z), [B, P]
  logits: jax.Array | None  # [B, classes]; None without labels


class Forward(NamedTuple):
  """The network as two pure functions."""

  # (rng, images [B, H, W, 3], is_training) -> params, state
  init: Callable[..., tuple[Params, NetState]]
  # (params, state, images [B, H, W, 3], is_training) -> Outputs, state
  apply: Callable[..., tuple[Outputs, NetState]]


def normalize(images: jax.Array) -> jax.Array:
  """Images in [0, 1] to zero mean and unit deviation, by channel."""
  return (images - jnp.asarray(MEAN_RGB)) / jnp.asarray(STD_RGB)


class MLP(hk.Module):
  """Linear (bias), batch norm, ReLU; ...; Linear without bias (spec 2.3).

  `sizes` holds the hidden widths and the output width: its length is the
  depth of the paper's table 14. An empty one is the identity.
  """

  def __init__(
    self, sizes: Sequence[int], make_norm: resnet.MakeNorm, name: str
  ):
    super().__init__(name=name)
    self.sizes = tuple(sizes)
    self.make_norm = make_norm

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """[B, any] -> [B, sizes[-1]]."""
    for i, size in enumerate(self.sizes):
      last = i == len(self.sizes) - 1
      x = hk.Linear(size, with_bias=not last)(x)
      if not last:
        x = jax.nn.relu(self.make_norm()(x, is_training))
    return x


def make_forward(
  *,
  num_classes: int | None,
  encoder: str,
  width: float,
  version: int,
  gamma_init: str,
  stem: str,
  projector: Sequence[int],
  predictor: Sequence[int],
  bn_decay: float,
  bn_epsilon: float,
  axis_name: str | None,
) -> Forward:
  """Builds the network of one config section `network`.

  Args:
    num_classes: width of the online classifier; None builds none.
    encoder: a key of `resnet.ENCODERS`.
    width: multiplier of the encoder's channels.
    version: ResNet 1 or 2.
    gamma_init: 'ones' or 'zeros', the last scale of each block.
    stem: a key of `resnet.STEMS`.
    projector: hidden and output widths of g.
    predictor: hidden and output widths of q; its output must be g's.
    bn_decay: decay of the moving statistics.
    bn_epsilon: added to the variance.
    axis_name: batch statistics are averaged over this axis in training mode;
      None keeps them local.

  Raises:
    ConfigError: a value is outside its table or the heads do not meet.
  """
  check_network(encoder, width, version, gamma_init, stem, projector, predictor)
  make_norm = functools.partial(
    hk.BatchNorm,
    create_scale=True,
    create_offset=True,
    decay_rate=bn_decay,
    eps=bn_epsilon,
    cross_replica_axis=axis_name,
  )

  def forward(images: jax.Array, is_training: bool) -> Outputs:
    chex.assert_rank(images, 4)
    torso = resnet.ResNet(
      encoder,
      width=width,
      version=version,
      gamma_init=gamma_init,
      stem=stem,
      make_norm=make_norm,
    )
    representation = torso(normalize(augment.to_float(images)), is_training)
    project = MLP(projector, make_norm, name='projector')
    predict = MLP(predictor, make_norm, name='predictor')
    projection = project(representation, is_training)
    prediction = predict(projection, is_training)
    logits = None
    if num_classes is not None:
      # The labels never reach the encoder (spec 1.4).
      frozen = jax.lax.stop_gradient(representation)
      logits = hk.Linear(num_classes, name='classifier')(frozen)
    return Outputs(representation, projection, prediction, logits)

  pure = hk.transform_with_state(forward)
  return Forward(
    init=pure.init,
    apply=lambda params, state, images, is_training: pure.apply(
      params, state, None, images, is_training
    ),
  )


def check_network(
  encoder: str,
  width: float,
  version: int,
  gamma_init: str,
  stem: str,
  projector: Sequence[int],
  predictor: Sequence[int],
) -> None:
  """Refuses what the tables do not hold, with the key and the choices."""
  choices: tuple[tuple[str, Any, tuple], ...] = (
    ('encoder', encoder, tuple(resnet.ENCODERS)),
    ('version', version, (1, 2)),
    ('gamma_init', gamma_init, ('ones', 'zeros')),
    ('stem', stem, tuple(resnet.STEMS)),
  )
  for key, value, allowed in choices:
    if value not in allowed:
      raise errors.ConfigError(
        f'network.{key}: expected one of {list(allowed)}, found {value!r}'
      )
  if width <= 0:
    raise errors.ConfigError(
      f'network.width: expected a positive number, found {width}'
    )
  if not projector:
    raise errors.ConfigError('network.projector: expected 1 to 3 widths')
  if predictor and predictor[-1] != projector[-1]:
    raise errors.ConfigError(
      f'network.predictor: its last width {predictor[-1]} must be that of'
      f' network.projector, {projector[-1]}: it predicts the projection'
    )


def represent(
  forward: Forward, params: Params, state: NetState, images: jax.Array
) -> jax.Array:
  """The encoder in evaluation mode, [B, H, W, 3] -> [B, D]; uint8 or [0, 1]."""
  outputs, _ = forward.apply(params, state, images, is_training=False)
  return outputs.representation


def is_head(module: str) -> bool:
  """Whether a module path belongs to a head rather than to the encoder."""
  return module.split('/')[0] in HEADS
