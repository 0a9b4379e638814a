"""Defines ResNet encoders, v1 and v2 (method.md 2.1, 2.2).

Module names are those of the published weights (method.md 9.3). Images are
NHWC, float32 or, like all activations then, bfloat16; padding is
TensorFlow-style SAME unless `padding` says otherwise, no convolution has a
bias.

The blocks are our own because the paper initialises every batch-norm scale
(gamma) with ones, while Haiku's bottleneck v1 block, and no other of its
blocks, initialises its last one with zeros and cannot be told otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from byol_jax import convolution, modules


@dataclasses.dataclass(frozen=True)
class Architecture:
  """Describes the layers of one encoder; channels are those at width 1."""

  module_name: str  # prefix of the parameter names
  blocks: tuple[int, ...]  # per group
  bottleneck: bool = True
  channels: tuple[int, ...] = (256, 512, 1024, 2048)  # output, per group
  initial_channels: int = 64  # of the first convolution


@dataclasses.dataclass(frozen=True)
class Stem:
  """Describes the first convolution and whether a max pool follows it."""

  kernel: int
  stride: int
  pool: bool


BASIC = (64, 128, 256, 512)

ENCODERS: Mapping[str, Architecture] = {
  'ResNet18': Architecture('res_net18', (2, 2, 2, 2), False, BASIC),
  'ResNet34': Architecture('res_net34', (3, 4, 6, 3), False, BASIC),
  'ResNet50': Architecture('res_net50', (3, 4, 6, 3)),
  'ResNet101': Architecture('res_net101', (3, 4, 23, 3)),
  'ResNet152': Architecture('res_net152', (3, 8, 36, 3)),
  'ResNet200': Architecture('res_net200', (3, 24, 36, 3)),
  # The official code's test network.
  'TinyResNet': Architecture('tiny_res_net', (1, 1, 1, 1), False, (8, 8, 8, 8)),
  # Not in the paper, for CPUs: three groups, so that 32 pixels end at 4x4.
  'MiniResNet': Architecture(
    'mini_res_net', (1, 1, 1), False, (16, 32, 64), 16
  ),
}

STEMS: Mapping[str, Stem] = {
  'imagenet': Stem(kernel=7, stride=2, pool=True),
  'small': Stem(kernel=3, stride=1, pool=False),
  'small_stride2': Stem(kernel=3, stride=2, pool=False),
}

# 'same': the odd pixel comes last, its place depends on the image's size.
# 'torch': half the kernel on both sides. They differ where the stride is 2.
PADDINGS = ('same', 'torch')
POOL_PADDING = ((0, 0), (1, 1), (1, 1), (0, 0))  # of 'torch'

# Builds a batch norm; takes `name`, `scale_init` and `views`.
MakeNorm = Callable[..., modules.BatchNorm]


def make_conv(
  channels: int,
  kernel: int,
  stride: int,
  name: str,
  padding: str = 'same',
  views: modules.Views = modules.ONE_VIEW,
  form: type[modules.Conv2D] = modules.Conv2D,
) -> modules.Conv2D:
  """Returns a square convolution without bias; `padding` is of `PADDINGS`."""
  half = (kernel // 2, kernel // 2)
  pads = 'SAME' if padding == 'same' else (half, half)
  return form(channels, kernel, stride, pads, name, views)


class Block(hk.Module):
  """Computes one residual block (method.md 2.1).

  A bottleneck has convolutions 1x1, 3x3, 1x1, a basic block 3x3, 3x3; the
  first 3x3 carries the stride. v1 normalises after each convolution and adds
  the shortcut before the last ReLU; v2 normalises before each convolution and
  projects the shortcut after the first ReLU.

  Args:
    channels: of the output; a bottleneck has a quarter inside.
    stride: 1 or 2.
    project: whether the shortcut is a 1x1 convolution rather than the input.
    bottleneck: which kind of block.
    version: 1 or 2.
    make_norm: builds the batch norms.
    padding: of `PADDINGS`.
    last_gamma: initial scale of the block's last batch norm.
    name: of the module.
    views: how they lie in the input and the output.
    fold_norms: of `ResNet`.
  """

  def __init__(
    self,
    channels: int,
    stride: int,
    *,
    project: bool,
    bottleneck: bool,
    version: int,
    make_norm: MakeNorm,
    padding: str,
    last_gamma: float,
    name: str,
    views: modules.Views = modules.ONE_VIEW,
    fold_norms: bool = False,
  ):
    super().__init__(name=name)
    self.version = version
    self.project = project
    self.fold_norms = fold_norms
    make_norm = functools.partial(make_norm, views=views)
    if project:
      self.shortcut_conv = make_conv(
        channels, 1, stride, 'shortcut_conv', views=views
      )
      if version == 1:
        self.shortcut_batchnorm = make_norm(name='shortcut_batchnorm')
    inner = channels // 4 if bottleneck else channels
    plan = [(inner, 1, 1), (inner, 3, stride), (channels, 1, 1)]
    if not bottleneck:
      plan = [(inner, 3, stride), (channels, 3, 1)]
    self.layers = []
    for i, (width, kernel, step) in enumerate(plan):
      scale = hk.initializers.Constant(last_gamma)
      last = {'scale_init': scale} if i == len(plan) - 1 else {}
      norm = make_norm(name=f'batchnorm_{i}', **last)
      conv = make_conv(width, kernel, step, f'conv_{i}', padding, views)
      self.layers.append((conv, norm))

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """[B, H, W, C] -> [B, H / stride, W / stride, channels]."""
    compute = self._compute_v1 if self.version == 1 else self._compute_v2
    return compute(x, is_training)

  def _compute_v1(self, x: jax.Array, is_training: bool) -> jax.Array:
    compute = functools.partial(
      modules.normalize_convolution,
      is_training=is_training,
      fold=self.fold_norms,
    )
    shortcut = x
    if self.project:
      pair = self.shortcut_conv, self.shortcut_batchnorm
      shortcut = compute(*pair, x)
    for i, pair in enumerate(self.layers):
      x = compute(*pair, x)
      if i < len(self.layers) - 1:
        x = jax.nn.relu(x)
    rectify = modules.rectify if self.fold_norms else jax.nn.relu
    return rectify(x + shortcut)

  def _compute_v2(self, x: jax.Array, is_training: bool) -> jax.Array:
    shortcut = x
    for i, (convolve, norm) in enumerate(self.layers):
      x = jax.nn.relu(norm(x, is_training))
      if i == 0 and self.project:
        shortcut = self.shortcut_conv(x)
      x = convolve(x)
    return x + shortcut


class BlockGroup(hk.Module):
  """Applies `num_blocks` blocks; the first has the stride and projects.

  With `recompute` the gradient computes the activations of a block again.
  """

  def __init__(
    self,
    channels: int,
    num_blocks: int,
    stride: int,
    name: str,
    recompute: bool = False,
    **block: Any,
  ):
    super().__init__(name=name)
    self.recompute = recompute
    self.blocks = [
      Block(channels, step, project=i == 0, name=f'block_{i}', **block)
      for i, step in enumerate([stride] + [1] * (num_blocks - 1))
    ]

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """[B, H, W, C] -> [B, H / stride, W / stride, channels]."""
    for block in self.blocks:
      apply = _recompute(block) if self.recompute else block
      x = apply(x, is_training)
    return x


class ResNet(hk.Module):
  """Computes representations of images (paper 3.3; method.md 2.1).

  Args:
    encoder: a key of `ENCODERS`.
    width: multiplies every channel count; 1 to 4 in the paper.
    version: 1 (post-activation, the paper) or 2 (pre-activation).
    gamma_init: 'ones' (the paper) or 'zeros': initial scale of the last batch
      norm of each block (method.md 2.2).
    stem: a key of `STEMS`.
    padding: of `PADDINGS`; 'same' is the paper's.
    make_norm: builds the batch norms.
    num_views: that the images are of, one view after another.
    parts_in_channels: how many parts of the network, the stem and groups of
      blocks, have the views in the channels (`modules.Views`).
    recompute_blocks: whether only the inputs of blocks are kept for the
      gradient, which computes the rest of their activations again.
    stem_of_blocks: whether the first convolution, of stride 2, is
      `modules.ConvOfBlocks`; it is with the views in its channels.
    fold_norms: whether a 1x1 convolution and the norm after it are computed as
      one (`modules`); images are of one view, and the network of version 1.
  """

  def __init__(
    self,
    encoder: str,
    *,
    width: float,
    version: int,
    gamma_init: str,
    stem: str,
    padding: str,
    make_norm: MakeNorm,
    num_views: int = 1,
    parts_in_channels: int = 0,
    recompute_blocks: bool = False,
    stem_of_blocks: bool = False,
    fold_norms: bool = False,
  ):
    layers, first = ENCODERS[encoder], STEMS[stem]
    super().__init__(name=layers.module_name)
    self.version = version
    self.pool = first.pool
    self.padding = padding
    views = [
      modules.Views(num_views, part < parts_in_channels)
      for part in range(1 + len(layers.blocks))
    ]
    self.views, self.parts_in_channels = num_views, parts_in_channels
    channels = scale_channels(layers.initial_channels, width)
    in_blocks = stem_of_blocks or parts_in_channels > 0
    form = modules.ConvOfBlocks if in_blocks else modules.Conv2D
    self.initial_conv = make_conv(
      *(channels, first.kernel, first.stride, 'initial_conv', padding),
      *(views[0], form),
    )
    norm_name = 'initial_batchnorm' if version == 1 else 'final_batchnorm'
    norm_views = views[0] if version == 1 else views[-1]
    self.outer_norm = make_norm(name=norm_name, views=norm_views)
    self.groups = [
      BlockGroup(
        scale_channels(channels, width),
        num_blocks,
        stride=1 if i == 0 else 2,
        bottleneck=layers.bottleneck,
        version=version,
        make_norm=make_norm,
        padding=padding,
        last_gamma={'ones': 1.0, 'zeros': 0.0}[gamma_init],
        name=f'block_group_{i}',
        views=views[1 + i],
        recompute=recompute_blocks,
        fold_norms=fold_norms,
      )
      for i, (num_blocks, channels) in enumerate(
        zip(layers.blocks, layers.channels, strict=True)
      )
    ]

  def __call__(self, images: jax.Array, is_training: bool) -> jax.Array:
    """Normalised images [B, H, W, 3] -> representation, float32 [B, D]."""
    chex.assert_rank(images, 4)
    stem = self._finish_stem
    if self.pool:  # Recomputed for the gradient: the largest activations.
      stem = _recompute(stem)
    x = stem(self.initial_conv(images), is_training)
    for part, group in enumerate(self.groups, 1):
      if part == self.parts_in_channels:
        x = separate_views(x, self.views)
      x = group(x, is_training)
    if self.version == 2:
      x = jax.nn.relu(self.outer_norm(x, is_training))
    return jnp.mean(modules.to_full_precision(x), axis=(1, 2))

  def _finish_stem(self, x: jax.Array, is_training: bool) -> jax.Array:
    if self.version == 1:
      x = jax.nn.relu(self.outer_norm(x, is_training))
    if self.pool:
      same = self.padding == 'same'
      x = max_pool(x, 'SAME' if same else POOL_PADDING)
    return x


def separate_views(x: jax.Array, count: int) -> jax.Array:
  """[B, ..., views * C] -> [views * B, ..., C], see `modules.Views`."""
  x = jnp.moveaxis(x.reshape(*x.shape[:-1], count, -1), -2, 0)
  return x.reshape(-1, *x.shape[2:])


def max_pool(images: jax.Array, padding: convolution.Padding) -> jax.Array:
  """Returns the largest of 3x3 pixels, stride 2, [B, H, W, C].

  The gradient of XLA's window is a scatter with two passes over intermediate
  indices. On a GPU three lines are compared in its place, along the width, then
  along the height; on a CPU for the gradient alone, as the window itself is
  fast. All give the gradient to the first of equal pixels.
  """
  window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(images.shape, window, strides, padding)

  def pool_windows(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_window(
      x, -jnp.inf, jax.lax.max, window, strides, padding
    )

  by_lines = functools.partial(pool_by_lines, padding)

  def pull_back(saved: Any, change: jax.Array) -> Any:
    kept = convolution.keep(saved[0], change)  # computed once
    return jax.vjp(by_lines, kept)[1](change)

  return convolution.choose_form(
    pool_windows, {'cpu': pull_back}, cuda=by_lines
  )(images)


def pool_by_lines(
  padding: Sequence[tuple[int, int]], images: jax.Array
) -> jax.Array:
  """Returns `max_pool` by comparisons of whole lines."""
  for axis in (2, 1):
    pads = [(0, 0)] * images.ndim
    pads[axis] = padding[axis]
    padded = jnp.pad(images, pads, constant_values=-jnp.inf)
    stop = padded.shape[axis] - 2
    lines = [
      jax.lax.slice_in_dim(padded, first, first + stop, 2, axis)
      for first in range(3)
    ]
    images = functools.reduce(lambda a, b: jnp.where(b > a, b, a), lines)
  return images


def _recompute(layers: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Keeps no activations of `layers`(x, is_training) for the gradient.

  The statistics of a batch are kept: no sum over devices is made again.
  """
  return hk.remat(layers, policy=_is_reduced, static_argnums=1)


def _is_reduced(primitive: Any, *unused: Any, **options: Any) -> bool:
  """Whether `jax.checkpoint` keeps a value: those reduced over devices."""
  return 'psum' in primitive.name


def scale_channels(channels: int, width: float) -> int:
  """Returns the channels at a width multiplier, at least one."""
  return max(1, round(channels * width))
