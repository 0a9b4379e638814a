"""Defines the network: encoder, projector, predictor and online classifier.

Images are in [0, 1]; mean and deviation are applied inside, so that every
caller uses the same range (method.md 2 and 3.1). Module names are those of the
published weights (method.md 9.3).
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
from typing import Any, NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from byol_jax import augment, errors, modules, parallel, resnet

# Of ImageNet's training images in [0, 1] (method.md 3.1).
MEAN_RGB = (0.485, 0.456, 0.406)
STD_RGB = (0.229, 0.224, 0.225)

Params = Mapping[str, Mapping[str, jax.Array]]
NetState = Mapping[str, Mapping[str, jax.Array]]


# Of the hidden layers of projector and predictor (method.md 2.3).
HEAD_NORMS = ('batch', 'none', 'layer', 'group')
GROUPS = 16  # of 'group'
# Modules beside the encoder, by the first part of their paths.
HEADS = ('projector', 'predictor', 'classifier')
Shapes = dict[tuple[str, ...], tuple[int, ...]]
MAX_LISTED = 30  # differences in one message


class Outputs(NamedTuple):
  """Outputs of one forward pass, float32; of V views each is [V, B, ...]."""

  representation: jax.Array  # y, [B, D]
  projection: jax.Array  # z, [B, P]; None of a network without heads
  prediction: jax.Array  # q(z), [B, P]; the same
  logits: jax.Array | None  # [B, classes]; None without a classifier


class Forward(NamedTuple):
  """The network as two pure functions.

  Images are [B, H, W, 3], uint8 or float32 in [0, 1], or [V, B, H, W, 3] of V
  views: as V passes one after another, each with its batch statistics.
  """

  # (rng, images, is_training) -> params, state; of one device, without an axis
  init: Callable[..., tuple[Params, NetState]]
  # (params, state, images, is_training) -> Outputs, state
  apply: Callable[..., tuple[Outputs, NetState]]


def normalize(images: jax.Array) -> jax.Array:
  """Subtracts ImageNet's mean and divides by its deviation, per channel."""
  return (images - jnp.asarray(MEAN_RGB)) / jnp.asarray(STD_RGB)


class MLP(hk.Module):
  """Computes a projector or predictor (method.md 2.3).

  Args:
    sizes: the hidden widths and the output width. Their number is the depth in
      the paper's table 14; without any the module is the identity.
    norm: of the hidden layers, a value of `HEAD_NORMS`.
    make_batch_norm: builds the norm 'batch'.
    name: of the module.
  """

  def __init__(
    self,
    sizes: Sequence[int],
    norm: str,
    make_batch_norm: resnet.MakeNorm,
    name: str,
  ):
    super().__init__(name=name)
    self.sizes = tuple(sizes)
    self.norm = norm
    self.make_batch_norm = make_batch_norm

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Maps [B, inputs] to [B, sizes[-1]]; the output has no bias."""
    for size in self.sizes[:-1]:
      x = apply_linear(x, size, standardized=self.norm == 'group')
      x = apply_norm(x, self.norm, self.make_batch_norm, is_training)
      x = jax.nn.relu(x)
    if self.sizes:
      x = hk.Linear(self.sizes[-1], with_bias=False)(x)
    return x


# Functions, since Haiku names methods in the paths of parameters.
def apply_linear(x: jax.Array, size: int, standardized: bool) -> jax.Array:
  """Applies a linear layer with bias, [B, inputs] -> [B, size].

  If `standardized`, the weights of each output are used with mean 0 and norm 1
  over the inputs (method.md 2.3).
  """

  def standardize(next_getter: Any, value: jax.Array, context: Any) -> Any:
    if context.name == 'w':
      value -= jnp.mean(value, axis=0)
      square = jnp.sum(jnp.square(value), axis=0)
      value *= jax.lax.rsqrt(jnp.maximum(square, 1e-12))
    return next_getter(value)

  if not standardized:
    return hk.Linear(size)(x)
  with hk.custom_getter(standardize):
    return hk.Linear(size)(x)


def apply_norm(
  x: jax.Array, norm: str, make_batch_norm: resnet.MakeNorm, is_training: bool
) -> jax.Array:
  """Applies a norm of `HEAD_NORMS` to the hidden layer of a head, [B, D]."""
  if norm == 'batch':
    return make_batch_norm()(x, is_training)
  if norm == 'none':
    return x
  exact = modules.to_full_precision(x)
  if norm == 'layer':
    learned = hk.LayerNorm(-1, create_scale=True, create_offset=True)
    return learned(exact).astype(x.dtype)
  if norm == 'group':
    return hk.GroupNorm(GROUPS)(exact).astype(x.dtype)  # it learns both
  raise ValueError(f'norm: expected one of {HEAD_NORMS}, found {norm!r}')


def scale_initial_weights(scale: float) -> Callable[..., jax.Array]:
  """Returns a creator of Haiku: weights' initial variance is times `scale`."""

  def create(
    next_creator: Callable[..., jax.Array],
    shape: Sequence[int],
    dtype: Any,
    init: Any,
    context: Any,
  ) -> jax.Array:
    value = next_creator(shape, dtype, init)
    return value * scale**0.5 if context.name == 'w' else value

  return create


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
  head_norm: str = 'batch',  # as of weights that were stored without it
  init_scale: float = 1.0,
  bn_group: int = 0,
  precision: str = 'float32',
  recompute_blocks: bool = False,
  stem_of_blocks: bool = False,
  fold_norms: bool = False,
  parts_in_channels: int = 0,
  one_pass: bool = True,
) -> Forward:
  """Returns the network of the config section `network`.

  Args:
    num_classes: width of the online classifier; None builds none.
    encoder: a key of `resnet.ENCODERS`; see `resnet.ResNet` for width, version,
      gamma_init, stem, padding, and its forms from recompute_blocks on.
    projector: hidden and output widths, as of the predictor; None: no heads.
    bn_decay: of the moving averages; bn_epsilon: added to the variance.
    axis_name: of devices whose batch statistics are averaged; None: local.
    head_norm: of `HEAD_NORMS`.
    init_scale: factor of the variance of initial weights (method.md 2.4).
    bn_group: how many neighbouring devices they are averaged over; 0: all. With
      several groups the moving averages differ between them.
    precision: of activations, 'float32' or 'bfloat16' (method.md 2.6).
    one_pass: of all views, or one for each, which is the same function.

  Values outside `ranges` fail in other ways, or not at all.
  """
  norms = functools.partial(_make_norm_factory, bn_decay, bn_epsilon, bn_group)
  make_encoder = functools.partial(
    resnet.ResNet,
    encoder,
    width=width,
    version=version,
    gamma_init=gamma_init,
    stem=stem,
    padding=padding,
    recompute_blocks=recompute_blocks,
    stem_of_blocks=stem_of_blocks,
    fold_norms=fold_norms,
  )
  heads = _make_heads(projector, predictor, head_norm)
  network = _Network(norms, axis_name, make_encoder, heads, num_classes)
  forward = _connect_modules(network, init_scale, precision, parts_in_channels)
  apply = forward.apply if one_pass else apply_in_turn(forward.apply)
  return forward._replace(apply=apply)


