"""Computes convolutions, on a CPU in the form that is fast for their shape.

XLA is slow on CPUs at 1x1 kernels, most of all in the gradient of the weights,
and at outputs of at most 2x2 pixels. There the form is a matrix product; only
the order of summation differs (benchmarks/results/cpu_steps.json). It is chosen
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
  return _choose_form(fast, plain)(images, weights)


def _choose_form(on_cpu: _Form, elsewhere: _Form) -> _Form:
  """Returns one of two equal functions, by the platform of the program.

  The gradient chooses again: that of a choice would save the values of both.
  """

  @jax.custom_vjp
  def choose(*args: jax.Array) -> jax.Array:
    return lax.platform_dependent(*args, cpu=on_cpu, default=elsewhere)

  def pull_back(form: _Form) -> _Form:
    return lambda args, change: jax.vjp(form, *args)[1](change)

  choose.defvjp(
    lambda *args: (choose(*args), args),
    lambda args, change: lax.platform_dependent(
      *(args, change), cpu=pull_back(on_cpu), default=pull_back(elsewhere)
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
