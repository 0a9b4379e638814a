"""Seconds of the nearest neighbours of a whole set, beside the products alone.

PYTHONPATH=. python benchmarks/knn.py [--output=FILE.json] [--rounds=3]

A bank of 50,000 rows, 10,000 queries and 512 features of noise, k = 1, 20, 200
and two temperatures: `evals.knn.classify` after its compilation. The floor is
the matrix products alone, 2 * 50,000 * 10,000 * 512 operations in the same
blocks; `cpu` are seconds of all cores.
"""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results_file, timing
from byol_jax.evals import features, knn

BANK, QUERIES, DIM, CLASSES = 50_000, 10_000, 512, 10
OPTIONS = knn.Options(batch_size=256, ks=(1, 20, 200), temperatures=(0.07, 0.1))


def make_calls():
  """{name: what is measured}."""
  rng = np.random.default_rng(0)
  draw = lambda count: rng.normal(size=(count, DIM)).astype(np.float32)
  labels = rng.integers(0, CLASSES, BANK).astype(np.int32)
  bank = features.Features(draw(BANK), labels, np.arange(BANK))
  queries = draw(QUERIES)
  product = jax.jit(lambda x, y: jnp.matmul(x, y.T, precision='highest'))
  on_device = jnp.asarray(bank.values)

  def multiply():
    for first in range(0, QUERIES, knn.QUERIES):
      part = queries[first : first + knn.QUERIES]
      jax.block_until_ready(product(part, on_device))

  return {
    'knn': lambda: knn.classify(bank, queries, CLASSES, OPTIONS),
    'products': multiply,
  }


def main():
  parser = results_file.make_parser(__doc__, rounds=3)
  arguments = parser.parse_args()
  calls = make_calls()
  first = {name: timing.timed(call)[0] for name, call in calls.items()}
  times = timing.time_rounds(calls, arguments.rounds)
  figures = {
    name: {
      'first_call_seconds': first[name],
      **timing.median_seconds(times[name]),
    }
    for name in calls
  }
  result = {
    'what': 'nearest neighbours; medians over rounds',
    'bank': BANK,
    'queries': QUERIES,
    'features': DIM,
    'rounds': arguments.rounds,
    **figures,
    'gflops_of_products': 2e-9
    * (BANK * QUERIES * DIM)
    / figures['products']['seconds'],
  }
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