def apply_in_turn(apply: Callable[..., Any]) -> Callable[..., Any]:
  """Makes `Forward.apply` of one view that of several, one pass each."""

  def apply_to_views(
    params: Params, state: NetState, images: jax.Array, is_training: bool
  ) -> tuple[Outputs, NetState]:
    if images.ndim == 4:
      return apply(params, state, images, is_training)
    outputs = []
    for view in images:
      found, state = apply(params, state, view, is_training)
      outputs.append(found)
    return jax.tree.map(lambda *x: jnp.stack(x), *outputs), state

  return apply_to_views


def _make_heads(
  projector: Sequence[int] | None, predictor: Sequence[int] | None, norm: str
) -> tuple[Callable[..., MLP], Callable[..., MLP]] | None:
  """Returns what builds the two heads from `make_batch_norm`, or None."""
  if projector is None or predictor is None:
    return None
  head = functools.partial(MLP, norm=norm)
  return (
    functools.partial(head, projector, name='projector'),
    functools.partial(head, predictor, name='predictor'),
  )


def _make_norm_factory(
  decay: float, epsilon: float, group: int, axis_name: str | None
) -> resnet.MakeNorm:
  """Returns what builds the batch norms; arguments as of `make_forward`."""
  axis = None if group == 1 else axis_name

  def make_norm(**options: Any) -> modules.BatchNorm:
    groups = None
    if axis is not None and group:
      groups = parallel.list_groups(jax.lax.axis_size(axis), group)
    return modules.BatchNorm(
      decay=decay, epsilon=epsilon, axis_name=axis, groups=groups, **options
    )

  return make_norm


class _Network(NamedTuple):
  """Builds the modules of a network."""

  make_norms: Callable[[str | None], resnet.MakeNorm]  # of an axis' name
  axis_name: str | None
  make_encoder: Callable[..., resnet.ResNet]
  make_heads: tuple[Callable[..., MLP], Callable[..., MLP]] | None
  num_classes: int | None


def _connect_modules(
  network: _Network, init_scale: float, precision: str, parts_in_channels: int
) -> Forward:
  """Returns the modules, one after another, as pure functions."""

  def forward(
    images: jax.Array,
    is_training: bool,
    make_norm: resnet.MakeNorm,
    dtype: Any = None,
  ) -> Outputs:
    chex.assert_rank(images, {4, 5})
    *leading, height, width, _ = images.shape
    views = modules.Views(math.prod(leading[:-1]))
    norm = functools.partial(make_norm, views=views)
    x = normalize(augment.to_float(images)).reshape(-1, height, width, 3)
    x = x if dtype is None else x.astype(dtype)
    parts = parts_in_channels if views.number > 1 else 0
    representation = network.make_encoder(
      make_norm=make_norm,
      num_views=views.number,
      parts_in_channels=parts,
    )(x, is_training)
    projection: Any = None
    prediction: Any = None
    logits = None
    if network.make_heads is not None:
      projector, predictor = (
        make(make_batch_norm=norm) for make in network.make_heads
      )
      projection = projector(representation.astype(x.dtype), is_training)
      prediction = predictor(projection, is_training)
    if network.num_classes is not None:
      # The labels never reach the encoder (method.md 1.4).
      frozen = jax.lax.stop_gradient(representation)
      logits = hk.Linear(network.num_classes, name='classifier')(frozen)
    outputs = Outputs(representation, projection, prediction, logits)
    return jax.tree.map(
      lambda x: modules.to_full_precision(x).reshape(*leading, x.shape[-1]),
      outputs,
    )

  def forward_from_scaled(images: jax.Array, is_training: bool) -> Outputs:
    with hk.custom_creator(scale_initial_weights(init_scale)):
      return forward(images, is_training, network.make_norms(None))

  def forward_in_precision(images: jax.Array, is_training: bool) -> Outputs:
    make_norm = network.make_norms(network.axis_name)
    if precision == 'float32':
      return forward(images, is_training, make_norm)
    with hk.custom_getter(modules.cast_parameters):
      return forward(images, is_training, make_norm, jnp.dtype(precision))

  pure = hk.transform_with_state(forward_in_precision)
  return Forward(
    init=hk.transform_with_state(forward_from_scaled).init,
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
