"""`python -m byol_jax VERB ...`: the command line.

A verb is one function: it reads its arguments, opens data and calls a run.
Errors that a user can mend end in one line and the exit code of
`byol_jax.errors`.
"""

import argparse
from collections.abc import Callable, Sequence
import os
import sys

from byol_jax import arguments as parsing, console, errors, signals

# Quiet before any import of TensorFlow or XLA.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')


def pretrain(arguments: argparse.Namespace, overrides: list[str]) -> None:
  """Pretrain BYOL into a workdir, or resume what it holds.

  presets: pretrain:{40,100,300,1000,1000_batch512,EPOCHS} for ImageNet;
  imagenette, cifar10 (for a GPU), imagenette:cpu, cifar10:cpu, shapes (for two
  CPU cores). --config.dataset is 'shapes', a folder of images or a .tar of it,
  an .npz of arrays, a prepared TFDS directory, or a TFDS name (with
  --config.data_dir).

  examples: python -m byol_jax pretrain --config=shapes --workdir=runs/demo
            python -m byol_jax pretrain --config=imagenette:cpu
                --config.dataset=~/Pictures --workdir=runs/pictures

  exit codes: 0 done, 2 configuration, 3 data or workdir, 4 diverged, 42
  stopped by a signal after saving (the same command resumes).
  """
  from byol_jax import presets

  config = presets.load(arguments.config, overrides)
  say = begin(arguments)
  from byol_jax import api

  last = api.pretrain(config, arguments.workdir)
  if last['unusable_images']:
    say(f'{last["unusable_images"]} images could not be used; see above')
  if 'loss' in last:
    say(
      f'done: step {last["step"]}, loss {last["loss"]:.4f},'
      f' {last["seconds"]:.0f} s; {arguments.workdir}'
    )
  else:
    say(f'done before: step {last["step"]}; {arguments.workdir}')


def begin(arguments: argparse.Namespace) -> Callable[[str], None]:
  """Joins the other processes; what prints for all of them."""
  import jax

  from byol_jax import parallel

  parallel.start(arguments.distributed)
  return print if jax.process_index() == 0 else lambda text: None


EVALUATIONS = {
  'knn': """Nearest-neighbour accuracy of a frozen encoder.

  Cosine similarity, weights exp(similarity / 0.1), k = 1, 20 and 200; the bank
  is the training split, the queries the test split. --config.dataset takes
  another set than the run's own; --config.weights is online, target, random
  or random_calibrated.

  example: python -m byol_jax knn --workdir=runs/demo
  """,
  'linear': """Linear accuracy of a frozen encoder (paper, appendix C.1).

  SGD with Nesterov momentum; all learning rates are trained side by side in
  one pass, the best on the held-out part of the training split is reported on
  the test split. --config=evals/linear.py:cpu caches centre-crop features.

  example: python -m byol_jax linear --workdir=runs/demo
           --config=evals/linear.py:cpu
  """,
}


