"""Defines convolution and batch norm, the modules that compute in our own way.

Parameters and states are those of Haiku's modules. A module computes in the
dtype of its input; `cast_parameters` rounds the weights of mixed precision.

On a CPU convolutions take the form that is fast for their shape: 1x1 kernels
and outputs of at most 3x3 pixels are products of matrices, and the gradient of
other weights is a sum over parts of the batch; only the order of summation
differs (docs/speed.md). The form is chosen when a program is lowered, by its
platform: TPUs and GPUs get the plain one, also on a host without any.
"""

from collections.abc import Callable, Sequence
import functools
import itertools
from typing import Any, NamedTuple

import haiku as hk
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np


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

Padding = str | Sequence[tuple[int, int]]  # 'SAME' or (before, after) per axis
_Form = Callable[..., Any]  # a function of arrays

# Height times width of the largest output that is computed from columns.
MAX_COLUMNS_SIZE = 9
# Numbers in the columns of a part of the batch, about the cache of a core.
MAX_PART_SIZE = 2**20


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
    padding: Padding,
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
    return convolve(images, weights, self.stride, self.padding)

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
    return convolve(
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

  return choose_form(transpose, tpu=permute)(images)


def _permute_pairs(size: int, dtype: Any) -> jax.Array:
  """[2, size / 2, size]: the even places, and the odd ones."""
  places = 2 * np.arange(size // 2) + np.arange(2)[:, None]
  return jnp.eye(size, dtype=dtype)[places]


def convolve(
  images: jax.Array, weights: jax.Array, stride: int, padding: Padding
) -> jax.Array:
  """[B, H, W, C], [kernel, kernel, C, D] -> [B, H', W', D]."""
  plain = functools.partial(
    lax.conv_general_dilated,
    window_strides=(stride, stride),
    padding=padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  _, height, width, _ = jax.eval_shape(plain, images, weights).shape
  if weights.shape[0] > 1 and height * width > MAX_COLUMNS_SIZE:
    return _sum_parts(plain, stride, padding)(images, weights)
  fast = functools.partial(_multiply_columns, stride, padding)
  return choose_form(plain, cpu=fast)(images, weights)


def _sum_parts(plain: _Form, stride: int, padding: Padding) -> _Form:
  """Returns a convolution with a gradient that is fast on CPUs.

  That of the weights is a sum over parts of the batch whose columns fit into
  the cache. The images are kept: XLA would compute them again.
  """

  def sum_parts(saved: Any, change: jax.Array) -> Any:
    images, weights = keep(*saved), saved[1]
    size = weights[..., 0].size * change[0, ..., 0].size
    most = min(max(1, MAX_PART_SIZE // size), len(images))
    largest = next(n for n in range(most, 0, -1) if len(images) % n == 0)

    def add(total: jax.Array, part: Any) -> tuple[jax.Array, None]:
      multiply = functools.partial(_multiply_columns, stride, padding, part[0])
      return total + jax.vjp(multiply, weights)[1](part[1])[0], None

    parts = [x.reshape(-1, largest, *x.shape[1:]) for x in (images, change)]
    total, _ = lax.scan(add, jnp.zeros_like(to_full_precision(weights)), parts)
    return whole(saved, change)[0], total.astype(weights.dtype)

  whole, form = _pull_back(plain), jax.custom_vjp(plain)
  gradient = functools.partial(
    lax.platform_dependent, cpu=sum_parts, default=whole
  )
  form.defvjp(lambda *args: (form(*args), args), gradient)
  return form


def keep(x: jax.Array, other: jax.Array) -> jax.Array:
  """Returns x; a CPU computes it once, not again wherever it is used.

  XLA drops `lax.optimization_barrier` there, not a choice.

  Args:
    x: on a CPU NaN is returned if the first number of `other` is not finite.
    other: floats that the compiler does not know, such as weights.
  """

  def choose(x: jax.Array, other: jax.Array) -> jax.Array:
    is_finite = jnp.isfinite(other.ravel()[0])
    return lax.cond(is_finite, lambda: x, lambda: jnp.full_like(x, jnp.nan))

  return lax.platform_dependent(x, other, cpu=choose, default=lambda x, _: x)


def choose_form(plain: _Form, **forms: _Form) -> _Form:
  """Returns one of equal functions, by the platform of the program.

  The gradient chooses again: that of a choice would save the values of all.

  Args:
    plain: for platforms that are not named.
    **forms: by the name of a platform, 'cpu', 'cuda' or 'tpu'.
  """

  @jax.custom_vjp
  def choose(*args: jax.Array) -> jax.Array:
    return lax.platform_dependent(*args, **forms, default=plain)

  gradients = {name: _pull_back(form) for name, form in forms.items()}
  gradient = functools.partial(
    lax.platform_dependent, **gradients, default=_pull_back(plain)
  )
  choose.defvjp(lambda *args: (choose(*args), args), gradient)
  return choose


def _pull_back(form: _Form) -> _Form:
  return lambda args, change: jax.vjp(form, *args)[1](change)


def _multiply_columns(
  stride: int, padding: Padding, images: jax.Array, weights: jax.Array
) -> jax.Array:
  """Multiplies columns, the pixels that each output sees, with the weights."""
  kernel, shape = len(weights), images.shape[1:3]
  if isinstance(padding, str):
    window = weights.shape[:2], (stride, stride)
    padding = lax.padtype_to_pads(shape, *window, padding)
  padded = jnp.pad(images, [(0, 0), *padding, (0, 0)])
  height, width = (size - kernel + 1 for size in padded.shape[1:3])
  taps = itertools.product(range(kernel), repeat=2)
  seen = [
    padded[:, i : i + height : stride, j : j + width : stride] for i, j in taps
  ]
  columns = jnp.concatenate(seen, axis=-1)
  rows = columns.reshape(-1, columns.shape[-1])
  outputs = _multiply(rows, weights.reshape(columns.shape[-1], -1))
  return outputs.reshape(*columns.shape[:-1], -1)


@jax.custom_vjp
def _multiply(rows: jax.Array, weights: jax.Array) -> jax.Array:
  return rows @ weights


def _multiply_backward(saved: Any, change: jax.Array) -> Any:
  """Transposes the smaller array, which XLA copies; JAX takes `change`."""
  rows, weights = saved
  if change.shape[1] < rows.shape[1]:
    return change @ weights.T, (change.T @ rows).T
  return change @ weights.T, rows.T @ change


_multiply.defvjp(lambda *args: (_multiply(*args), args), _multiply_backward)
