"""Extraction of features beside the forward pass alone.

PYTHONPATH=. python benchmarks/features.py [--output=FILE.json] [--rounds=5]

ResNet-18 at 64 pixels, batches of 256: `splits.encode_split` of a set of uint8
arrays (evaluation crops resized on the host, transfer, fetch, sort, checks)
and the same number of forward passes of one batch that is on the device, in
turns. On CPUs both share the cores, so the time of the crops adds up; `cpu`
are seconds of all cores.
"""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax

from benchmarks import evaluation_sets, results_file, timing
from byol_jax.distributed import placement
from byol_jax.evals import features, splits

SIZE, BATCH = 64, 256


def make_calls(num_batches):
  """{name: what is measured}."""
  encoder, config = evaluation_sets.make_encoder(SIZE)
  load = evaluation_sets.make_load(config, {'test': num_batches * BATCH})
  named = {'test': load('test')}
  silent = lambda text: None
  represent = features._compile_represent(encoder.forward)
  frozen = placement.replicate((encoder.params, encoder.state))
  batch = next(iter(named['test'].eval_batches(BATCH)))
  images = placement.shard(batch['images'])

  def forward():
    for _ in range(num_batches):
      encoded = represent(*frozen, images)
    jax.block_until_ready(encoded)

  def read():
    for _ in named['test'].eval_batches(BATCH):
      pass

  return {
    'forward': forward,
    'extraction': lambda: splits.encode_split(
      encoder, named, BATCH, silent, 'test'
    ),
    'crops': read,
  }


def main():
  parser = results_file.make_parser(__doc__, rounds=5)
  parser.add_argument('--batches', type=int, default=8)
  arguments = parser.parse_args()
  calls = make_calls(arguments.batches)
  for call in calls.values():
    call()
  times = timing.time_rounds(calls, arguments.rounds)
  result = {
    'what': 'features of a set beside forward passes; medians over rounds',
    'images': arguments.batches * BATCH,
    'rounds': arguments.rounds,
    **{name: timing.median_seconds(times[name]) for name in calls},
    **timing.median_ratios(times['extraction'], times['forward']),
  }
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
