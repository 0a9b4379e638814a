"""The verbs that train and evaluate."""

from collections.abc import Callable, Sequence
import functools
import json
from typing import Any

from byol_jax import configuration, errors
from byol_jax.cli import console, registry


def _add_evaluation(
  name: str,
  *arguments: registry.Argument,
  output: str = 'a file for the results in JSON; without it evaluations.jsonl'
  ' of a workdir',
) -> Callable[[Callable], Callable]:
  """Returns a decorator for a verb; `output` is the help of --output."""
  preset = f'evals/{name}'
  return registry.add_verb(
    name,
    registry.ORIGIN,
    ('--config', preset, registry.CONFIG_HELP),
    registry.STEP,
    ('--output', None, output, registry.PATH),
    *arguments,
    registry.JSON,
    *registry.PROCESSES,
    preset=preset,
  )


@registry.add_verb(
  'pretrain',
  registry.CONFIG,
  ('--workdir', ..., 'made if missing', registry.PATH),
  ('--profile', None, 'a folder for a trace of some steps', registry.PATH),
  *registry.PROCESSES,
  preset='pretrain',
)
def pretrain(workdir: str, profile: str | None, **job: Any) -> None:
  """Pretrain BYOL into a workdir, or resume what it holds.

  presets: pretrain:{40,100,300,1000,1000_batch512,EPOCHS} for ImageNet,
  places365; folder (your own images), imagenette, cifar10, for a GPU, and
  folder:cpu, imagenette:cpu, cifar10:cpu, shapes for two CPU cores.
  --config.dataset is 'shapes', a folder of images or a .tar of it, WebDataset
  shards, a .csv, .parquet or .npz, CIFAR's archive, a prepared TFDS directory,
  or a TFDS name (with --config.data_dir); docs/own_data.md lists them.

  examples: byol-jax pretrain --config=shapes --workdir=runs/demo
            byol-jax pretrain --config=folder:cpu
                --config.dataset=~/Pictures --workdir=runs/pictures

  exit codes: 0 done, 1 the devices disagree, 2 configuration, 3 data or
  workdir, 4 diverged, 42 stopped by a signal (the same command resumes).
  """
  config, log = _join_job('pretrain', **job)
  from byol_jax import api

  last = api.pretrain(config, workdir, profile=profile)
  if last['unusable_images']:
    images = errors.format_count(int(last['unusable_images']), 'image')
    log(f'{images} could not be used; see above')


@_add_evaluation('knn')
def knn(**arguments: Any) -> None:
  """Nearest-neighbour accuracy of a frozen encoder.

  Cosine similarity, weights exp(similarity / T); k = 1, 20 and 200, T = 0.07
  and 0.1; the bank is the training split, the queries the test split.
  --config.dataset takes another set than the run's own; --config.weights is
  online, target, random or random_calibrated.

  example: byol-jax knn --workdir=runs/demo
  """
  _evaluate('knn', **arguments)


@_add_evaluation('linear')
def linear(**arguments: Any) -> None:
  """Linear accuracy of a frozen encoder (paper, appendix C.1).

  SGD with Nesterov momentum; all learning rates are trained side by side in
  one pass, the best on the held-out part of the training split is reported on
  the test split. --config=evals/linear.py:cpu caches centre-crop features.

  example: byol-jax linear --workdir=runs/demo
           --config=evals/linear.py:cpu
  """
  _evaluate('linear', **arguments)


@_add_evaluation('online')
def online(**arguments: Any) -> None:
  """Accuracy of the classifier trained along with the encoder.

  On the centre crops of the test split; nothing is trained. The set has the
  classes of the pretraining. An encoder without a classifier is refused.

  example: byol-jax online --workdir=runs/demo
  """
  _evaluate('online', **arguments)


@_add_evaluation('transfer')
def transfer(**arguments: Any) -> None:
  """Accuracy on other sets by a linear classifier (paper, appendix D.2).

  For each set a logistic regression on frozen representations of centre crops,
  its penalty chosen among 45 on the set's validation part. --config.datasets
  names sets, with commas: food101, cifar10, cifar100, birdsnap, sun397, cars,
  aircraft, voc2007, dtd, pets, caltech101, flowers (all: paper), or a folder
  or any other dataset. They lie in --config.data_dir; a set that does not is
  named, with how to get it, and left out. Top-1, or the mean per class of
  aircraft, pets, caltech101 and flowers, or the 11-point mAP of voc2007.

  example: byol-jax transfer --workdir=runs/demo
           --config.datasets=cifar10,dtd --config.data_dir=~/tensorflow_datasets

  exit codes: 3 no set can be used.
  """
  _evaluate('transfer', **arguments)


