"""Augmentation on the device, in pure JAX.

Images are float32 RGB in [0, 1], [H, W, 3], and stay in that range. Every
operation acts on one image with its own key and is vmapped over the batch.
Spec 3; paper appendix B; official `utils/augmentations.py`. Crops: `data/`.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

GRAY_WEIGHTS = (0.2989, 0.5870, 0.1140)

# The jitter operations; their order is drawn for each image.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

Augment = Callable[[jax.Array, jax.Array], jax.Array]


def to_float(images: jax.Array) -> jax.Array:
  """uint8 to float32 in [0, 1]; floats stay."""
  return images / jnp.float32(255) if images.dtype == jnp.uint8 else images


def clip(image: jax.Array) -> jax.Array:
  """Back into [0, 1]."""
  return jnp.clip(image, 0.0, 1.0)


def adjust_brightness(image: jax.Array, delta: jax.Array) -> jax.Array:
  """Adds one number to all pixels; not clipped."""
  return image + delta


def adjust_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Scales the distance from the mean of each channel; not clipped."""
  center = jnp.mean(image, axis=(-3, -2), keepdims=True)
  return factor * (image - center) + center


def rgb_to_hsv(image: jax.Array) -> jax.Array:
  """[..., 3] RGB to hue in [0, 1) turns, saturation and value in [0, 1]."""
  red, green, blue = (image[..., i] for i in range(3))
  value = jnp.max(image, axis=-1)
  spread = value - jnp.min(image, axis=-1)
  coloured = spread > 0
  # Guarded divisors: both branches of a `where` are computed.
  sixth = 1.0 / (6.0 * jnp.where(coloured, spread, 1.0))
  from_red = sixth * (green - blue)
  from_green = sixth * (blue - red) + 2.0 / 6.0
  from_blue = sixth * (red - green) + 4.0 / 6.0
  hue = jnp.where(green == value, from_green, from_blue)
  hue = jnp.where(red == value, from_red, hue)
  hue = jnp.where(coloured, hue, 0.0)
  hue = jnp.where(hue < 0, hue + 1.0, hue)
  saturation = jnp.where(value > 0, spread / jnp.where(value > 0, value, 1), 0)
  return jnp.stack([hue, saturation, value], axis=-1)


def hsv_to_rgb(image: jax.Array) -> jax.Array:
  """The inverse of `rgb_to_hsv`."""
  sixths = image[..., 0] * 6.0
  saturation, value = image[..., 1, None], image[..., 2, None]
  red = jnp.abs(sixths - 3.0) - 1.0
  green = 2.0 - jnp.abs(sixths - 2.0)
  blue = 2.0 - jnp.abs(sixths - 4.0)
  pure = clip(jnp.stack([red, green, blue], axis=-1))
  return value * (1.0 - saturation + saturation * pure)


def adjust_hsv(image: jax.Array, factor: Any, delta: Any) -> jax.Array:
  """Scales the saturation, turns the hue by `delta` (1 is a whole turn)."""
  hsv = rgb_to_hsv(image)
  hue = jnp.mod(hsv[..., 0] + delta, 1.0)
  saturation = clip(hsv[..., 1] * factor)
  return hsv_to_rgb(jnp.stack([hue, saturation, hsv[..., 2]], axis=-1))


