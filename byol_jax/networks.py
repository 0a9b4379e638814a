"""Defines the network: encoder, projector, predictor and online classifier.

Images are in [0, 1]; mean and deviation are applied inside, so that every
caller uses the same range (method.md 2 and 3.1). Module names are those of the
published weights (method.md 9.3).
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from byol_jax import augment, errors, resnet

# Of ImageNet's training images in [0, 1] (method.md 3.1).
MEAN_RGB = (0.485, 0.456, 0.406)
STD_RGB = (0.229, 0.224, 0.225)

Params = Mapping[str, Mapping[str, jax.Array]]
NetState = Mapping[str, Mapping[str, jax.Array]]


# Modules beside the encoder, by the first part of their paths.
HEADS = ('projector', 'predictor', 'classifier')
Shapes = dict[tuple[str, ...], tuple[int, ...]]
MAX_LISTED = 30  # differences in one message


class Outputs(NamedTuple):
  """Outputs of one forward pass, float32."""

  representation: jax.Array  # y, [B, D]
  projection: jax.Array  # z, [B, P]; None of a network without heads
  prediction: jax.Array  # q(z), [B, P]; the same
  logits: jax.Array | None  # [B, classes]; None without a classifier


class Forward(NamedTuple):
  """The network as two pure functions.

  Images are [B, H, W, 3], uint8 or float32 in [0, 1].
  """

  # (rng, images, is_training) -> params, state
  init: Callable[..., tuple[Params, NetState]]
  # (params, state, images, is_training) -> Outputs, state
  apply: Callable[..., tuple[Outputs, NetState]]


def normalize(images: jax.Array) -> jax.Array:
  """Subtracts ImageNet's mean and divides by its deviation, per channel."""
  return (images - jnp.asarray(MEAN_RGB)) / jnp.asarray(STD_RGB)


class MLP(hk.Module):
  """Computes a projector or predictor (method.md 2.3).

  Every hidden layer is a linear layer with bias, batch norm and ReLU; the
  output layer is linear without bias.

  `sizes` are the hidden widths and the output width. Their number is the depth
  in the paper's table 14; without any the module is the identity.
  """

  def __init__(
    self, sizes: Sequence[int], make_norm: resnet.MakeNorm, name: str
  ):
    super().__init__(name=name)
    self.sizes = tuple(sizes)
    self.make_norm = make_norm

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Maps [B, inputs] to [B, sizes[-1]]."""
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
  padding: str,
  projector: Sequence[int] | None,
  predictor: Sequence[int] | None,
  bn_decay: float,
  bn_epsilon: float,
  axis_name: str | None,
) -> Forward:
  """Returns the network of the config section `network`.

  Args:
    num_classes: width of the online classifier; None builds none.
    encoder: a key of `resnet.ENCODERS`.
    width: multiplier of the encoder's channels.
    version: of the ResNet, 1 or 2.
    gamma_init: 'ones' or 'zeros', initial last scale of each block.
    stem: a key of `resnet.STEMS`.
    padding: of `resnet.PADDINGS`.
    projector: hidden and output widths of the projector; None builds neither
      head.
    predictor: of the predictor; its output width is the projector's.
    bn_decay: decay of the moving averages.
    bn_epsilon: added to the variance.
    axis_name: axis over which batch statistics are averaged in training mode;
      None keeps them local.

  Values outside `ranges` fail in other ways, or not at all.
  """
  make_norm = functools.partial(
    hk.BatchNorm,
    create_scale=True,
    create_offset=True,
    decay_rate=bn_decay,
    eps=bn_epsilon,
    cross_replica_axis=axis_name,
  )
  make_encoder = functools.partial(
    resnet.ResNet,
    encoder,
    width=width,
    version=version,
    gamma_init=gamma_init,
    stem=stem,
    padding=padding,
    make_norm=make_norm,
  )
  heads = None
  if projector is not None and predictor is not None:
    heads = (
      functools.partial(MLP, projector, make_norm, 'projector'),
      functools.partial(MLP, predictor, make_norm, 'predictor'),
    )
  return _connect_modules(make_encoder, heads, num_classes)


def _connect_modules(
  make_encoder: Callable[[], resnet.ResNet],
  heads: tuple[Callable[[], MLP], Callable[[], MLP]] | None,
  num_classes: int | None,
) -> Forward:
  """Returns the modules, one after another, as pure functions."""

  def forward(images: jax.Array, is_training: bool) -> Outputs:
    chex.assert_rank(images, 4)
    images = normalize(augment.to_float(images))
    representation = make_encoder()(images, is_training)
    projection: Any = None
    prediction: Any = None
    logits = None
    if heads is not None:
      make_projector, make_predictor = heads
      projection = make_projector()(representation, is_training)
      prediction = make_predictor()(projection, is_training)
    if num_classes is not None:
      # The labels never reach the encoder (method.md 1.4).
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


def list_shapes(tree: Mapping[str, Mapping[str, Any]]) -> Shapes:
  """Returns {(module, leaf): shape} of parameters or states."""
  return {
    (module, name): tuple(leaf.shape)
    for module, leaves in tree.items()
    for name, leaf in leaves.items()
  }


def describe_differences(*pairs: tuple[Shapes, Shapes]) -> str:
  """Returns which names are missing, unknown or of another shape; '' if none.

  At most `MAX_LISTED` are listed, the others counted.

  Args:
    *pairs: found and expected, of one tree each.
  """
  lines = []
  for found, expected in pairs:
    for key in sorted(found.keys() | expected.keys()):
      name = errors.quote('/'.join(key))
      if key not in found:
        lines.append(f'missing {name} {list(expected[key])}')
      elif key not in expected:
        lines.append(f'unknown {name} {list(found[key])}')
      elif found[key] != expected[key]:
        lines.append(
          f'{name}: expected {list(expected[key])}, found {list(found[key])}'
        )
  if len(lines) > MAX_LISTED:
    more = len(lines) - MAX_LISTED
    lines[MAX_LISTED:] = [f'and {more} more of {len(lines)}']
  return '; '.join(lines)


def represent(
  forward: Forward, params: Params, state: NetState, images: jax.Array
) -> jax.Array:
  """Returns the representations in evaluation mode, float32 [B, D].

  Images are [B, H, W, 3], uint8 or float32 in [0, 1].
  """
  outputs, _ = forward.apply(params, state, images, is_training=False)
  return outputs.representation