@_add_evaluation(
  'finetune',
  (
    '--save',
    None,
    'a folder, missing or empty, for the network that was tested',
    registry.PATH,
  ),
)
def finetune(**arguments: Any) -> None:
  """Accuracy of the encoder after training all of it on labels.

  Each point of a grid of learning rates, weight decays and lengths trains
  encoder and classifier by SGD with Nesterov momentum; the best on the
  held-out part of the training split is reported on the test split.
  presets: evals/finetune (paper, appendix C.1), :transfer (D.3; 56 trainings),
  :supervised (the paper's baseline, from scratch), :cpu (a small grid).
  --config.weights=random trains from scratch.

  example: byol-jax finetune --workdir=runs/demo
           --config=evals/finetune:cpu
  """
  _evaluate('finetune', **arguments)


@_add_evaluation('semisup')
def semisup(**arguments: Any) -> None:
  """Accuracy after fine-tuning on few labels.

  As finetune, on class-balanced parts of the training images that are not held
  out, by default a hundredth and a tenth, drawn from the seed; of ImageNet the
  published ones (imagenet2012_subset of TFDS; --config.lists=own draws them).
  presets: evals/semisup (paper, appendix C.1), :cpu (a small grid).
  --config.weights=random trains from scratch.

  example: byol-jax semisup --workdir=runs/demo
           --config=evals/semisup:cpu --config.fractions='(0.01,)'
  """
  _evaluate('semisup', **arguments)


@_add_evaluation(
  'suite', output='a folder for suite.json and suite.md; without it the workdir'
)
def suite(
  workdir: str, as_json: bool, step: int | None, output: str | None, **job: Any
) -> None:
  """Evaluate by several protocols, beside the paper's numbers.

  Each has a section of the configuration; --config.protocols=knn,linear
  chooses some. A number of the paper is shown where encoder, pretraining set
  and evaluation set are the paper's. What suite.json holds of the same values
  and weights is not measured again.

  examples: byol-jax suite --workdir=runs/demo --config=evals/suite:cpu
            byol-jax suite --workdir=runs/demo --config=evals/suite:cpu
                --config.protocols=knn,linear --config.beside_random=True

  exit codes: 1 an evaluation failed; its row says why. A set of transfer that
  is missing is no failure.
  """
  config, log = _join_job('evals/suite', **job)
  from byol_jax import api

  found = api.suite(workdir, config, log=log, step=step, output=output)
  for line in found['table']:
    log(line)
  if as_json:
    log(json.dumps(found['rows']))
  if found['failed']:
    count = errors.format_count(len(found['failed']), 'evaluation')
    raise errors.CheckFailed(f'{count} failed: {", ".join(found["failed"])}')


@registry.add_verb(
  'embed',
  registry.ORIGIN,
  registry.STEP,
  ('--images', ..., 'a folder, an image, or any dataset', registry.PATH),
  ('--output', ..., 'an .npz file', registry.PATH),
  ('--weights', 'online', 'or target, random, random_calibrated'),
  registry.LABELS,
  *registry.PROCESSES,
)
def embed(
  workdir: str,
  images: str,
  output: str,
  weights: str,
  step: int | None,
  labels: str,
  **job: Any,
) -> None:
  """Write the representations and file names of a folder of images.

  The .npz holds `representations`, float32 [N, D], and `names`, the files'
  paths below the folder, in the same order. Images that cannot be read are left
  out; lines name them.

  example: byol-jax embed --workdir=runs/demo --images=~/Pictures
           --output=pictures.npz
  """
  # Refuses other values.
  configuration.load('evals/knn', {'weights': weights})
  configuration.load('pretrain', {'data.labels': labels})
  _, log = _join_job(**job)
  from byol_jax import api

  count = api.embed(
    workdir, images, output, weights, step=step, labels=labels, log=log
  )
  log(f'{errors.format_count(count, "representation")} in {output}')


