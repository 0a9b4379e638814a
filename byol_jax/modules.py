"""Defines convolution and batch norm, the modules that compute in our own way.

Parameters and states are those of Haiku's modules. A module computes in the
dtype of its input: bfloat16 in mixed precision, where `cast_parameters` rounds
the weights.

Convolutions take the form that is fast for their shape on a CPU. XLA is slow
there at 1x1 kernels, most of all in the gradient of the weights, and at outputs
of at most 2x2 pixels; the form for these is a matrix product, where only the
order of summation differs (benchmarks/results/cpu_steps.json). It is chosen
when a program is lowered, by the platform it is lowered for: TPUs and GPUs get
the plain form, also on a host without any.
"""

from collections.abc import Callable, Sequence
import functools
import itertools
from typing import Any

import haiku as hk
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

Padding = str | Sequence[tuple[int, int]]  # 'SAME' or (before, after) per axis
_Form = Callable[..., Any]  # a function of arrays

# Height times width of the largest output that is computed from columns.
MAX_COLUMNS_SIZE = 4


def to_full_precision(x: jax.Array) -> jax.Array:
  """Converts bfloat16 to float32; leaves other floats as they are."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Conv2D(hk.Module):
  """Computes a square convolution; the parameter is that of `hk.Conv2D`."""

  def __init__(
    self, channels: int, kernel: int, stride: int, padding: Padding, name: str
  ):
    super().__init__(name=name)
    self.channels, self.kernel = channels, kernel
    self.stride, self.padding = stride, padding

  def __call__(self, images: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H / stride, W / stride, channels], rounded up."""
    shape = (self.kernel, self.kernel, images.shape[-1], self.channels)
    init = hk.initializers.TruncatedNormal(1 / np.sqrt(np.prod(shape[:-1])))
    weights = hk.get_parameter('w', shape, images.dtype, init)
    return convolve(images, weights, self.stride, self.padding)


class BatchNorm(hk.Module):
  """Normalises each channel of each view; parameters of `hk.BatchNorm`.

  The batch has the images of one view after those of another. Each view has
  its own statistics and moves the averages in turn, as in a pass of its own
  (method.md 2.2). They are float32 also where the images are bfloat16.

  Args:
    decay: of the moving averages.
    epsilon: added to the variance.
    axis_name: over which the statistics are averaged in training mode; None
      keeps them local.
    groups: of devices, see `parallel.list_groups`.
    num_views: of equal numbers of images.
    scale_init: initial value of the scale.
    name: of the module.
  """

  def __init__(
    self,
    *,
    decay: float,
    epsilon: float,
    axis_name: str | None = None,
    groups: list[list[int]] | None = None,
    num_views: int = 1,
    scale_init: hk.initializers.Initializer = jnp.ones,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self.epsilon, self.scale_init = epsilon, scale_init
    self.axis_name, self.groups = axis_name, groups
    self.num_views = num_views
    self.mean_ema = hk.ExponentialMovingAverage(decay, name='mean_ema')
    self.var_ema = hk.ExponentialMovingAverage(decay, name='var_ema')

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """[views * B, ..., C] -> the same shape and dtype."""
    views = x.reshape(self.num_views, -1, *x.shape[1:])
    views = to_full_precision(views)
    if is_training:
      mean, variance = self._measure(views)
      for view in range(self.num_views):
        self.mean_ema(mean[view])
        self.var_ema(variance[view])
    else:
      mean, variance = self.mean_ema.average, self.var_ema.average
    shape = (*[1] * (x.ndim - 1), x.shape[-1])
    scale = hk.get_parameter('scale', shape, views.dtype, self.scale_init)
    offset = hk.get_parameter('offset', shape, views.dtype, jnp.zeros)
    inverse = scale * lax.rsqrt(variance + self.epsilon)
    return ((views - mean) * inverse + offset).reshape(x.shape).astype(x.dtype)

  def _measure(self, views: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and biased variance of [views, B, ..., C]."""
    axes = range(1, views.ndim - 1)
    moments = [
      jnp.mean(x, tuple(axes), keepdims=True)
      for x in (views, jnp.square(views))
    ]
    if self.axis_name is not None:
      moments = lax.pmean(
        moments, self.axis_name, axis_index_groups=self.groups
      )
    mean, mean_of_squares = moments
    return mean, mean_of_squares - jnp.square(mean)


def cast_parameters(
  next_getter: Callable[[jax.Array], jax.Array],
  value: jax.Array,
  context: Any,
) -> jax.Array:
  """Casts a parameter to the dtype a module asks for; a getter of Haiku."""
  return next_getter(value).astype(context.original_dtype)


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
    return plain(images, weights)
  fast = functools.partial(_multiply_columns, stride, padding)
  return choose_form(plain, cpu=fast)(images, weights)


def max_pool(images: jax.Array, padding: Padding) -> jax.Array:
  """Returns the largest of 3x3 pixels, stride 2, [B, H, W, C].

  On a GPU the gradient of XLA's window is a scatter with two passes over
  intermediate indices; there three lines are compared along the width, then
  along the height. Both give the gradient to the first of equal pixels.
  """
  window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(images.shape, window, strides, padding)

  def pool_windows(x: jax.Array) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)

  by_lines = functools.partial(pool_by_lines, padding)
  return choose_form(pool_windows, cuda=by_lines)(images)


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
      lax.slice_in_dim(padded, first, first + stop, 2, axis)
      for first in range(3)
    ]
    images = functools.reduce(lambda a, b: jnp.where(b > a, b, a), lines)
  return images


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

  def pull_back(form: _Form) -> _Form:
    return lambda args, change: jax.vjp(form, *args)[1](change)

  choose.defvjp(
    lambda *args: (choose(*args), args),
    lambda args, change: lax.platform_dependent(
      *(args, change),
      **{name: pull_back(form) for name, form in forms.items()},
      default=pull_back(plain),
    ),
  )
  return choose


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


def _multiply_backward(
  saved: tuple[jax.Array, jax.Array], change: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Transposes the smaller array, which XLA copies; JAX takes `change`."""
  rows, weights = saved
  if change.shape[1] < rows.shape[1]:
    return change @ weights.T, (change.T @ rows).T
  return change @ weights.T, rows.T @ change


_multiply.defvjp(lambda *args: (_multiply(*args), args), _multiply_backward)
