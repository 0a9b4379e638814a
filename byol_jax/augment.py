"""Augments images on the device (paper appendix B; method.md 3).

Images are float32 RGB in [0, 1], [H, W, 3]. Every operation acts on one image
with its own key and is vmapped over the batch. Random crops are drawn on the
host, in `data/sampling`.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byol_jax import convolution

GRAY_WEIGHTS = (0.2989, 0.5870, 0.1140)

# Operations of the colour jitter; their order is drawn for each image.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

# (image or images, key or keys) -> the same shape.
Augment = Callable[[jax.Array, jax.Array], jax.Array]


def to_float(images: jax.Array) -> jax.Array:
  """Converts uint8 to float32 in [0, 1]; leaves floats as they are."""
  return images / jnp.float32(255) if images.dtype == jnp.uint8 else images


def clip(image: jax.Array) -> jax.Array:
  """Clips to [0, 1]."""
  return jnp.clip(image, 0.0, 1.0)


def adjust_brightness(image: jax.Array, delta: jax.Array) -> jax.Array:
  """Adds one number to all pixels, without clipping."""
  return image + delta


def adjust_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Scales the distance from the mean of each channel, without clipping."""
  center = jnp.mean(image, axis=(-3, -2), keepdims=True)
  return factor * (image - center) + center


# Three channels, an array each. XLA fuses operations on them into one loop; on
# the joined array each operation would write the image to memory.
Channels = tuple[jax.Array, jax.Array, jax.Array]


def split(image: jax.Array) -> Channels:
  """[..., 3] -> three of [...]."""
  return image[..., 0], image[..., 1], image[..., 2]


def join(channels: Sequence[jax.Array]) -> jax.Array:
  """Three of [...] -> [..., 3]."""
  return jnp.stack(channels, axis=-1)


def rgb_to_hsv(rgb: Channels) -> Channels:
  """Converts RGB to hue in [0, 1) turns, saturation and value."""
  red, green, blue = rgb
  value = jnp.maximum(jnp.maximum(red, green), blue)
  spread = value - jnp.minimum(jnp.minimum(red, green), blue)
  coloured = spread > 0
  # Divisors are made non-zero: both branches of a `where` are computed.
  sixth = 1.0 / (6.0 * jnp.where(coloured, spread, 1.0))
  from_red = sixth * (green - blue)
  from_green = sixth * (blue - red) + 2.0 / 6.0
  from_blue = sixth * (red - green) + 4.0 / 6.0
  # By order, not by `red == value`: XLA may compute the image twice, with other
  # roundings, for the maximum and for its channels; then no channel is equal.
  hue = jnp.where(green >= blue, from_green, from_blue)
  hue = jnp.where((red >= green) & (red >= blue), from_red, hue)
  hue = jnp.where(coloured, hue, 0.0)
  hue = jnp.where(hue < 0, hue + 1.0, hue)
  saturation = jnp.where(value > 0, spread / jnp.where(value > 0, value, 1), 0)
  return hue, saturation, value


def hsv_to_rgb(hsv: Channels) -> Channels:
  """Converts hue, saturation and value to RGB."""
  sixths, saturation, value = hsv[0] * 6.0, *hsv[1:]
  red = jnp.abs(sixths - 3.0) - 1.0
  green = 2.0 - jnp.abs(sixths - 2.0)
  blue = 2.0 - jnp.abs(sixths - 4.0)
  mix = lambda pure: value * (1.0 - saturation + saturation * clip(pure))
  return mix(red), mix(green), mix(blue)


def adjust_hsv(rgb: Channels, factor: Any, delta: Any) -> Channels:
  """Scales the saturation, clipped to [0, 1], and adds `delta` turns of hue."""
  hue, saturation, value = rgb_to_hsv(rgb)
  hue = jnp.mod(hue + delta, 1.0)
  return hsv_to_rgb((hue, clip(saturation * factor), value))