@registry.add_verb(
  'report',
  registry.RUN,
  registry.STEP,
  ('--knn', 'evals/knn', registry.FILE_HELP),
  ('--linear', 'evals/linear:cpu', registry.FILE_HELP),
)
def report(workdir: str, step: int | None, knn: str, linear: str) -> None:
  """Report a run: accuracies beside its random encoders, and pictures.

  Prints kNN and linear accuracy of the encoder as initialised, the same with
  its batch-norm averages estimated on training images, and BYOL, and writes
  them to WORKDIR/report.json. WORKDIR/report.html, one file for any browser,
  adds the configuration, curves, views, nearest neighbours, a map of the
  representations and where the time went; images need no labels for it.

  example: byol-jax report --workdir=runs/demo
  """
  for kind, spec in (('evals/knn', knn), ('evals/linear', linear)):
    configuration.load(spec, kind=kind)
  from byol_jax.tools import report as report_tool

  report_tool.run(workdir, knn=knn, linear=linear, step=step)


@registry.add_verb(
  'watch',
  registry.RUN,
  ('--config', 'evals/knn', registry.CONFIG_HELP),
  ('--once', False, 'end after the checkpoints that are there now'),
  registry.number(
    *('--seconds', 10.0, 'between two looks at the workdir', 0.1, 86400, float)
  ),
  preset='evals/knn',
)
def watch(
  workdir: str, spec: str, overrides: list[str], once: bool, seconds: float
) -> None:
  """Evaluate each checkpoint of a run as it appears: online classifier, kNN.

  On all test images, beside a training that goes on or after it; prints a
  sentence for each result with its step, and adds the results to
  WORKDIR/evaluations.jsonl and to TensorBoard, if the run logs there. Waits for
  a workdir that does not exist yet, and ends after the last step of the run, or
  by Ctrl-C with exit code 42: the same command continues.

  On a GPU that is training use --config.eval.knn_every_steps=N of pretrain, or
  JAX_PLATFORMS=cpu here: JAX takes the memory of a GPU for one process.

  example: byol-jax watch --workdir=runs/demo
  """
  config = configuration.load(spec, overrides, 'evals/knn')
  from byol_jax.tools import watch as watch_tool

  log = console.print_line
  watch_tool.run(workdir, config, once=once, seconds=seconds, log=log)


def _join_job(
  kind: str | None = None,
  spec: str | None = None,
  overrides: Sequence[str] = (),
  *,
  distributed: str,
  **timeouts: int,
) -> tuple[Any, Callable[[str], None]]:
  """Loads the configuration and joins the other processes of the job.

  The configuration is checked before JAX, which takes seconds, is imported; in
  a job of several processes all of them get the error.

  Returns:
    The configuration (None for a verb without one), and a function that
    prints a line on the first process only.
  """
  from byol_jax.training import provenance

  @functools.cache
  def load() -> tuple[Any, dict[str, str]]:
    if spec is None:
      return None, provenance.describe_job({})
    config = configuration.load(spec, overrides, kind)
    if kind == 'pretrain':
      from byol_jax.training import hardware

      hardware.share_one_heap(config)
    return config, provenance.describe_job(config.to_dict())

  if distributed == 'none':
    load()
  import jax

  from byol_jax.distributed import processes

  config, description = processes.join_job(distributed, load, **timeouts)
  if jax.process_index() != 0:
    return config, lambda text: None
  if jax.process_count() > 1:
    print(description, flush=True)
  return config, console.print_line


def _evaluate(
  name: str,
  workdir: str,
  as_json: bool,
  step: int | None,
  output: str | None,
  save: str | None = None,
  **job: Any,
) -> None:
  """Evaluates an encoder and prints a sentence for each result."""
  config, log = _join_job(f'evals/{name}', **job)
  from byol_jax import api
  from byol_jax.evaluation import protocols

  evaluate = getattr(api, name)
  more = {} if save is None else {'save': save}
  results = evaluate(workdir, config, log=log, step=step, output=output, **more)
  for text in protocols.describe_results(name, results):
    log(text)
  if as_json:
    log(json.dumps(results))
