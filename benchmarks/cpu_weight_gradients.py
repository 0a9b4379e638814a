"""How fast CPUs compute the gradient of the weights of 3x3 convolutions.

PYTHONPATH=. python benchmarks/cpu_weight_gradients.py [--output=FILE.json]

GFLOP/s by the clock and by CPU seconds, medians of rounds in turns: as XLA does
it, as `modules.convolve` does, and as one product of shifted rows; beside them
a square product. Where both figures are equal, one core works.
"""

import functools
import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results_file, timing
from byol_jax import modules

# Images, size, channels in and out.
SHAPES = (
  *((64, 32, 64, 64), (8, 56, 64, 64), (32, 24, 64, 64)),
  *((64, 16, 128, 128), (8, 28, 128, 128), (64, 8, 256, 256)),
)
PRODUCT = 2048


def find_gradient(convolve, x, change):
  """[B, H, W, C], [B, H, W, D] -> [3, 3, C, D]."""
  weights = jnp.zeros((3, 3, x.shape[3], change.shape[3]), x.dtype)
  return jax.vjp(lambda w: convolve(x, w, 1, 'SAME'), weights)[1](change)[0]


def convolve_plainly(x, weights, stride, padding):
  numbers = ('NHWC', 'HWIO', 'NHWC')
  return jax.lax.conv_general_dilated(
    *(x, weights, (stride, stride), padding), dimension_numbers=numbers
  )


def multiply_rows(x, change):
  """One product: x shifted along the width, the change along the height."""
  height, width, inputs = x.shape[1:]
  x = jnp.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0)])
  change = jnp.pad(change, [(0, 0), (1, 1), (0, 0), (0, 0)])
  columns = [x[:, :, j : j + width] for j in range(3)]
  rows = [change[:, 2 - i : 2 - i + height] for i in range(3)]
  columns, rows = (
    jnp.concatenate(y, axis=3).reshape(-1, 3 * y[0].shape[3])
    for y in (columns, rows)
  )
  return (columns.T @ rows).reshape(3, inputs, 3, -1).transpose(2, 0, 1, 3)


FORMS = {
  'xla': functools.partial(find_gradient, convolve_plainly),
  'ours': functools.partial(find_gradient, modules.convolve),
  'product of rows': multiply_rows,
}


def measure(forms, arguments, flops, rounds):
  """{form: GFLOP/s by the clock, and by CPU seconds}."""
  calls, results = {}, {}
  for name, form in forms.items():
    compiled = jax.jit(form)
    results[name] = compiled(*arguments)
    calls[name] = lambda f=compiled: jax.block_until_ready(f(*arguments))
  first = next(iter(results.values()))
  for found in results.values():
    error = jnp.abs(found - first).max() / jnp.abs(first).max()
    assert error < 1e-4, error  # of sums of up to 65,536 products
  return {
    name: {
      key.replace('seconds', 'gflops'): round(flops / 1e9 / seconds, 1)
      for key, seconds in timing.median_seconds(times).items()
    }
    for name, times in timing.time_rounds(calls, rounds).items()
  }


def main():
  arguments = results_file.make_parser(__doc__, rounds=9).parse_args()
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  square, found = draw(PRODUCT, PRODUCT), {}
  found[f'product of {PRODUCT}'] = measure(
    *({'xla': jnp.matmul}, (square, square)),
    *(2 * PRODUCT**3, arguments.rounds),
  )
  for count, size, inputs, outputs in SHAPES:
    found[f'{count} x {size} x {size}, {inputs} -> {outputs}'] = measure(
      *(FORMS, [draw(count, size, size, c) for c in (inputs, outputs)]),
      *(2 * count * size**2 * 9 * inputs * outputs, arguments.rounds),
    )
  result = {
    'what': 'gradients of the weights of 3x3 convolutions on CPUs, GFLOP/s',
    'rounds': arguments.rounds,
    'shapes': found,
  }
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
