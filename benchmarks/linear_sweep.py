"""The cost of five learning rates of `linear` beside that of one.

PYTHONPATH=. python benchmarks/linear_sweep.py [--output=FILE.json]

Whole evaluations (`linear.measure_accuracy`) of a ResNet-18 at 64 pixels with
one and with five rates, in turns, each way: 'cached', 50 epochs on stored
features, and 'augmented', one epoch of random crops. `training` is the cached
training alone, without the forward passes of the encoder.
"""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import numpy as np

from benchmarks import evaluation_sets, results_file, timing
from byol_jax.evals import features, linear, probe
from byol_jax.training import train

SIZE = 64
COUNTS = {'fit': 2048, 'valid': 256, 'test': 256}
RATES = (0.4, 0.3, 0.2, 0.1, 0.05)


def make_options(way, rates):
  """The options of an evaluation."""
  return linear.Options(
    seed=0,
    batch_size=256,
    epochs=50.0 if way == 'cached' else 1.0,
    rates=rates,
    momentum=0.9,
    logit_clip=0.0,
    logit_penalty=0.0,
    features=way,
    augmentation='crop_flip',
  )


def make_calls():
  """{(what, number of rates): what is measured}."""
  encoder, config = evaluation_sets.make_encoder(SIZE)
  load = evaluation_sets.make_load(config, COUNTS)
  calls = {}
  for rates in (RATES[3:4], RATES):
    for way in ('cached', 'augmented'):
      options = make_options(way, rates)
      calls[way, len(rates)] = lambda options=options: linear.measure_accuracy(
        options, encoder, load, train.train_in_memory
      )
    calls['training', len(rates)] = make_training(rates, encoder.dim, load)
  return calls


def make_training(rates, dim, load):
  """Trains on stored features of noise, as an evaluation does."""
  rng = np.random.default_rng(0)
  count = COUNTS['fit']
  stored = features.Features(
    rng.normal(size=(count, dim)).astype(np.float32),
    np.arange(count, dtype=np.int32) % evaluation_sets.NUM_CLASSES,
    np.arange(count),
  )
  options, fit = make_options('cached', rates), load('fit')

  def call():
    silent = lambda text: None
    progress, start = linear._make_training(options, fit, dim, silent)
    probe.train_cached(start, stored, options.batch_size, 0, progress)

  return call


def main():
  parser = results_file.make_parser(__doc__, rounds=3)
  arguments = parser.parse_args()
  calls = make_calls()
  for call in calls.values():
    call()  # what is compiled once for all of them
  times = timing.time_rounds(calls, arguments.rounds)
  result = {
    'what': 'linear evaluation, five rates beside one; medians over rounds',
    'rounds': arguments.rounds,
    'images': COUNTS,
  }
  for what in ('cached', 'augmented', 'training'):
    one, five = times[what, 1], times[what, 5]
    result[what] = {
      'one_rate_seconds': timing.median_seconds(one)['seconds'],
      'five_rates_seconds': timing.median_seconds(five)['seconds'],
      **timing.median_ratios(five, one),
    }
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
