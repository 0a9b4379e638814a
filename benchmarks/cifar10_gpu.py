"""Runs `cifar10:200` on a GPU within a time; keeps what it showed.

  python benchmarks/unpack_cifar10.py DATA/cifar10 CIFAR.npz
  PYTHONPATH=. python benchmarks/cifar10_gpu.py CIFAR.npz WORKDIR \
    --output=FILE.json [--seed=1] [--minutes=9] [--config.section.key=value]

If the speed of the first steps says that the run will take longer, it starts
again in WORKDIR/shorter with as many epochs as fit. A signal saves the run and
writes the result so far. The seconds are those since this process began: with
imports, reading of the images, compilation, evaluations and checkpoints.
"""

# ruff: noqa: E402
import time

BEGAN = time.time()  # before the imports

import json
import pathlib

import jax

from benchmarks import collect_run, results_file
from byol_jax import api, configuration, errors
from byol_jax.training import scalars as scalars_lib

# Steps after which the speed is known, and the last ones where it is judged.
FIRST, LAST = 300, 1000
# Seconds of an evaluation, and of what comes after the last step: a guess.
EVALUATION, END = 4.0, 5.0
MARGIN = 0.97  # share of the time that a shorter run is planned for


class TooSlow(Exception):
  """The run would take longer than it may; holds the epochs that fit."""


def elapsed():
  """Seconds since this process began."""
  return time.time() - BEGAN


def make_watch(config, num_images, limit):
  """A function of log lines that raises TooSlow if the time is too short."""
  started, compiled = elapsed(), []

  def watch(step, scalars):
    rate = scalars.get('images_per_second')
    if not rate:
      return
    compiled.append(elapsed())
    if not FIRST <= step <= LAST:
      return
    steps = config.epochs * num_images / config.batch_size
    evaluations = 1 + steps // config.eval.knn_every_steps
    rest = END + evaluations * EVALUATION
    predicted = elapsed() + (steps - step) * config.batch_size / rate + rest
    print(f'step {step}: {predicted:.0f} s of {limit:.0f} s', flush=True)
    if predicted > limit:
      # Compiled again.
      left = limit * MARGIN - elapsed() - rest - (compiled[0] - started)
      raise TooSlow(max(1, int(left * rate / num_images)))

  return watch


def train(config, workdir, num_images, limit):
  """Trains; returns the workdir, the epochs and how it ended."""
  try:
    last = api.pretrain(
      config, workdir, on_log=make_watch(config, num_images, limit)
    )
    return workdir, config.epochs, f'done: step {last["step"]}'
  except TooSlow as error:
    (config.epochs,) = map(float, error.args)
    print(f'too slow: {config.epochs:g} epochs instead', flush=True)
  except errors.UserError as error:
    return workdir, config.epochs, str(error)
  workdir /= 'shorter'
  try:
    last = api.pretrain(config, workdir)
    return workdir, config.epochs, f'done: step {last["step"]}'
  except errors.UserError as error:
    return workdir, config.epochs, str(error)


def format_section(result):
  """The table of a result, for docs/results.md."""
  points = result['knn']
  row = lambda name, values: f'| {name} | {" | ".join(values)} |'
  percent = lambda key: [f'{100 * p[key]:.1f}' for p in points if key in p]
  lines = [
    row('step', [f'{point["step"]:.0f}' for point in points]),
    row('---', ['---'] * len(points)),
    row('seconds', [f'{point["seconds"]:.0f}' for point in points]),
    *(
      row(f'kNN k={k}', percent(f'knn_k{k}_t0.1'))
      for k in (1, 20, 200)
      if points
    ),
  ]
  return '\n'.join(lines)


def main():
  parser = results_file.make_parser(__doc__)
  parser.add_argument('images')
  parser.add_argument('workdir', type=pathlib.Path)
  parser.add_argument('--seed', type=int, default=1)
  parser.add_argument('--minutes', type=float, default=9.0)
  parser.add_argument('--num_images', type=int, default=50_000)
  arguments, overrides = parser.parse_known_args()
  config = configuration.load(
    'cifar10:200',
    [
      f'--config.dataset={arguments.images}',
      f'--config.seed={arguments.seed}',
      *overrides,
    ],
  )
  workdir, epochs, end = train(
    config,
    arguments.workdir,
    arguments.num_images,
    60 * arguments.minutes,
  )
  best = {}
  result = {
    'what': 'a run of cifar10:200 on one GPU, CIFAR-10 as JPEG q95; seconds of'
    ' the whole process, compilation and evaluations included',
    'device': jax.devices()[0].device_kind,
    'end': end,
    'epochs': epochs,
    'seconds_in_all': round(elapsed(), 1),
  } | collect_run.collect(workdir)
  first = next(iter(scalars_lib.read(workdir)))['time'] - BEGAN
  for point in result['knn']:
    point['seconds'] = round(point['seconds'] + first, 1)
    for key, value in point.items():
      if key.startswith('knn'):
        best[key] = max(best.get(key, 0), value)
  result['best_of_all_steps'] = best
  results_file.write_result(result, arguments.output)
  print(format_section(result))
  print(json.dumps({k: result[k] for k in ('end', 'epochs', 'seconds_in_all')}))


if __name__ == '__main__':
  main()