def to_grayscale(image: jax.Array) -> jax.Array:
  """Returns the luma in all three channels."""
  # A sum rather than `@`: accelerators round the operands of matrix products.
  red, green, blue = map(jnp.multiply, GRAY_WEIGHTS, split(image))
  return join([red + green + blue] * 3)


def invert_above(image: jax.Array, threshold: float) -> jax.Array:
  """Inverts the values from the threshold up (solarisation)."""
  return jnp.where(image < threshold, image, 1.0 - image)


def compute_blur_radius(size: int) -> int:
  """Returns the blur's radius for an image of `size` pixels (method.md 3.2)."""
  return int((size / 10) / 2)


def compute_blur_weights(
  offsets: jax.Array, radius: int, sigma: jax.Array
) -> jax.Array:
  """Returns the kernel at `offsets`, float32; the whole kernel's sum is 1."""

  def weigh(offsets: jax.Array) -> jax.Array:
    squares = jnp.square(offsets).astype(jnp.float32)
    return jnp.exp(-squares / (2.0 * jnp.square(sigma)))

  total = jnp.sum(weigh(jnp.arange(-radius, radius + 1)))
  return jnp.where(jnp.abs(offsets) <= radius, weigh(offsets) / total, 0.0)


def gaussian_blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
  """Blurs float32 [H, W, 3] with a separable kernel of `sigma` pixels.

  Its width is 2 * compute_blur_radius(H) + 1. Pixels beyond the border count as
  zeros, so the border darkens. The sum of shifted copies fuses into one loop; a
  grouped convolution with one kernel per image is slow on every backend.
  """
  radius = compute_blur_radius(image.shape[0])
  weights = compute_blur_weights(jnp.arange(-radius, radius + 1), radius, sigma)
  for axis in (0, 1):
    padded = jnp.pad(image, [(radius * (i == axis),) * 2 for i in range(3)])
    cut = functools.partial(jax.lax.slice_in_dim, padded, axis=axis)
    size = image.shape[axis]
    shifted = (weights[i] * cut(i, i + size) for i in range(2 * radius + 1))
    image = functools.reduce(jnp.add, shifted)
  return image


def blur_and_flip(
  image: jax.Array, sigma: Any, is_blurred: Any, is_flipped: Any
) -> jax.Array:
  """Blurs and mirrors [H, W, 3], or not, by a matrix product for each axis.

  Equal to `gaussian_blur`; in the precision of float32 on a TPU, whose matrix
  products round to bfloat16 by default.
  """
  radius = compute_blur_radius(image.shape[0])

  def make_matrix(size: int, is_reversed: Any) -> jax.Array:
    places = jnp.arange(size)
    outputs = jnp.where(is_reversed, size - 1 - places, places)
    offsets = jnp.abs(outputs[:, None] - places)
    weights = compute_blur_weights(offsets, radius, sigma)
    return jnp.where(is_blurred, weights, offsets == 0)

  multiply = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  rows = make_matrix(image.shape[0], False)
  columns = make_matrix(image.shape[1], is_flipped)
  return multiply('vw,hwc->hvc', columns, multiply('gh,hwc->gwc', rows, image))


class Jitter(NamedTuple):
  """Random values of the colour jitter of one image, float32 [] each."""

  order: jax.Array  # int32 [4], a permutation of the operations
  brightness: jax.Array  # added to all pixels
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
  """Draws the values of the colour jitter and their order.

  Added values are uniform in +-brightness and +-hue (turns), factors in
  1 +- contrast and 1 +- saturation. The 24 orders are equally likely.
  """
  order_key, key = jax.random.split(key)
  centers = jnp.asarray([0.0, 1.0, 1.0, 0.0])
  strengths = jnp.asarray([brightness, contrast, saturation, hue])
  drawn = centers + strengths * jax.random.uniform(key, (4,), minval=-1.0)
  return Jitter(jax.random.permutation(order_key, 4), *drawn)


