"""Tests augmentations against float64 references and by statistics."""

import colorsys
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from byol_jax import augment
from tests.helpers import tiny_run

ORDERS = list(itertools.permutations(range(4)))
OFF = dict.fromkeys(('flip', 'jitter', 'grayscale', 'blur', 'solarize'))
LUMA = [0.2989, 0.5870, 0.1140]
# method.md 3.1: probabilities by view, one view where both have the same, and
# ranges of the jitter.
PROBABILITIES = {
  **{'flip': {'view2': 0.5}, 'jitter': {'view2': 0.8}},
  **{'grayscale': {'view2': 0.2}, 'blur': {'view1': 1.0, 'view2': 0.1}},
  'solarize': {'view1': 0.0, 'view2': 0.2},
}
RANGES = {
  **{'brightness': (-0.4, 0.4), 'contrast': (0.6, 1.4)},
  **{'saturation': (0.8, 1.2), 'hue': (-0.1, 0.1)},
}


def picture(seed=0, shape=(9, 8)):
  """Random colours, with greys, black, white, primaries and ties."""
  image = np.random.default_rng(seed).random((*shape, 3))
  image[0, :8] = [
    *([0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0]),
    *([0, 1, 0], [0, 0, 1], [0.7, 0.7, 0.2], [0.2, 0.7, 0.7]),
  ]
  return image.astype(np.float32)


def keys(count, seed=0):
  return jax.random.split(jax.random.PRNGKey(seed), count)


def by_pixel(image, function):
  flat = np.asarray(image, np.float64).reshape(-1, 3)
  return np.array([function(*pixel) for pixel in flat]).reshape(image.shape)


def hsv_reference(image, factor=1, delta=0):
  def change(*rgb):
    h, s, v = colorsys.rgb_to_hsv(*rgb)
    return colorsys.hsv_to_rgb((h + delta) % 1, min(s * factor, 1), v)

  return by_pixel(image, change)


def contrast_reference(image, factor):
  mean = np.float64(image).mean(axis=(0, 1))
  return factor * image + (1 - factor) * mean


def blur_reference(image, sigma, radius):
  kernel = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
  kernel /= kernel.sum()
  image = np.asarray(image, np.float64)
  for axis in (0, 1):
    image = ndimage.convolve1d(image, kernel, axis=axis, mode='constant')
  return image


def is_uniform(values, low, high):
  return stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_hsv_against_colorsys_and_back():
  image = picture()
  expected = by_pixel(image, colorsys.rgb_to_hsv)
  hsv = augment.rgb_to_hsv(augment.split(jnp.asarray(image)))
  actual = augment.join(hsv)
  turn = np.abs(actual[..., 0] - expected[..., 0])
  np.testing.assert_allclose(np.minimum(turn, 1 - turn), 0, atol=2e-6)
  np.testing.assert_allclose(actual[..., 1:], expected[..., 1:], atol=1e-6)
  back = augment.join(augment.hsv_to_rgb(hsv))
  np.testing.assert_allclose(back, image, atol=1e-6)


def test_saturation_hue_brightness_and_contrast_against_references():
  image = picture(2)
  rgb = augment.split(jnp.asarray(image))
  for factor in (0.0, 0.8, 1.2, 5.0):
    actual = augment.join(augment.adjust_hsv(rgb, factor, 0))
    expected = hsv_reference(image, factor=factor)
    np.testing.assert_allclose(actual, expected, atol=2e-6)
  for delta in (-0.5, -0.1, 0.07, 1 / 3, 0.9):
    actual = augment.join(augment.adjust_hsv(rgb, 1, delta))
    # Dark saturated pixels: the hue is a quotient of small differences.
    expected = hsv_reference(image, delta=delta)
    np.testing.assert_allclose(actual, expected, atol=4e-6)
  actual = augment.adjust_brightness(jnp.asarray(image), -0.3)
  np.testing.assert_allclose(actual, image - 0.3, atol=1e-6)
  for factor in (0.0, 0.6, 1.4):
    # In a batch too the mean is of each image and channel.
    images = jnp.stack([jnp.asarray(image), 0 * jnp.asarray(image)])
    actual = augment.adjust_contrast(images, factor)[0]
    expected = contrast_reference(image, factor)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_grayscale_and_solarize_are_their_formulas():
  luma = np.float64(picture(6)) @ LUMA
  actual = augment.to_grayscale(jnp.asarray(picture(6)))
  np.testing.assert_allclose(actual, luma[..., None].repeat(3, -1), atol=1e-6)
  values = jnp.asarray([0.0, 0.25, 0.49999, 0.5, 0.75, 1.0])
  expected = np.float32([0.0, 0.25, 0.49999, 0.5, 0.25, 0.0])
  np.testing.assert_array_equal(augment.invert_above(values, 0.5), expected)
  np.testing.assert_allclose(augment.invert_above(values, 0.25)[1], 0.75)


