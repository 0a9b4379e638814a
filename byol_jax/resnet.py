"""ResNet torsos, v1 and v2, with the names of the published weights.

Images are NHWC float32; padding is TF-style SAME everywhere; no convolution
has a bias. Spec 2.1, 2.2, 9.3; official file `utils/networks.py`.

Own blocks rather than Haiku's: the paper initialises every scale (gamma) with
ones, Haiku's v1 block hard-codes zeros in the last one.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import chex
import haiku as hk
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Facts of one torso: module name, blocks a group, channels a group."""

  module_name: str
  blocks: tuple[int, ...]
  bottleneck: bool = True
  channels: tuple[int, ...] = (256, 512, 1024, 2048)
  initial_channels: int = 64


@dataclasses.dataclass(frozen=True)
class Stem:
  """The first convolution, and whether a max pool follows."""

  kernel: int
  stride: int
  pool: bool


BASIC = (64, 128, 256, 512)

ENCODERS: Mapping[str, Encoder] = {
  'ResNet18': Encoder('res_net18', (2, 2, 2, 2), False, BASIC),
  'ResNet34': Encoder('res_net34', (3, 4, 6, 3), False, BASIC),
  'ResNet50': Encoder('res_net50', (3, 4, 6, 3)),
  'ResNet101': Encoder('res_net101', (3, 4, 23, 3)),
  'ResNet152': Encoder('res_net152', (3, 8, 36, 3)),
  'ResNet200': Encoder('res_net200', (3, 24, 36, 3)),
  # The reference's own test network.
  'TinyResNet': Encoder('tiny_res_net', (1, 1, 1, 1), False, (8, 8, 8, 8)),
  # Ours, for CPUs: three groups, so that 32 pixels end at 4x4 or more.
  'MiniResNet': Encoder('mini_res_net', (1, 1, 1), False, (16, 32, 64), 16),
}

STEMS: Mapping[str, Stem] = {
  'imagenet': Stem(kernel=7, stride=2, pool=True),
  'small': Stem(kernel=3, stride=1, pool=False),
  'small_stride2': Stem(kernel=3, stride=2, pool=False),
}

# (inputs [B, H, W, C], is_training) -> the same shape.
MakeNorm = Callable[..., hk.BatchNorm]


def conv(channels: int, kernel: int, stride: int, name: str) -> hk.Conv2D:
  """A convolution without bias, SAME padding."""
  return hk.Conv2D(
      channels, kernel, stride=stride, with_bias=False, padding='SAME',
      name=name,
  )  # fmt: skip


class Block(hk.Module):
  """One residual block: bottleneck (1x1, 3x3, 1x1) or basic (3x3, 3x3).

  The 3x3 convolution of a bottleneck carries the stride. v1 normalises after
  each convolution and adds before the last ReLU; v2 normalises before each
  convolution and projects the shortcut after the first ReLU.
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
    last_gamma: float,
    name: str,
  ):
    super().__init__(name=name)
    self.version = version
    self.project = project
    if project:
      self.shortcut_conv = conv(channels, 1, stride, 'shortcut_conv')
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
      self.layers.append((conv(width, kernel, step, f'conv_{i}'), norm))

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """[B, H, W, C] -> [B, H / stride, W / stride, channels]."""
    return (self.v1 if self.version == 1 else self.v2)(x, is_training)

  def v1(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Post-activation."""
    shortcut = x
    if self.project:
      shortcut = self.shortcut_conv(x)
      shortcut = self.shortcut_batchnorm(shortcut, is_training)
    for i, (convolve, norm) in enumerate(self.layers):
      x = norm(convolve(x), is_training)
      if i < len(self.layers) - 1:
        x = jax.nn.relu(x)
    return jax.nn.relu(x + shortcut)

  def v2(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Pre-activation."""
    shortcut = x
    for i, (convolve, norm) in enumerate(self.layers):
      x = jax.nn.relu(norm(x, is_training))
      if i == 0 and self.project:
        shortcut = self.shortcut_conv(x)
      x = convolve(x)
    return x + shortcut


class BlockGroup(hk.Module):
  """Blocks of one size; the first carries the stride and the projection."""

  def __init__(
    self,
    channels: int,
    num_blocks: int,
    stride: int,
    *,
    name: str,
    **block: Any,
  ):
    super().__init__(name=name)
    self.blocks = [
      Block(
        channels,
        stride if i == 0 else 1,
        project=i == 0,
        name=f'block_{i}',
        **block,
      )
      for i in range(num_blocks)
    ]

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """[B, H, W, C] -> [B, H / stride, W / stride, channels]."""
    for block in self.blocks:
      x = block(x, is_training)
    return x


class ResNet(hk.Module):
  """The encoder f: images to representations (paper 3.3; spec 2.1).

  Args:
    encoder: a key of `ENCODERS`.
    width: multiplies every channel count; 1-4 in the paper, 0.25 and 0.5 for
      CPU presets.
    version: 1 (post-activation, the paper) or 2 (pre-activation).
    gamma_init: 'ones' (the paper) or 'zeros', for the last batch norm of each
      block.
    stem: a key of `STEMS`.
    make_norm: builds the batch norms.
  """

  def __init__(
    self,
    encoder: str,
    *,
    width: float,
    version: int,
    gamma_init: str,
    stem: str,
    make_norm: MakeNorm,
  ):
    facts = ENCODERS[encoder]
    super().__init__(name=facts.module_name)
    first = STEMS[stem]
    self.version = version
    self.pool = first.pool
    channels = scaled(facts.initial_channels, width)
    self.initial_conv = conv(
      channels, first.kernel, first.stride, 'initial_conv'
    )
    norm_name = 'initial_batchnorm' if version == 1 else 'final_batchnorm'
    self.outer_norm = make_norm(name=norm_name)
    self.groups = [
      BlockGroup(
        scaled(channels, width),
        num_blocks,
        stride=1 if i == 0 else 2,
        bottleneck=facts.bottleneck,
        version=version,
        make_norm=make_norm,
        last_gamma={'ones': 1.0, 'zeros': 0.0}[gamma_init],
        name=f'block_group_{i}',
      )
      for i, (num_blocks, channels) in enumerate(
        zip(facts.blocks, facts.channels, strict=True)
      )
    ]

  def __call__(self, images: jax.Array, is_training: bool) -> jax.Array:
    """Normalised images [B, H, W, 3] -> representation [B, D]."""
    chex.assert_rank(images, 4)
    stem = self.after_first
    if self.pool:  # Made again for the gradient: the largest activations.
      stem = hk.remat(stem, policy=is_reduced, static_argnums=1)
    x = stem(self.initial_conv(images), is_training)
    for group in self.groups:
      x = group(x, is_training)
    if self.version == 2:
      x = jax.nn.relu(self.outer_norm(x, is_training))
    return jnp.mean(x, axis=(1, 2))

  def after_first(self, x: jax.Array, is_training: bool) -> jax.Array:
    """The rest of the stem: [B, H, W, C] -> the same, or halved by a pool."""
    if self.version == 1:
      x = jax.nn.relu(self.outer_norm(x, is_training))
    if self.pool:
      x = hk.max_pool(x, (1, 3, 3, 1), (1, 2, 2, 1), padding='SAME')
    return x


def is_reduced(primitive: Any, *unused: Any, **options: Any) -> bool:
  """Whether a value came from other devices: kept, not asked for again."""
  return 'psum' in primitive.name


def scaled(channels: int, width: float) -> int:
  """Channels at a width multiplier, at least one."""
  return max(1, round(channels * width))
