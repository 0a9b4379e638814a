"""Computes a 1x1 convolution and the batch norm after it as one, on a GPU.

A convolution is linear, so that the moments of its outputs follow from those of
its inputs, and the norm is then a factor of the weights and a bias. In training
that saves a GPU, which waits for its memory, most of the passes over the widest
activations: the outputs are not written, read for their moments and read again
to be normalised; the sum with the shortcut and the ReLU become part of the
convolution; and the gradient neither reads the outputs nor writes one of their
size. It is the same function, up to rounding (docs/speed.md).

A norm of each view needs weights of each view, so images are of one view.
"""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from byol_jax import convolution, modules


def normalize_convolution(
  layer: modules.Conv2D,
  norm: modules.BatchNorm,
  images: jax.Array,
  is_training: bool,
  fold: bool = True,
) -> jax.Array:
  """Returns norm(layer(images)), with `fold` as one where that pays.

  It does in training, where a 1x1 convolution has no more inputs than outputs.
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