def test_blur_against_scipy():
  widths = {224: 23, 160: 17, 128: 13, 96: 9, 64: 7, 32: 3}
  assert {n: 2 * augment.compute_blur_radius(n) + 1 for n in widths} == widths
  blur = jax.jit(augment.gaussian_blur)
  for (shape, radius), sigma in itertools.product(
    (((64, 50), 3), ((37, 41), 1)), (0.1, 0.9, 2.0)
  ):
    image = picture(7, shape)
    expected = blur_reference(image, sigma, radius)
    np.testing.assert_allclose(
      blur(jnp.asarray(image), sigma), expected, atol=1e-6
    )


def test_jitter_is_the_named_operations_in_the_drawn_order():
  image = picture(8, (6, 8))
  drawn = {'brightness': 0.37, 'contrast': 1.4, 'saturation': 1.7, 'hue': -0.1}
  apply = jax.jit(jax.vmap(augment.apply_jitter, (None, 0)))
  jitters = augment.Jitter(
    order=jnp.asarray(ORDERS),
    **{k: jnp.full(len(ORDERS), v) for k, v in drawn.items()},
  )
  actual = apply(jnp.asarray(image), jitters)
  named = (
    *(lambda x: x + 0.37, lambda x: contrast_reference(x, 1.4)),
    lambda x: hsv_reference(x, factor=1.7),
    lambda x: hsv_reference(x, delta=-0.1),
  )
  expected = []
  for order in ORDERS:
    x = np.float64(image)
    for operation in order:
      x = np.clip(named[operation](x), 0, 1)
    expected.append(x)
  # Four float32 operations, two of them round trips.
  np.testing.assert_allclose(actual, expected, atol=1e-5)
  # Another order gives another image.
  assert np.abs(np.array(expected) - expected[0]).max(axis=(1, 2, 3))[5] > 0.01


def test_drawn_orders_and_strengths_are_uniform_and_independent():
  (operation,) = augment.make_operations(OFF | always('view1', 'jitter'))
  drawn = jax.jit(jax.vmap(operation.draw))(keys(24_000))
  jitter = augment.Jitter(**jax.tree.map(np.asarray, drawn.values))
  orders = [tuple(order) for order in jitter.order.tolist()]
  counts = [orders.count(order) for order in ORDERS]
  assert sum(counts) == len(orders)
  assert stats.chisquare(counts).pvalue > 1e-3
  for name, (low, high) in RANGES.items():
    assert is_uniform(getattr(jitter, name), low, high), name
  table = np.stack([*jitter[1:], jitter.order[:, 0]])
  correlation = np.corrcoef(table) - np.eye(5)
  # Four standard errors.
  assert np.abs(correlation).max() < 4 / np.sqrt(table.shape[1])


