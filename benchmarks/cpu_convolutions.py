"""How fast and how exact 3x3 convolutions are on CPUs, ours and XLA's.

PYTHONPATH=. python benchmarks/cpu_convolutions.py [--output=FILE.json]

The forward pass, and both gradients: GFLOP/s by the clock and by CPU seconds,
medians of rounds in turns, beside those of a square product. The operations are
those of the plain sum also where ours needs fewer. Errors are root mean squares
relative to those of the values, against float64.
"""

import functools
import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results_file, timing
from byol_jax import convolution

# Images, size, channels in and out, stride.
SHAPES = (
  *((64, 32, 64, 64, 1), (8, 56, 64, 64, 1), (32, 24, 64, 64, 1)),
  *((64, 16, 128, 128, 1), (8, 28, 128, 128, 1), (32, 12, 128, 128, 1)),
  *((64, 8, 256, 256, 1), (8, 14, 256, 256, 1), (8, 7, 512, 512, 1)),
  *((64, 32, 64, 128, 2), (8, 56, 128, 128, 2), (64, 32, 16, 16, 1)),
)
PRODUCT = 2048


def convolve_plainly(x, weights, stride, padding):
  numbers = ('NHWC', 'HWIO', 'NHWC')
  return jax.lax.conv_general_dilated(
    *(x, weights, (stride, stride), padding), dimension_numbers=numbers
  )


FORMS = {'xla': convolve_plainly, 'ours': convolution.convolve}


def find_gradients(form, x, weights, change):
  """The gradients of the images and of the weights."""
  return jax.vjp(form, x, weights)[1](change)


def time_forms(forms, arguments, flops, rounds):
  """{form: GFLOP/s by the clock, and by CPU seconds}."""
  calls = {}
  for name, form in forms.items():
    compiled = jax.jit(form)
    jax.block_until_ready(compiled(*arguments))
    calls[name] = lambda f=compiled: jax.block_until_ready(f(*arguments))
  return {
    name: {
      key.replace('seconds', 'gflops'): round(flops / 1e9 / seconds, 1)
      for key, seconds in timing.median_seconds(times).items()
    }
    for name, times in timing.time_rounds(calls, rounds).items()
  }


def find_errors(plain, form, arguments):
  """Of each result of a form, against the plain one in float64."""
  found = jax.tree.leaves(jax.jit(form)(*arguments))
  with jax.enable_x64(True):
    exact = [np.asarray(x, np.float64) for x in arguments]
    exact = jax.tree.leaves(jax.jit(plain)(*exact))
  root = lambda x: np.sqrt(np.mean(np.square(np.asarray(x, np.float64))))
  errors = [root(np.asarray(x) - y) / root(y) for x, y in zip(found, exact)]
  assert max(errors) < 1e-5, errors
  return [float(f'{x:.2g}') for x in errors]


def measure(shape, rng, rounds):
  """Speed and errors of the forms at one shape, of both directions."""
  count, size, inputs, outputs, stride = shape
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  weights = draw(3, 3, inputs, outputs) / np.sqrt(9 * inputs)
  rows = size // stride
  arguments = draw(count, size, size, inputs), weights
  change = draw(count, rows, rows, outputs)
  forms = {
    name: functools.partial(form, stride=stride, padding='SAME')
    for name, form in FORMS.items()
  }
  gradients = {
    name: functools.partial(find_gradients, form)
    for name, form in forms.items()
  }
  flops = 2 * count * rows**2 * 9 * inputs * outputs
  figures = {
    'forward': time_forms(forms, arguments, flops, rounds),
    'gradients': time_forms(gradients, (*arguments, change), 2 * flops, rounds),
  }
  for name in forms:
    figures['forward'][name]['error'] = find_errors(
      forms['xla'], forms[name], arguments
    )
    figures['gradients'][name]['error'] = find_errors(
      gradients['xla'], gradients[name], (*arguments, change)
    )
  return figures


def main():
  arguments = results_file.make_parser(__doc__, rounds=9).parse_args()
  rng = np.random.default_rng(0)
  square = jnp.asarray(rng.normal(size=(PRODUCT, PRODUCT)), jnp.float32)
  result = {
    'what': 'convolutions of 3x3 pixels on CPUs, GFLOP/s',
    'rounds': arguments.rounds,
    f'product of {PRODUCT}': time_forms(
      *({'xla': jnp.matmul}, (square, square)),
      *(2 * PRODUCT**3, arguments.rounds),
    ),
    'shapes': {},
  }
  for shape in SHAPES:
    count, size, inputs, outputs, stride = shape
    name = f'{count} x {size} x {size}, {inputs} -> {outputs}, stride {stride}'
    result['shapes'][name] = measure(shape, rng, arguments.rounds)
    print(name, result['shapes'][name], flush=True)
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
