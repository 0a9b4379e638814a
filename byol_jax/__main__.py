"""`python -m byol_jax VERB ...`: the command line.

A verb is one function: it reads its arguments, opens data and calls a run.
Errors that a user can mend end in one line and the exit code of
`byol_jax.errors`.
"""

import argparse
from collections.abc import Callable, Sequence
import os
import sys
from typing import Any

from byol_jax import errors
from byol_jax.cli import arguments as parsing, console, evaluate
from byol_jax.training import preemption

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
  config, say = begin(arguments, overrides)
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


def begin(
  arguments: argparse.Namespace, overrides: list[str]
) -> tuple[Any, Callable[[str], None]]:
  """The configuration, joined with the other processes; what prints for all."""
  import jax

  from byol_jax import configuration
  from byol_jax.distributed import processes
  from byol_jax.training import provenance

  def load() -> tuple[Any, dict[str, str]]:
    if 'config' not in arguments:
      refuse(overrides)
      return None, provenance.facts({})
    config = configuration.load(arguments.config, overrides)
    return config, provenance.facts(config.to_dict())

  config, described = processes.join_job(
    arguments.distributed,
    load,
    startup_seconds=arguments.startup_seconds,
    heartbeat_seconds=arguments.heartbeat_seconds,
  )
  if jax.process_index() != 0:
    return config, lambda text: None
  if jax.process_count() > 1:
    print(described, flush=True)
  return config, print


def embed(arguments: argparse.Namespace, overrides: list[str]) -> None:
  """Write the representations and file names of a folder of images.

  The .npz holds `representations`, float32 [N, D], and `names`, the files'
  paths below the folder, in the same order.

  example: python -m byol_jax embed --workdir=runs/demo --images=~/Pictures
           --output=pictures.npz
  """
  _, say = begin(arguments, overrides)
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
  from byol_jax.conformance import run as tool

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
  from byol_jax.data.preparation import write as tool

  tool.run(arguments)


def data_check(arguments: argparse.Namespace, overrides: list[str]) -> None:
  """Read and decode every image of a set, and write a manifest of it.

  Prints counts, sizes, kinds, duplicates and what is broken; exit code 1 if
  anything is. The manifest is JSON, kept in the cache unless --output says.

  example: python -m byol_jax data check ~/Pictures
  """
  refuse(overrides)
  from byol_jax.data.preparation import check as tool

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


def plan(arguments: argparse.Namespace, overrides: list[str]) -> None:
  """Compile the step of a run for a TPU slice, and say what it would take.

  Needs no TPU but the package libtpu, and minutes. Prints memory by kind, the
  largest batch, FLOPs, bytes, the shortest time of a step, images/s, hours,
  input rates, collectives.

  example: python -m byol_jax plan --config=pretrain:1000 --topology=v3-512

  exit codes: 1 does not fit, 2 configuration or no libtpu, 3 data.
  """
  from byol_jax.planning import report as tool

  tool.run(
    arguments.config,
    overrides,
    topology=arguments.topology,
    share=arguments.share,
    once=arguments.once,
    as_json=arguments.json,
  )


def refuse(overrides: list[str]) -> None:
  """For verbs without a configuration."""
  if overrides:
    raise errors.ConfigError(f'unknown argument {overrides[0]!r}; see --help')


VERBS = {
  'pretrain': pretrain,
  **evaluate.verbs(begin),
  'embed': embed,
  'report': report,
  'conformance': conformance,
  'data prepare': data_prepare,
  'data check': data_check,
  'bench input': bench_input,
  'plan': plan,
}


# The same command goes on, or starts again, from what is saved.
RESUMABLE = {'pretrain', *evaluate.HELP, 'report'}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a verb; returns the exit code."""
  console.start()
  try:
    argv = sys.argv[1:] if argv is None else argv
    arguments, rest = parsing.parse(argv, VERBS)
    with preemption.exit_on_sigterm(resumable=arguments.verb in RESUMABLE):
      arguments.run(arguments, rest)
  except errors.UserError as error:
    print(f'byol_jax: {error}', file=sys.stderr)
    if not error.is_everywhere:
      console.part(error.exit_code)
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