def apply_jitter(
  image: jax.Array, jitter: Jitter, in_two_passes: bool = False
) -> jax.Array:
  """Applies the four operations in the drawn order and clips after each.

  Under `vmap` a branch computes all its sides. So each of the four positions
  has one affine operation (brightness or contrast) and one RGB-HSV round trip
  (saturation or hue) and selects: 4 round trips instead of the official code's
  8 (method.md 8.2).

  Contrast alone needs means, of what the operations before it make of the
  image. In two passes over the image, the first computes these operations once
  more and writes the means only: fast where memory is slow.
  """
  rgb, means = split(image), None
  if in_two_passes:
    before, contrast_place = rgb, jnp.argmax(jitter.order == CONTRAST)
    for place in range(3):
      changed = _apply_place(before, jitter, place, [0.0] * 3)
      choose = functools.partial(jnp.where, place < contrast_place)
      before = jax.tree.map(choose, changed, before)
    means = [jnp.mean(x) for x in before]
  for place in range(4):
    rgb = _apply_place(rgb, jitter, place, means or [jnp.mean(x) for x in rgb])
  return join(rgb)


def _apply_place(
  rgb: Channels, jitter: Jitter, place: int, means: Sequence[Any]
) -> Channels:
  """Applies the operation at one place of the order; `means` for contrast."""
  operation = jitter.order[place]
  factor = jnp.where(operation == SATURATION, jitter.saturation, 1.0)
  delta = jnp.where(operation == HUE, jitter.hue, 0.0)

  def adjust(x: jax.Array, coloured: jax.Array, mean: Any) -> jax.Array:
    affine = jnp.where(
      operation == BRIGHTNESS,
      adjust_brightness(x, jitter.brightness),
      jitter.contrast * (x - mean) + mean,
    )
    return clip(jnp.where(operation <= CONTRAST, affine, coloured))

  red, green, blue = map(adjust, rgb, adjust_hsv(rgb, factor, delta), means)
  return red, green, blue


class Drawn(NamedTuple):
  """What chance says of one operation on one image."""

  applied: Any  # bool []; True where the probability is 1
  values: dict[str, Any]  # name -> number [], arguments of the operation


class Operation(NamedTuple):
  """An operation of a recipe, as a draw and what it does."""

  name: str
  draw: Callable[[jax.Array], Drawn]  # of the image's key, uint32 [2]
  apply: Callable[[jax.Array, Drawn], jax.Array]


def draw_sigma(key: jax.Array, sigma: tuple[float, float]) -> dict[str, Any]:
  """Draws the blur's sigma, uniform in its range, pixels."""
  return {'sigma': jax.random.uniform(key, minval=sigma[0], maxval=sigma[1])}


# Name -> draw: (key, settings as keywords) -> values, and the function
# (image, values as keywords) -> image. They act in this order.
_OPERATIONS: dict[str, tuple[Callable[..., dict], Callable[..., jax.Array]]] = {
  'flip': (lambda key: {}, lambda image: image[:, ::-1]),
  'jitter': (
    lambda key, **strengths: draw_jitter(key, **strengths)._asdict(),
    lambda image, **values: apply_jitter(image, Jitter(**values)),
  ),
  'grayscale': (lambda key: {}, lambda image: clip(to_grayscale(image))),
  'blur': (draw_sigma, gaussian_blur),
  'solarize': (lambda key, **settings: settings, invert_above),
}


def make_operations(
  recipe: Mapping[str, Mapping[str, Any] | None],
) -> list[Operation]:
  """Returns the operations of a recipe, the arguments of `make_augment`."""
  return [
    _make_operation(index, name, *_OPERATIONS[name], **section)
    for index, name in enumerate(_OPERATIONS)
    if (section := recipe[name]) is not None and section['probability'] > 0
  ]


