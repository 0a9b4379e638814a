"""Computes convolutions, in the form that is fast for a platform and a shape.

TPUs and GPUs get XLA's convolution. On a CPU 1x1 kernels and outputs of at most
3x3 pixels are products of matrices; 3x3 kernels of stride 1 with many channels
are Winograd's products of tiles, which save more than half of the products; and
the gradient of other weights is a sum over parts of the batch. Each is the same
function in another order of summation (docs/speed.md). The form is chosen when
a program is lowered, by its platform, also on a host without any device of it.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

_Pads = Sequence[tuple[int, int]]  # (before, after) per axis
Padding = str | _Pads  # 'SAME', 'VALID' or pads
_Form = Callable[..., Any]  # a function of arrays

# Height times width of the largest output that is computed from columns.
MAX_COLUMNS_SIZE = 9
# Numbers in the columns of a part of the batch, about the cache of a core.
MAX_PART_SIZE = 2**20
# Numbers in the tiles of a part of the batch, a part of the shared cache.
MAX_TILES_SIZE = 2**21
# Fewer input or output channels make products of tiles slower than XLA.
MIN_TILES_CHANNELS = 64


def convolve(
  images: jax.Array, weights: jax.Array, stride: int, padding: Padding
) -> jax.Array:
  """[B, H, W, C], [kernel, kernel, C, D] -> [B, H', W', D]."""
  kernel, *_ = weights.shape
  if isinstance(padding, str):
    window = (kernel, kernel), (stride, stride)
    padding = lax.padtype_to_pads(images.shape[1:3], *window, padding)
  plain = functools.partial(
    lax.conv_general_dilated,
    window_strides=(stride, stride),
    padding=padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  _, height, width, _ = jax.eval_shape(plain, images, weights).shape
  columns = functools.partial(_multiply_columns, stride, padding)
  if kernel == 1 or height * width <= MAX_COLUMNS_SIZE:
    return choose_form(plain, cpu=columns)(images, weights)
  if (
    (kernel, stride) == (3, 1)
    and min(weights.shape[2:]) >= MIN_TILES_CHANNELS
    and images.dtype.itemsize > 2  # bfloat16 would round the sums of pixels
  ):
    tiles = functools.partial(_multiply_tiles, padding)
    size = 4 * height * width * max(weights.shape[2:])
    count = MAX_TILES_SIZE // size
    pull_back = functools.partial(_pull_back_parts, _pull_back(tiles), count)
    form = functools.partial(_map_parts, tiles, count)
    return choose_form(plain, {'cpu': pull_back}, cpu=form)(images, weights)
  count = MAX_PART_SIZE // (height * width * weights[..., 0].size)
  pull_back = functools.partial(_pull_back_weights, plain, columns, count)
  return choose_form(plain, {'cpu': pull_back})(images, weights)


def _split_batch(count: int, *arrays: jax.Array) -> list[jax.Array]:
  """[B, ...] -> [parts, images of a part, ...], of at most `count` images.

  Images of zeros fill the last part of a batch without a fitting divisor.
  """
  number = len(arrays[0])
  most = max(1, min(count, number))
  size = next(n for n in range(most, 0, -1) if number % n == 0)
  if size < most / 2:
    size = math.ceil(number / math.ceil(number / most))
  parts = math.ceil(number / size)

  def split(x: jax.Array) -> jax.Array:
    filled = jnp.pad(x, [(0, parts * size - number), *[(0, 0)] * (x.ndim - 1)])
    return filled.reshape(parts, size, *x.shape[1:])

  return [split(x) for x in arrays]


def _join_parts(parts: jax.Array, number: int) -> jax.Array:
  """[parts, images of a part, ...] -> [number, ...]."""
  count, size, *shape = parts.shape
  return parts.reshape(count * size, *shape)[:number]


def _map_parts(
  form: _Form, count: int, images: jax.Array, weights: jax.Array
) -> jax.Array:
  (parts,) = _split_batch(count, images)
  outputs = lax.map(lambda part: form(part, weights), parts)
  return _join_parts(outputs, len(images))


def _pull_back_parts(
  pull_back: _Form, count: int, saved: Any, change: jax.Array
) -> tuple[jax.Array, ...]:
  """Returns the gradients of images, if any, and of weights, part by part."""
  images, weights = saved

  def add(total: jax.Array, part: Any) -> Any:
    *of_images, of_weights = pull_back((part[0], weights), part[1])
    return total + of_weights, of_images

  total = jnp.zeros_like(weights, jnp.promote_types(change.dtype, jnp.float32))
  parts = _split_batch(count, images, change)
  total, of_images = lax.scan(add, total, parts)
  of_images = [_join_parts(x, len(images)) for x in of_images]
  return (*of_images, total.astype(weights.dtype))


def _pull_back_weights(
  plain: _Form, form: _Form, count: int, saved: Any, change: jax.Array
) -> Any:
  """Takes the gradient of the weights from another form, part by part.

  The images are kept: XLA would compute them again.
  """

  def pull_back(args: Any, change: jax.Array) -> Any:
    return jax.vjp(functools.partial(form, args[0]), args[1])[1](change)

  kept = keep(*saved), saved[1]
  (of_weights,) = _pull_back_parts(pull_back, count, kept, change)
  return _pull_back(plain)(saved, change)[0], of_weights


def keep(x: jax.Array, other: jax.Array) -> jax.Array:
  """Returns x; a CPU computes it once, not again wherever it is used.

  XLA drops `lax.optimization_barrier` there, not a choice.

  Args:
    x: on a CPU NaN is returned if the first number of `other` is not finite.
    other: floats that the compiler does not know, such as weights.
  """

  def choose(x: jax.Array, other: jax.Array) -> jax.Array:
    is_finite = jnp.all(jnp.isfinite(other.ravel()[:1]))
    return lax.cond(is_finite, lambda: x, lambda: jnp.full_like(x, jnp.nan))

  return lax.platform_dependent(x, other, cpu=choose, default=lambda x, _: x)


def choose_form(
  plain: _Form, gradients: Mapping[str, _Form] | None = None, **forms: _Form
) -> _Form:
  """Returns one of equal functions, by the platform of the program.

  The gradient chooses again: that of a choice would save the values of all.

  Args:
    plain: for platforms that are not named.
    gradients: of forms that have their own, from (arguments, change); else JAX
      derives them.
    **forms: by the name of a platform, 'cpu', 'cuda' or 'tpu'.
  """

  @jax.custom_vjp
  def choose(*args: jax.Array) -> jax.Array:
    return lax.platform_dependent(*args, **forms, default=plain)

  derived = {name: _pull_back(form) for name, form in forms.items()}
  gradient = functools.partial(
    lax.platform_dependent,
    **{**derived, **(gradients or {})},
    default=_pull_back(plain),
  )
  choose.defvjp(lambda *args: (choose(*args), args), gradient)
  return choose


def _pull_back(form: _Form) -> _Form:
  return lambda args, change: jax.vjp(form, *args)[1](change)


def _multiply_columns(
  stride: int, padding: _Pads, images: jax.Array, weights: jax.Array
) -> jax.Array:
  """Multiplies columns, the pixels that each output sees, with the weights."""
  kernel, columns = len(weights), jnp.pad(images, [(0, 0), *padding, (0, 0)])
  # One axis after the other: 2 * kernel slices, not its square, to compile.
  for axis in (2, 1):
    size = columns.shape[axis] - kernel + 1
    seen = [
      lax.slice_in_dim(columns, i, i + size, stride, axis)
      for i in range(kernel)
    ]
    columns = jnp.concatenate(seen, axis=-1)
  rows = columns.reshape(-1, columns.shape[-1])
  outputs = _multiply(rows, weights.reshape(columns.shape[-1], -1))
  return outputs.reshape(*columns.shape[:-1], weights.shape[-1])


def _multiply_tiles(
  padding: _Pads, images: jax.Array, weights: jax.Array
) -> jax.Array:
  """Multiplies tiles of 4x4 pixels with 3x3 weights, each for 2x2 outputs.

  Four pixels of a line give two outputs with four products in the place of six
  (Winograd's F(2x2, 3x3), arXiv:1509.09308). The sums before and after them are
  along the height, then along the width.
  """
  size = [n + sum(pads) - 2 for n, pads in zip(images.shape[1:3], padding)]
  even = [(a, b + n % 2) for n, (a, b) in zip(size, padding)]
  tiles = jnp.pad(images, [(0, 0), *even, (0, 0)])
  for axis in (1, 3):  # the four sums become the first axis
    pairs = tiles.reshape(*tiles.shape[:axis], -1, 2, *tiles.shape[axis + 1 :])
    lines = [jnp.squeeze(x, axis + 1) for x in jnp.split(pairs, 2, axis + 1)]
    number = pairs.shape[axis] - 1
    a, b, c, d = (
      lax.slice_in_dim(line, first, first + number, axis=axis)
      for first in range(2)
      for line in lines
    )
    tiles = jnp.stack([a - c, b + c, c - b, b - d])
  for axis in (0, 1):
    a, b, c = jnp.unstack(weights, axis=axis)
    weights = jnp.stack([a, (a + b + c) / 2, (a - b + c) / 2, c])
  matrix = lambda x, *shape: x.reshape(16, *shape, x.shape[-1])
  products = _multiply(matrix(tiles, -1), matrix(weights, tiles.shape[-1]))
  products = products.reshape(*tiles.shape[:-1], -1)
  for axis in (4, 2):
    a, b, c, d = products
    products = jnp.stack([a + b + c, b - c - d], axis)
  count, height, _, width, _, channels = products.shape
  outputs = products.reshape(count, 2 * height, 2 * width, channels)
  return outputs[:, : size[0], : size[1]]


@jax.custom_vjp
def _multiply(rows: jax.Array, weights: jax.Array) -> jax.Array:
  return rows @ weights


def _multiply_backward(saved: Any, change: jax.Array) -> Any:
  """Transposes the smaller array, which XLA copies; JAX takes `change`."""
  rows, weights = saved
  if change.shape[-1] < rows.shape[-1]:
    return change @ weights.mT, (change.mT @ rows).mT
  return change @ weights.mT, rows.mT @ change


_multiply.defvjp(lambda *args: (_multiply(*args), args), _multiply_backward)