HUE_SCRIPT = """
import jax
import numpy as np
from byol_jax import augment
from tests.helpers import tiny_run
rng = np.random.default_rng(0)
images = jax.image.resize(rng.random((32, 4, 4, 3)), (32, 48, 48, 3), 'cubic')
images = np.float32(images) + np.float32(0.03 * rng.normal(size=images.shape))
images = (255 * images.clip(0, 1)).round().astype(np.uint8)
recipe = dict.fromkeys(('flip', 'jitter', 'grayscale', 'blur', 'solarize'))
recipe['jitter'] = tiny_run.recipe('view1')['jitter']
function = augment.make_augment(**recipe)
keys = jax.random.split(jax.random.PRNGKey(0), 32)
compiled = jax.jit(lambda keys: function(images, keys))(keys)
with jax.disable_jit():
  error = np.abs(compiled - function(images, keys)).max(axis=-1)
print('pixels', error.size, np.sum(error > 1e-3))
"""


@pytest.mark.jobs
def test_colours_do_not_depend_on_how_xla_fuses_an_image():
  """Pictures (smooth fields and noise) as a constant, with optimizations."""
  process = tiny_run.start_python('-c', HUE_SCRIPT, **tiny_run.OPTIMIZED)
  assert 'pixels 73728 0' in tiny_run.finish(process).splitlines()


def only(view, **sections):
  """The recipe of a view with the named operations and no other."""
  recipe = tiny_run.recipe(view)
  kept = {name: recipe[name] | (sections[name] or {}) for name in sections}
  return jax.jit(augment.make_augment(**OFF | kept))


@pytest.mark.parametrize('name', PROBABILITIES)
def test_share_of_images_that_an_operation_changes(name):
  count = 4000
  images = np.tile(picture(9, (20, 10)), (count, 1, 1, 1))
  for view, p in PROBABILITIES[name].items():
    out = only(view, **{name: None})(images, keys(count))
    share = np.mean(np.any(out != images, axis=(1, 2, 3)))
    # Four standard errors; blur p = 1 must be all.
    assert abs(share - p) <= 4 * np.sqrt(p * (1 - p) / count), view


def test_sigma_is_uniform_at_any_probability():
  # Drawing both the gate and sigma from one key would bias sigma.
  for view, count in (('view1', 3000), ('view2', 20_000)):
    image = np.zeros((20, 5, 3), np.float32)
    image[10, 2] = 1
    out = only(view, blur=None)(np.tile(image, (count, 1, 1, 1)), keys(count))
    out = np.float64(out)
    side = out[:, 10, 3, 0]
    blurred = side > 0
    ratio = side[blurred] / out[blurred, 10, 2, 0]
    sigma = np.sqrt(-1 / (2 * np.log(ratio)))
    assert len(sigma) == count if view == 'view1' else len(sigma) > 1500
    # The kernel of a sigma much below 0.1 would be zero next to its centre.
    assert sigma.min() > 0.0999 and sigma.max() < 2.001
    assert is_uniform(sigma, 0.1, 2.0)


def test_gates_are_independent():
  count = 6000
  image = np.full((20, 4, 3), [0.2, 0.1, 0.1], np.float32)
  image[:, 2:] = [0.9, 0.8, 0.8]
  out = only('view2', flip=None, grayscale=None, solarize=None)(
    np.tile(image, (count, 1, 1, 1)), keys(count)
  )
  left, right = np.asarray(out[:, 0, 0]), np.asarray(out[:, 0, 3])
  gray = np.ptp(left, axis=1) < 1e-4
  inverted = np.maximum(left, right).max(axis=1) < 0.5
  # Red is 0.2 on the dark side; the bright side has 0.1 once inverted.
  flipped = np.where(inverted, left[:, 0] < 0.165, left[:, 0] > 0.5)
  flipped = np.where(gray & inverted, left[:, 0] > right[:, 0], flipped)
  for a, b in ((flipped, gray), (flipped, inverted), (gray, inverted)):
    table = np.histogram2d(a, b, bins=2)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def always(view, *names):
  recipe = tiny_run.recipe(view)
  return {name: recipe[name] | {'probability': 1.0} for name in names}


