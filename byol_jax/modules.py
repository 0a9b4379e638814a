"""Defines convolution and batch norm, the modules that compute in our own way.

Parameters and states are those of Haiku's modules. A module computes in the
dtype of its input; `cast_parameters` rounds the weights of mixed precision.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import haiku as hk
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byol_jax import convolution


class Views(NamedTuple):
  """How the images of several views lie in one array.

  [views * B, ..., C], one view after another; or [B, ..., views * C], side by
  side in the channels. Arrays of a TPU have 128 channels or are padded to them:
  where a view has 64, the second form is half as large. Each view then has the
  same weights in a block of the diagonal. The products with zeros cost nothing,
  as the matrix unit has 128 rows and columns.
  """

  number: int = 1
  in_channels: bool = False

  @property
  def channel_blocks(self) -> int:
    """How many views the channels hold."""
    return self.number if self.in_channels else 1


ONE_VIEW = Views()


def to_full_precision(x: jax.Array) -> jax.Array:
  """Converts bfloat16 to float32; leaves other floats as they are."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Conv2D(hk.Module):
  """Computes a square convolution; the parameter is that of `hk.Conv2D`."""

  def __init__(
    self,
    channels: int,
    kernel: int,
    stride: int,
    padding: convolution.Padding,
    name: str,
    views: Views = ONE_VIEW,
  ):
    super().__init__(name=name)
    self.channels, self.kernel = channels, kernel
    self.stride, self.padding = stride, padding
    self.views = views

  def __call__(self, images: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H / stride, W / stride, channels], rounded up."""
    blocks = self.views.channel_blocks
    weights = self.get_weights(images.shape[-1] // blocks, images.dtype)
    if blocks > 1:
      weights = repeat_on_diagonal(weights, blocks)
    return convolution.convolve(images, weights, self.stride, self.padding)

  def get_weights(self, inputs: int, dtype: Any) -> jax.Array:
    """Returns the parameter, [kernel, kernel, inputs, channels]."""
    shape = (self.kernel, self.kernel, inputs, self.channels)
    init = hk.initializers.TruncatedNormal(1 / np.sqrt(np.prod(shape[:-1])))
    return hk.get_parameter('w', shape, dtype, init)


class BatchNorm(hk.Module):
  """Normalises each channel of each view; parameters of `hk.BatchNorm`.

  The statistics are of each view, and the averages move by one view after the
  other, as in one pass for each (method.md 2.2). Both are float32 also where
  the images are bfloat16.

  Args:
    decay: of the moving averages.
    epsilon: added to the variance.
    axis_name: over which the statistics are averaged in training mode; None
      keeps them local.
    groups: of devices, see `parallel.list_groups`.
    views: how they lie in the input.
    scale_init: initial value of the scale.
  """

  def __init__(
    self,
    *,
    decay: float,
    epsilon: float,
    axis_name: str | None = None,
    groups: list[list[int]] | None = None,
    views: Views = ONE_VIEW,
    scale_init: hk.initializers.Initializer = jnp.ones,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self.epsilon, self.scale_init = epsilon, scale_init
    self.axis_name, self.groups = axis_name, groups
    self.views = views
    self.mean_ema = hk.ExponentialMovingAverage(decay, name='mean_ema')
    self.var_ema = hk.ExponentialMovingAverage(decay, name='var_ema')

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Images of all views, [..., C] -> the same shape and dtype."""
    views = to_full_precision(x)
    if not self.views.in_channels:
      views = views.reshape(self.views.number, -1, *x.shape[1:])
    blocks = self.views.channel_blocks
    shape = (*[1] * (x.ndim - 1), x.shape[-1] // blocks)
    repeat = lambda y: jnp.tile(y, blocks) if blocks > 1 else y
    scale, offset = self._get_parameters(shape, views.dtype)
    if is_training:
      first = 0 if self.views.in_channels else 1
      axes = tuple(range(first, views.ndim - 1))
      mean, variance = self._track(
        [jnp.mean(x, axes, keepdims=True) for x in (views, jnp.square(views))],
        shape,
      )
    else:
      mean = repeat(self.mean_ema.average)
      variance = repeat(self.var_ema.average)
    inverse = repeat(scale) * lax.rsqrt(variance + self.epsilon)
    normalized = (views - mean) * inverse + repeat(offset)
    return normalized.reshape(x.shape).astype(x.dtype)

  def fold(
    self, mean: jax.Array, mean_of_squares: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Returns factor and summand, [C], from the moments of one view, [C]."""
    shape = (1, 1, 1, len(mean))
    scale, offset = self._get_parameters(shape, mean.dtype)
    mean, variance = self._track(
      [mean.reshape(shape), mean_of_squares.reshape(shape)], shape
    )
    factor = scale * lax.rsqrt(variance + self.epsilon)
    return factor.reshape(-1), (offset - mean * factor).reshape(-1)

  def _get_parameters(
    self, shape: tuple[int, ...], dtype: Any
  ) -> tuple[jax.Array, jax.Array]:
    """Returns scale and offset."""
    scale = hk.get_parameter('scale', shape, dtype, self.scale_init)
    return scale, hk.get_parameter('offset', shape, dtype, jnp.zeros)

  def _track(
    self, moments: list[jax.Array], shape: tuple[int, ...]
  ) -> tuple[jax.Array, jax.Array]:
    """Returns mean and biased variance of all devices; moves the averages.

    `moments` are means of the values and of their squares, of all views.
    """
    if self.axis_name is not None:
      moments = lax.pmean(
        moments, self.axis_name, axis_index_groups=self.groups
      )
    mean, mean_of_squares = moments
    variance = mean_of_squares - jnp.square(mean)
    for average, moment in ((self.mean_ema, mean), (self.var_ema, variance)):
      moment = lax.stop_gradient(moment)  # JAX would trace that of averages
      for moment_of_view in moment.reshape(self.views.number, *shape):
        average(moment_of_view)
    return mean, variance


def cast_parameters(
  next_getter: Callable[[jax.Array], jax.Array],
  value: jax.Array,
  context: Any,
) -> jax.Array:
  """Casts a parameter to the dtype a module asks for; a getter of Haiku."""
  return next_getter(value).astype(context.original_dtype)


def repeat_on_diagonal(weights: jax.Array, count: int) -> jax.Array:
  """[k, k, C, D] -> [k, k, count * C, count * D], zero off the diagonal."""
  *kernel, inputs, outputs = weights.shape
  diagonal = jnp.eye(count, dtype=weights.dtype)[:, None, :, None]
  blocks = weights[:, :, None, :, None, :] * diagonal
  return blocks.reshape(*kernel, count * inputs, count * outputs)


class ConvOfBlocks(Conv2D):
  """Computes a convolution of stride 2 of blocks of 2x2 pixels.

  It has the parameter and the values of `Conv2D`, and puts views side by side.
  The first convolution of a network has 3 channels, too few for the matrix unit
  of a TPU or a GPU; blocks of two views have 24, those of one view and zeros
  16: the kernels of a GPU want multiples of eight.
  """

  def __call__(self, images: jax.Array) -> jax.Array:
    """[views * B, H, W, C] -> [B, H / 2, W / 2, views * channels].

    Height and width are even and equal.
    """
    weights = self.get_weights(images.shape[-1], images.dtype)
    *_, channels, outputs = weights.shape
    pads = self.padding
    if isinstance(pads, str):
      window = weights.shape[:2], (2, 2)
      pads = lax.padtype_to_pads(images.shape[1:3], *window, pads)
    before = pads[0][0]
    # The kernel starts with a block, so with a row of zeros if `before` is odd.
    lead = before % 2
    trail = (lead + self.kernel) % 2
    size = (lead + self.kernel + trail) // 2
    weights = jnp.pad(weights, [(lead, trail)] * 2 + [(0, 0)] * 2)
    weights = weights.reshape(size, 2, size, 2, channels, outputs)
    weights = weights.transpose(0, 2, 1, 3, 4, 5)
    weights = weights.reshape(size, size, 4 * channels, outputs)
    blocks = gather_blocks(images, self.views.number)
    zeros = -blocks.shape[-1] % 8 if self.views.number == 1 else 0
    blocks = jnp.pad(blocks, [(0, 0)] * 3 + [(0, zeros)])
    weights = jnp.pad(weights, [(0, 0)] * 2 + [(0, zeros), (0, 0)])
    first = (before + lead) // 2
    return convolution.convolve(
      blocks,
      repeat_on_diagonal(weights, self.views.number),
      stride=1,
      padding=[(first, size - 1 - first)] * 2,
    )


def gather_blocks(images: jax.Array, num_views: int) -> jax.Array:
  """[views * B, H, W, C] -> [B, H / 2, W / 2, views * 4 * C], blocks of 2x2.

  On a TPU by products with permutations, which are exact in this precision:
  reordering an array of few channels in memory takes it four times as long.
  """
  _, height, width, channels = images.shape

  def transpose(images: jax.Array) -> jax.Array:
    shape = (num_views, -1, height // 2, 2, width // 2, 2, channels)
    x = images.reshape(shape).transpose(1, 2, 4, 0, 3, 5, 6)
    return x.reshape(*x.shape[:3], -1)

  def permute(images: jax.Array) -> jax.Array:
    multiply = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    x = images.reshape(num_views, -1, height, width, channels)
    x = jnp.moveaxis(x, -1, 1)
    x = multiply('yih,vcbhw->vcbyiw', _permute_pairs(height, x.dtype), x)
    x = multiply('xjw,vcbyiw->bijvyxc', _permute_pairs(width, x.dtype), x)
    return x.reshape(*x.shape[:3], -1)

  return convolution.choose_form(transpose, tpu=permute)(images)


def _permute_pairs(size: int, dtype: Any) -> jax.Array:
  """[2, size / 2, size]: the even places, and the odd ones."""
  places = 2 * np.arange(size // 2) + np.arange(2)[:, None]
  return jnp.eye(size, dtype=dtype)[places]


def normalize_convolution(
  layer: Conv2D,
  norm: BatchNorm,
  images: jax.Array,
  is_training: bool,
  fold: bool = True,
) -> jax.Array:
  """Returns norm(layer(images)), with `fold` as one where that pays.

  A convolution is linear, so that the moments of its outputs follow from those
  of its inputs, and the norm is then a factor of the weights and a bias. In
  training that saves a GPU, which waits for its memory, most of the passes over
  the widest activations: the outputs are not written, read for their moments
  and read again to be normalised; the sum with the shortcut and the ReLU become
  part of the convolution; and the gradient neither reads the outputs nor writes
  one of their size. It is the same function, up to rounding (docs/speed.md).

  It pays in training, where a 1x1 convolution has no more inputs than outputs.
  A norm of each view needs weights of each view, so images are of one view.
  [B, H, W, C] -> [B, H / stride, W / stride, channels], in the same dtype.
  """
  inputs, stride = images.shape[-1], layer.stride
  pays = layer.kernel == 1 and inputs <= layer.channels
  if not (fold and is_training and pays):
    return norm(layer(images), is_training)
  full = jnp.promote_types(images.dtype, jnp.float32)
  weights = layer.get_weights(inputs, full)[0, 0]
  # Stored once, not computed by each of the two that read them.
  images = lax.optimization_barrier(images[:, ::stride, ::stride])
  mean, products = measure_moments(images)
  multiply = lambda x, y: jnp.matmul(x, y, precision=lax.Precision.HIGHEST)
  mean = multiply(mean, weights)
  squares = jnp.sum(multiply(products, weights) * weights, 0)
  # The sums of a few images round to less than their mean squared: the root of
  # a negative variance would be no number.
  factor, bias = norm.fold(mean, jnp.maximum(squares, jnp.square(mean)))
  folded = (weights * factor).astype(images.dtype)
  outputs = convolution.convolve(images, folded[None, None], 1, 'VALID')
  return add_bias(outputs, bias)


@jax.custom_vjp
def measure_moments(images: jax.Array) -> tuple[jax.Array, jax.Array]:
  """[B, H, W, C] -> means of the channels, [C], and of their products, [C, C].

  Both have full precision; the gradient has the dtype of the images.
  """
  full = jnp.promote_types(images.dtype, jnp.float32)
  rows = images.reshape(-1, images.shape[-1])
  # TensorFloat-32 would truncate: a bias that the difference of the moments,
  # the variance, shows as its own. Products of bfloat16 are exact anyway.
  precision = lax.Precision.HIGHEST if rows.dtype == full else None
  products = jnp.matmul(
    rows.T, rows, precision=precision, preferred_element_type=full
  )
  return jnp.mean(rows, 0, dtype=full), products / len(rows)


def _measure_moments_backward(
  images: jax.Array, changes: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array]:
  """Is a convolution, so that a GPU adds its result to that of another."""
  of_mean, of_products = (x * images.shape[-1] / images.size for x in changes)
  kernel = (of_products + of_products.T).astype(images.dtype)
  change = convolution.convolve(images, kernel[None, None], 1, 'VALID')
  return (change + of_mean.astype(images.dtype),)


measure_moments.defvjp(
  lambda images: (measure_moments(images), images), _measure_moments_backward
)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """[..., C], [C] -> [..., C]; sums the gradient in the dtype of the bias."""
  return x + bias.astype(x.dtype)


def _add_bias_backward(
  empty: jax.Array, change: jax.Array
) -> tuple[jax.Array, jax.Array]:
  axes = tuple(range(change.ndim - 1))
  return change, jnp.sum(change, axes, dtype=empty.dtype)


add_bias.defvjp(
  lambda x, bias: (add_bias(x, bias), bias[:0]), _add_bias_backward
)


@jax.custom_vjp
def rectify(x: jax.Array) -> jax.Array:
  """Returns max(x, 0); its gradient reads the result, never `x`.

  So a GPU computes it in the convolution before it, and does not store `x`: the
  compiler would replace a comparison of the result by one of `x`.
  """
  return lax.optimization_barrier(jnp.maximum(x, 0))


def _rectify_forward(x: jax.Array) -> tuple[Any, Any]:
  result = rectify(x)
  return result, result


rectify.defvjp(
  _rectify_forward,
  lambda result, change: (jnp.where(result > 0, change, 0),),
)