def evaluate(name: str) -> Callable[[argparse.Namespace, list[str]], None]:
  """The verb of an evaluation protocol in `evals/`."""

  def verb(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from byol_jax import presets

    config = presets.load(arguments.config, overrides)
    say = begin(arguments)
    from byol_jax import api, saved

    run = saved.open_run(arguments.workdir)
    encoder = saved.open_encoder(
      run, config.weights, calibration_batches=config.calibration_batches
    )
    results = api.evaluate(name, config, run, encoder, note=say)
    for key, value in results.items():
      shown = f'{value:.4g}' if isinstance(value, float) else value
      say(f'{key}: {shown}')

  verb.__doc__ = EVALUATIONS[name]
  return verb


def embed(arguments: argparse.Namespace, overrides: list[str]) -> None:
  """Write the representations and file names of a folder of images.

  The .npz holds `representations`, float32 [N, D], and `names`, the files'
  paths below the folder, in the same order.

  example: python -m byol_jax embed --workdir=runs/demo --images=~/Pictures
           --output=pictures.npz
  """
  refuse(overrides)
  say = begin(arguments)
  from byol_jax import api

  count = api.embed(
    arguments.workdir, arguments.images, arguments.output, arguments.weights
  )
  say(f'{count} representations in {arguments.output}')


def report(arguments: argparse.Namespace, overrides: list[str]) -> None:
  """Print kNN and linear accuracy of a run beside its random encoders.

  Rows: the encoder as initialised, the same with its batch-norm averages
  estimated on training images, and BYOL. Also written to WORKDIR/report.json.

  example: python -m byol_jax report --workdir=runs/demo
  """
  refuse(overrides)
  from byol_jax.tools import report as tool

  tool.run(arguments.workdir, linear=arguments.linear, knn=arguments.knn)


def conformance(arguments: argparse.Namespace, overrides: list[str]) -> None:
  """Compare with the numbers of the reference implementation.

  DIR holds primitives.npz and, for each tag, TAG.config.json, TAG.pkl and
  TAG.npz. Prints the largest error of each quantity; exit code 1 above the
  tolerances.
  """
  refuse(overrides)
  from byol_jax.tools import conformance as tool

  tool.run(arguments.folder)


def data_prepare(arguments: argparse.Namespace, overrides: list[str]) -> None:
  """Write a folder of images, a .tar of one, or ImageNet's tars as records.

  SOURCE is a folder as `--config.dataset` takes it, a .tar of one, or a folder
  that holds ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar or both. Written
  is a TFDS directory of ArrayRecord files below OUTPUT, or nothing. Images
  keep their bytes; --shorter_side makes larger ones smaller (bicubic with
  antialiasing, JPEG 4:2:0) and leaves the others as they are.

  example: python -m byol_jax data prepare ~/Pictures prepared --name=pictures
           python -m byol_jax pretrain --config=imagenette:cpu
               --config.dataset=pictures --config.data_dir=prepared
               --workdir=runs/pictures
  """
  refuse(overrides)
  from byol_jax.tools import data_prepare as tool

  tool.run(arguments)


def data_check(arguments: argparse.Namespace, overrides: list[str]) -> None:
  """Read and decode every image of a set, and write a manifest of it.

  Prints counts, sizes, kinds, duplicates and what is broken; exit code 1 if
  anything is. The manifest is JSON, kept in the cache unless --output says.

  example: python -m byol_jax data check ~/Pictures
  """
  refuse(overrides)
  from byol_jax.tools import data_check as tool

  tool.run(arguments)


def bench_input(arguments: argparse.Namespace, overrides: list[str]) -> None:
  """Measure how fast this machine makes views, and what a pod would need.

  On one core, two and all: decoding alone, the floor (decoding and two
  interpolations), the official recipe, and ours from memory, from the source
  and from the decoded cache, as ratios taken in one run. Ends with the cores
  and hosts for 44,485 images/s, the paper's rate, and for twice that.

  example: python -m byol_jax bench input --config=pretrain:1000
               --config.dataset=DATA/imagenet_sample/1.0.0
  """
  from byol_jax.tools import bench_input as tool

  tool.run(arguments, overrides)


def refuse(overrides: list[str]) -> None:
  """For verbs without a configuration."""
  if overrides:
    raise errors.ConfigError(f'unknown argument {overrides[0]!r}; see --help')


VERBS = {
  'pretrain': pretrain,
  'knn': evaluate('knn'),
  'linear': evaluate('linear'),
  'embed': embed,
  'report': report,
  'conformance': conformance,
  'data prepare': data_prepare,
  'data check': data_check,
  'bench input': bench_input,
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a verb; returns the exit code."""
  console.start()
  try:
    with signals.unwinding():
      argv = sys.argv[1:] if argv is None else argv
      arguments, rest = parsing.parse(argv, VERBS)
      arguments.run(arguments, rest)
  except errors.UserError as error:
    print(f'byol_jax: {error}', file=sys.stderr)
    return error.exit_code
  except KeyboardInterrupt:
    print('byol_jax: interrupted', file=sys.stderr)
    return 130
  except BrokenPipeError:
    if console.has_reader():
      raise
    return console.reader_left()
  return 0


if __name__ == '__main__':
  sys.exit(main())