def test_operations_act_in_the_order_of_the_paper():
  sections = always('view2', 'flip', 'grayscale', 'blur', 'solarize')
  sections['blur']['sigma'] = (1.3, 1.3)
  sections['solarize']['threshold'] = 0.4
  function = jax.jit(augment.make_augment(**OFF | sections))
  image = picture(10, (20, 20))
  out = function(jnp.asarray(image)[None], keys(1))[0]
  luma = image[:, ::-1] @ LUMA
  blurred = blur_reference(np.stack([luma] * 3, axis=-1), 1.3, 1)
  expected = np.where(blurred < 0.4, blurred, 1 - blurred)
  np.testing.assert_allclose(out, expected, atol=1e-6)


def test_probability_zero_takes_an_operation_out():
  def trace(**changes):
    function = augment.make_augment(**tiny_run.recipe('view2') | changes)
    return str(jax.make_jaxpr(function)(jnp.zeros((3, 20, 20, 3)), keys(3)))

  whole = trace()
  for name, section in always('view2', 'flip', 'solarize').items():
    zero = trace(**{name: section | {'probability': 0.0}})
    assert zero == trace(**{name: None}) != whole


@pytest.mark.parametrize(
  'platform, trips, products', [('cuda', 4, 0), ('tpu', 7, 2)]
)
def test_an_image_costs_few_hsv_round_trips_and_no_loop(
  platform, trips, products
):
  """Lowered for accelerators; only the hue is taken modulo 1."""
  function = jax.jit(augment.make_augment(**tiny_run.recipe('view2')))
  traced = function.trace(*(jnp.zeros((2, 32, 32, 3)), keys(2)))
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert 0 < len(re.findall(r'call @remainder', text)) <= trips
  text = text.split('func.func private')[0]
  assert text.count('stablehlo.dot_general') == products
  # Matrix products have a low default precision on TPU.
  assert text.count('precision = [HIGHEST, HIGHEST]') == products
  assert not re.search(r'stablehlo\.(while|convolution)', text)


@pytest.mark.parametrize(
  'view, kept', [('view1', None), ('view2', None), ('view2', 'flip')]
)
def test_the_form_of_a_tpu_is_the_same_function(view, kept):
  recipe = tiny_run.recipe(view)
  operations = augment.make_operations(
    {k: v if kept in (None, k) else None for k, v in recipe.items()}
  )
  images = np.stack([picture(i, (40, 30)) for i in range(16)])
  plain, fast = jax.jit(
    jax.vmap(
      lambda *args: (
        augment.run_operations(operations, *args)[-1][1],
        augment.run_on_tpu(operations, *args),
      )
    )
  )(images, keys(16))
  # Sums in another order.
  np.testing.assert_allclose(fast, plain, atol=2e-6)


def test_output_is_in_range_and_independent_of_the_batch():
  function = jax.jit(augment.make_augment(**tiny_run.recipe('view2')))
  images = np.random.default_rng(0).random((64, 20, 20, 3), np.float32)
  images[:2] = 0
  images[2:4] = 1
  images[4:6] = images[4:6].round()
  out = np.asarray(function(images, keys(64)))
  assert out.dtype == np.float32 and out.shape == images.shape
  assert out.min() >= 0 and out.max() <= 1
  for i in (0, 4, 5, 40):
    alone = function(images[i : i + 1], keys(64)[i : i + 1])[0]
    # Other batch sizes may be compiled to other roundings.
    np.testing.assert_allclose(alone, out[i], atol=2e-6)
  images[0] = np.inf
  np.testing.assert_array_equal(function(images, keys(64))[1:], out[1:])
  again = function(images, keys(64, seed=1))
  assert np.abs(again - out).max(axis=(1, 2, 3))[6:].min() > 0


def test_uint8_images_are_converted_and_no_gradient_flows():
  images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
  function = augment.make_augment(**OFF | always('view2', 'flip', 'solarize'))
  floats = jnp.asarray(images.astype(np.float32) / 255)
  found = function(jnp.asarray(images), keys(2))
  assert found.dtype == jnp.float32
  # XLA multiplies by 1 / 255: one rounding.
  expected = function(floats, keys(2))
  np.testing.assert_allclose(found, expected, atol=1.2e-7)
  grad = jax.grad(lambda x: jnp.sum(function(x, keys(2))))(floats)
  assert not np.any(grad)