def _make_operation(
  index: int,
  name: str,
  draw_values: Callable[..., dict],
  function: Callable[..., jax.Array],
  probability: float,
  **settings: Any,
) -> Operation:
  is_certain = probability >= 1  # no random number is drawn

  def draw(key: jax.Array) -> Drawn:
    key = jax.random.fold_in(key, index)
    if is_certain:
      return Drawn(True, draw_values(key, **settings))
    gate, inner = jax.random.split(key)
    applied = jax.random.uniform(gate) < probability
    return Drawn(applied, draw_values(inner, **settings))

  def apply(image: jax.Array, drawn: Drawn) -> jax.Array:
    changed = function(image, **drawn.values)
    return changed if is_certain else jnp.where(drawn.applied, changed, image)

  return Operation(name, draw, apply)


def run_operations(
  operations: Sequence[Operation], image: jax.Array, key: jax.Array
) -> list[tuple[Drawn, jax.Array]]:
  """Returns what is drawn for each operation, and the image after it.

  Args:
    operations: from `make_operations`.
    image: float32 [H, W, 3] in [0, 1].
    key: of the image in its view, uint32 [2].
  """
  stages = []
  for operation in operations:
    drawn = operation.draw(key)
    image = operation.apply(image, drawn)
    stages.append((drawn, image))
  return stages


def run_on_tpu(
  operations: Sequence[Operation], image: jax.Array, key: jax.Array
) -> jax.Array:
  """Returns the last image of `run_operations`, in few passes over it.

  The flip, which may come last as well, is part of the blur.
  """
  drawn = {operation.name: operation.draw(key) for operation in operations}
  is_flipped = drawn['flip'].applied if 'flip' in drawn else False
  for operation in operations:
    applied, values = drawn[operation.name]
    if operation.name == 'jitter':
      changed = apply_jitter(image, Jitter(**values), in_two_passes=True)
      image = jnp.where(applied, changed, image)
    elif operation.name == 'blur':
      image = blur_and_flip(image, values['sigma'], applied, is_flipped)
    elif operation.name != 'flip':
      image = operation.apply(image, drawn[operation.name])
  if 'blur' not in drawn:
    image = jnp.where(is_flipped, image[:, ::-1], image)
  return image


def make_augment(
  *,
  flip: Mapping[str, Any] | None,
  jitter: Mapping[str, Any] | None,
  grayscale: Mapping[str, Any] | None,
  blur: Mapping[str, Any] | None,
  solarize: Mapping[str, Any] | None,
) -> Augment:
  """Returns the augmentation of one view (paper appendix B; method.md 3.1).

  The operations act in the order of the arguments. None, or a probability of
  0, leaves an operation out of the compiled function.

  Args:
    flip: `probability`.
    jitter: `probability` and the strengths `brightness`, `contrast`,
      `saturation`, `hue`.
    grayscale: `probability`.
    blur: `probability` and `sigma`, its range in pixels.
    solarize: `probability` and `threshold`.

  Returns:
    A function (images [B, H, W, 3] uint8 or float32 in [0, 1], keys uint32
    [B, 2]) -> float32 [B, H, W, 3] in [0, 1], without gradient.
  """
  recipe = {'flip': flip, 'jitter': jitter, 'grayscale': grayscale}
  operations = make_operations(recipe | {'blur': blur, 'solarize': solarize})

  def one(image: jax.Array, key: jax.Array) -> jax.Array:
    stages = run_operations(operations, image, key)
    return stages[-1][1] if stages else image

  def augment(images: jax.Array, keys: jax.Array) -> jax.Array:
    images = to_float(images)
    augmented = jax.lax.platform_dependent(
      *(images, keys),
      tpu=jax.vmap(functools.partial(run_on_tpu, operations)),
      default=jax.vmap(one),
    )
    other = keys.astype(jnp.float32)  # is always finite
    return jax.lax.stop_gradient(convolution.keep(clip(augmented), other))

  return augment
