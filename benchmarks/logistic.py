"""Seconds of 45 logistic regressions, as `transfer` chooses a penalty by them.

PYTHONPATH=. python benchmarks/logistic.py [--output=FILE.json]

5,000 images of 2,048 features and 100 classes, the accuracy on 1,000 others
after each: `evals.transfer.choose_penalty` with the paper's 45 penalties. The
features are like those of a ResNet: not negative, correlated, of unequal
spread. `cpu` are seconds of all cores; the floor is the matrix products of one
evaluation of the objective, times the evaluations. The ways to start are
compared by evaluations, on 1,000 images of 256 features and 20 classes.
"""

import os
import statistics
import time

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import results_file, timing
from byol_jax.evals import logistic, transfer

OPTIONS = transfer.Options(
  datasets='paper',
  batch_size=256,
  eval_crop='whole',
  min_lambda=1e-6,
  max_lambda=1e5,
  num_lambdas=45,
  max_iterations=1000,
  seed=0,
)


def draw_parts(sizes, dim, num_classes, noise=3.0, factors=120):
  """Parts of a set whose classes are clusters of few factors."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, num_classes, sum(sizes)).astype(np.int32)
  hidden = rng.normal(size=(num_classes, factors))[labels]
  hidden += noise * rng.normal(size=hidden.shape)
  hidden *= (1 + np.arange(factors)) ** -0.5
  values = 0.3 * hidden @ rng.normal(size=(factors, dim))
  values += 0.15 * rng.normal(size=values.shape)
  values = np.maximum(values + 0.5 * rng.normal(size=dim) - 0.4, 0)
  ends = np.cumsum(sizes)
  return [
    transfer.Part(
      values[end - n : end].astype(np.float32), labels[end - n : end]
    )
    for n, end in zip(sizes, ends)
  ]


def count_evaluations(part, num_classes, order, is_warm):
  """Evaluations of the objective for all penalties in an order."""
  evaluate, count = logistic._evaluate, 0

  def counting(*arguments):
    nonlocal count
    count += 1
    return evaluate(*arguments)

  logistic._evaluate = counting
  try:
    regression = logistic.Regression(*part, num_classes)
    classifier = None
    for penalty in order:
      classifier, _ = regression.fit(
        float(penalty), classifier if is_warm else None
      )
  finally:
    logistic._evaluate = evaluate
  return count


def time_products(part, num_classes):
  """Seconds of the products of one evaluation: scores, and gradient."""
  values = jnp.asarray(part.values)
  weights = jnp.zeros((values.shape[1], num_classes))

  @jax.jit
  def multiply(values, weights):
    scores = jnp.matmul(values, weights, precision='highest')
    return jnp.matmul(values.T, scores, precision='highest')

  call = lambda: jax.block_until_ready(multiply(values, weights))
  return statistics.median(timing.timed(call)[0] for _ in range(10))


def main():
  parser = results_file.make_parser(__doc__)
  arguments = parser.parse_args()
  small = draw_parts((1000,), 256, 20)[0]
  lambdas = np.geomspace(1e5, 1e-6, 45)
  ways = {
    'from_strong_to_weak': (lambdas, True),
    'from_weak_to_strong': (lambdas[::-1], True),
    'each_from_zero': (lambdas, False),
  }
  evaluations = {
    name: count_evaluations(small, 20, *way) for name, way in ways.items()
  }
  fit, valid = draw_parts((5000, 1000), 2048, 100)
  began = time.perf_counter(), time.process_time()
  chosen = transfer.choose_penalty('top1', fit, valid, 100, OPTIONS, print)
  seconds, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
  product = time_products(fit, 100)
  result = {
    'what': '45 logistic regressions, the strongest penalty first',
    'images': 5000,
    'features': 2048,
    'classes': 100,
    'seconds': seconds,
    'cpu_seconds': cpu,
    'iterations': chosen.num_iterations,
    'seconds_of_products_of_one_evaluation': product,
    'valid_top1': dict(
      zip(
        [f'{penalty:.2e}' for penalty in np.geomspace(1e5, 1e-6, 45)],
        chosen.values,
      )
    ),
    'evaluations_on_1000_images': evaluations,
  }
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