def adjust_saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Scales the saturation, which is clipped to [0, 1]."""
  return adjust_hsv(image, factor, 0.0)


def adjust_hue(image: jax.Array, delta: jax.Array) -> jax.Array:
  """Turns the hue by `delta` turns."""
  return adjust_hsv(image, 1.0, delta)


def to_grayscale(image: jax.Array) -> jax.Array:
  """Luma in all three channels."""
  # A sum, not `@`: accelerators round the factors of a product of matrices.
  luma = jnp.sum(image * jnp.asarray(GRAY_WEIGHTS, image.dtype), axis=-1)
  return jnp.broadcast_to(luma[..., None], image.shape)


def invert_above(image: jax.Array, threshold: float) -> jax.Array:
  """Solarisation: inverts what is not below the threshold."""
  return jnp.where(image < threshold, image, 1.0 - image)


def blur_radius(size: int) -> int:
  """Half of a tenth of the image: the kernel is 2 * radius + 1 wide."""
  return int((size / 10) / 2)


def gaussian_blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
  """Separable blur of [H, W, 3], sigma in pixels; the kernel follows from H.

  Zeros beyond the border, which therefore darkens.
  """
  radius = blur_radius(image.shape[0])
  offsets = jnp.arange(-radius, radius + 1, dtype=image.dtype)
  weights = jnp.exp(-jnp.square(offsets) / (2.0 * jnp.square(sigma)))
  weights = weights / jnp.sum(weights)
  for axis in (0, 1):
    image = convolve(image, weights, axis)
  return image


def convolve(image: jax.Array, weights: jax.Array, axis: int) -> jax.Array:
  """Symmetric kernel along one axis as a sum of shifted copies.

  They fuse into one loop in float32; a grouped convolution is slow everywhere.
  """
  radius = weights.shape[0] // 2
  padded = jnp.pad(image, [(radius * (i == axis),) * 2 for i in range(3)])
  size = image.shape[axis]
  shifted = (
    weights[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
    for i in range(weights.shape[0])
  )
  return functools.reduce(jnp.add, shifted)


class Jitter(NamedTuple):
  """What was drawn for one image."""

  order: jax.Array  # int32 [4], a permutation of the operations
  brightness: jax.Array  # added
  contrast: jax.Array  # factor
  saturation: jax.Array  # factor
  hue: jax.Array  # turns


def draw_jitter(
  key: jax.Array,
  brightness: float,
  contrast: float,
  saturation: float,
  hue: float,
) -> Jitter:
  """Uniform within +-strength (around 1 for factors), any of 24 orders."""
  order_key, key = jax.random.split(key)
  centers = jnp.asarray([0.0, 1.0, 1.0, 0.0])
  strengths = jnp.asarray([brightness, contrast, saturation, hue])
  drawn = centers + strengths * jax.random.uniform(key, (4,), minval=-1.0)
  return Jitter(jax.random.permutation(order_key, 4), *drawn)


def apply_jitter(image: jax.Array, jitter: Jitter) -> jax.Array:
  """The four operations in the drawn order, clipped after each.

  Four places, each with one pass that can be any affine operation and one
  RGB-HSV round trip that can be either of the others: under `vmap` a branch
  computes all its sides, which made 16 transforms of the official code's 4.
  """
  for place in range(4):
    operation = jitter.order[place]
    affine = jnp.where(
      operation == BRIGHTNESS,
      adjust_brightness(image, jitter.brightness),
      adjust_contrast(image, jitter.contrast),
    )
    factor = jnp.where(operation == SATURATION, jitter.saturation, 1.0)
    delta = jnp.where(operation == HUE, jitter.hue, 0.0)
    colour = adjust_hsv(image, factor, delta)
    image = clip(jnp.where(operation <= CONTRAST, affine, colour))
  return image


def maybe(function: Augment, probability: float) -> Augment:
  """`function` with a probability; 1 draws nothing."""
  if probability >= 1:
    return function

  def apply(image: jax.Array, key: jax.Array) -> jax.Array:
    gate, inner = jax.random.split(key)
    applied = jax.random.uniform(gate) < probability
    return jnp.where(applied, function(image, inner), image)

  return apply


def make_augment(
  *,
  flip: Mapping[str, Any] | None,
  jitter: Mapping[str, Any] | None,
  grayscale: Mapping[str, Any] | None,
  blur: Mapping[str, Any] | None,
  solarize: Mapping[str, Any] | None,
) -> Augment:
  """One view's recipe, in the paper's order. An absent operation is `None`.

  Args:
    flip: `probability`.
    jitter: `probability` and the strengths `brightness`, `contrast`,
      `saturation`, `hue`.
    grayscale: `probability`.
    blur: `probability` and `sigma`, its range in pixels.
    solarize: `probability` and `threshold`.

  Returns:
    A function (images [B, H, W, 3], keys [B, 2]) -> images, without gradient.
  """

  def blurred(image: jax.Array, key: jax.Array) -> jax.Array:
    low, high = (blur or {})['sigma']
    sigma = jax.random.uniform(key, minval=low, maxval=high)
    return gaussian_blur(image, sigma)

  def jittered(image: jax.Array, key: jax.Array) -> jax.Array:
    strengths = {k: v for k, v in (jitter or {}).items() if k != 'probability'}
    return apply_jitter(image, draw_jitter(key, **strengths))

  operations = (
    (flip, lambda image, _: image[:, ::-1]),
    (jitter, jittered),
    (grayscale, lambda image, _: clip(to_grayscale(image))),
    (blur, blurred),
    (solarize, lambda x, _: invert_above(x, (solarize or {})['threshold'])),
  )
  steps = [
    (index, maybe(function, section['probability']))
    for index, (section, function) in enumerate(operations)
    if section is not None and section['probability'] > 0
  ]

  def one(image: jax.Array, key: jax.Array) -> jax.Array:
    for index, step in steps:
      image = step(image, jax.random.fold_in(key, index))
    return clip(image)

  def augment(images: jax.Array, keys: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(jax.vmap(one)(to_float(images), keys))

  return augment
