"""Inside the mapped step: sums over devices, and the keys of images."""

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import parallel


def test_mean_and_total_run_over_the_axis():
  x = jnp.arange(12.0).reshape(4, 3)
  both = jax.vmap(
    lambda part: (parallel.mean(part), parallel.total({'x': part})),
    axis_name=parallel.AXIS,
  )
  mean, total = both(x)
  for row in range(4):
    np.testing.assert_allclose(mean[row], np.mean(x, axis=0))
    np.testing.assert_allclose(total['x'][row], np.sum(x, axis=0))


def image_keys(devices, batch_size, step=5, seed=0):
  per_device = batch_size // devices
  keys = jax.vmap(
    lambda _: parallel.make_image_keys(
      jax.random.PRNGKey(seed), jnp.int32(step), per_device
    ),
    axis_name=parallel.AXIS,
  )(jnp.zeros(devices))
  return np.asarray(keys).reshape(batch_size, 2)


def test_keys_depend_on_place_step_and_seed_and_on_nothing_else():
  for devices in (2, 4, 12):
    np.testing.assert_array_equal(image_keys(1, 12), image_keys(devices, 12))
  np.testing.assert_array_equal(image_keys(1, 8), image_keys(2, 16)[:8])
  keys = [
    image_keys(2, 64, step, seed) for step in (0, 1, 2) for seed in (0, 1)
  ]
  assert len(np.unique(np.concatenate(keys), axis=0)) == 6 * 64


def test_one_device_is_an_axis_of_size_one():
  def function(x):
    return {'index': jax.lax.axis_index(parallel.AXIS), 'x': parallel.total(x)}

  out = parallel.on_one_device(function)(jnp.arange(3.0))
  assert out['index'] == 0
  np.testing.assert_array_equal(out['x'], np.arange(3.0))
