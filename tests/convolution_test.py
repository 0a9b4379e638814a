"""The forms for CPUs equal the plain ones, and no other platform gets them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import convolution
from tests.helpers.gradients import with_gradients

# Kernel, stride, height, width: each form, odd and even sizes, one pixel.
SHAPES = [
  *((1, 1, 5, 4), (1, 2, 5, 4), (3, 1, 2, 2), (3, 2, 4, 3), (3, 2, 3, 2)),
  *((3, 1, 1, 1), (7, 2, 4, 4), (3, 1, 1, 4), (3, 1, 5, 4)),
]
# Both paddings of the other shapes are the same pixels.
DIFFERING = [shape for shape in SHAPES if shape[0] > 1 and shape[1] > 1]


def plain_convolution(images, weights, stride, padding):
  return jax.lax.conv_general_dilated(
    *(images, weights, (stride, stride), padding),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


@pytest.fixture(params=(64, 1), ids=('', 'tiles'))
def least_channels(request, monkeypatch):
  """With 1 the few channels of the tests are enough for products of tiles."""
  monkeypatch.setattr(convolution, 'MIN_TILES_CHANNELS', request.param)
  return request.param


def draw_arrays(kernel, height, width):
  rng = np.random.default_rng(0)
  images = rng.normal(size=(3, height, width, 6))
  return images, rng.normal(size=(kernel, kernel, 6, 5))


@pytest.mark.parametrize(
  'shape, padding',
  [*((x, 'same') for x in SHAPES), *((x, 'torch') for x in DIFFERING)],
  ids=str,
)
@pytest.mark.usefixtures('least_channels')
def test_a_convolution_equals_the_plain_one(shape, padding):
  kernel, stride, *size = shape
  pads = {'same': 'SAME', 'torch': [(kernel // 2, kernel // 2)] * 2}[padding]
  arrays = draw_arrays(kernel, *size)
  ours = functools.partial(convolution.convolve, stride=stride, padding=pads)
  plain = functools.partial(plain_convolution, stride=stride, padding=pads)
  singles = [x.astype(np.float32) for x in arrays]
  with jax.enable_x64(True):
    exact, found, *rounded = jax.jit(
      lambda arrays, singles: [
        *(with_gradients(function, *arrays) for function in (plain, ours)),
        *(with_gradients(function, *singles) for function in (ours, plain)),
      ]
    )(arrays, singles)
  exact = [np.asarray(x) for x in exact]
  for x, y in zip(found, exact, strict=True):
    assert x.dtype == y.dtype == jnp.float64
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)
  assert all(x.dtype == jnp.float32 for results in rounded for x in results)
  errors = [
    [np.abs(np.asarray(x) - y).max() for x, y in zip(results, exact)]
    for results in rounded
  ]
  # Sums in another order: at most twice as far off, or a last bit of a sum.
  for error, plain_error in zip(*errors, strict=True):
    assert error <= max(2 * plain_error, 2e-6)


@pytest.mark.parametrize('dtype', (jnp.float32, jnp.bfloat16))
@pytest.mark.parametrize('kernel', (1, 3))
def test_vmap_and_other_platforms(kernel, dtype, least_channels):
  """The platform of the program counts, not the host it is lowered on."""
  images, weights = (x.astype(dtype) for x in draw_arrays(kernel, 4, 4))

  ours = functools.partial(convolution.convolve, stride=1, padding='SAME')
  plain = functools.partial(plain_convolution, stride=1, padding='SAME')
  each = jax.jit(jax.vmap(ours, (0, None)))(images[:, None], weights)
  together = jax.jit(ours)(images, weights)
  error = np.abs(np.float32(each[:, 0]) - np.float32(together)).max()
  assert error < {jnp.float32: 1e-5, jnp.bfloat16: 0.3}[dtype]  # rounded sums

  def operations(function, platform):
    differentiated = jax.jit(functools.partial(with_gradients, function))
    traced = differentiated.trace(images, weights)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    # The compiler removes a choice among one.
    around = {'case', 'return', 'constant'}
    words = re.findall(r'stablehlo\.(\w+)', text)
    return sorted(word for word in words if word not in around)

  for platform in ('tpu', 'cuda'):
    assert operations(ours, platform) == operations(plain, platform)
  is_product = kernel == 1 or (least_channels == 1 and dtype == jnp.float32)
  expected = 0 if is_product else 2  # the one, and the gradient of its images
  assert operations(ours, 'cpu').count('convolution') == expected


@pytest.mark.usefixtures('least_channels')
@pytest.mark.parametrize('size', (4, 2), ids=('', 'columns'))
def test_a_batch_without_images_has_no_outputs(size):
  images, weights = draw_arrays(3, size, size)
  convolve = lambda *args: convolution.convolve(*args, 1, 'SAME')
  outputs, *gradients = with_gradients(convolve, images[:0], weights)
  assert outputs.shape == (0, size, size, 5)
  assert [x.shape for x in gradients] == [images[:0].shape, weights.shape]
  assert not np.any(gradients[1])


@pytest.mark.parametrize(
  'number, most, parts',
  [(6, 1, '6x1'), (6, 2, '3x2'), (6, 4, '2x3'), (7, 5, '2x4')],
)
@pytest.mark.parametrize('shape', [(3, 1, 5, 4), (7, 2, 8, 9)], ids=str)
def test_a_cpu_divides_the_batch_into_parts_for_its_cache(
  shape, number, most, parts, least_channels, monkeypatch
):
  """Equal parts of at most `most` images, one of them of zeros in the last."""
  kernel, stride, *size = shape
  images, weights = draw_arrays(kernel, *size)
  images = np.concatenate([images, 2 * images, 3 * images])[:number]
  columns = weights[..., 0].size * np.prod([-(-x // stride) for x in size])
  monkeypatch.setattr(convolution, 'MAX_PART_SIZE', columns * most)
  tiles = 4 * size[0] * size[1] * 6
  monkeypatch.setattr(convolution, 'MAX_TILES_SIZE', tiles * most)

  def find_gradients(convolve):
    function = functools.partial(convolve, stride=stride, padding='SAME')
    both = jax.jit(functools.partial(with_gradients, function))
    return both.lower(images, weights).as_text(), both(images, weights)

  with jax.enable_x64(True):
    (text, found), (_, expected) = map(
      find_gradients, (convolution.convolve, plain_convolution)
    )
  assert f'{parts}x{size[0]}x{size[1]}x6xf64' in text
  for x, y in zip(found, expected, strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-9)


def test_images_are_kept_for_the_gradient_of_weights_on_a_cpu():
  """The loop that transposes them would compute them again."""
  images, weights = draw_arrays(3, 8, 8)

  def find_loss(convolve, scale, weights):
    return jnp.sum(convolve(jnp.sin(scale * images), weights, 1, 'SAME') ** 2)

  def compile_gradient(convolve):
    gradient = jax.jit(jax.grad(functools.partial(find_loss, convolve), 1))
    found = gradient(1.0, weights)
    return gradient.lower(1.0, weights).compile().as_text(), found

  (text, found), (plain, expected) = map(
    compile_gradient, (convolution.convolve, plain_convolution)
  )
  assert text.count(' sine(') == 1 < plain.count(' sine(')
  # The sum has another order.
  largest = np.abs(expected).max()
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize('first', (1, np.inf, np.nan))
def test_what_is_kept_is_lost_with_the_other(first):
  other = jnp.asarray([[first, np.nan]])
  kept = jax.jit(convolution.keep)(jnp.arange(3.0), other)
  expected = np.arange(3) if first == 1 else [np.nan] * 3
  np.testing.assert_array_equal(kept, expected)
