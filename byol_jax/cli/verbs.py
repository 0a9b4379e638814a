"""The verbs of `byol-jax`: a function each, its arguments beside it.

A verb's docstring is its `--help`, its arguments are keywords. Heavy packages
are imported inside, so that `--help` needs none of them.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

from byol_jax import configuration, errors
from byol_jax.cli import parsers

# Name or --flag; default, `...` for none; help; parser, if it is no text.
Argument = tuple[str, Any, str] | tuple[str, Any, str, Callable[[str], Any]]


class Verb(NamedTuple):
  """A verb, of one word or two."""

  run: Callable[..., None]
  arguments: tuple[Argument, ...]
  preset: str | None  # whose keys --help lists; None: takes no configuration


VERBS: dict[str, Verb] = {}

# The first words of verbs of two.
GROUPS = {
  'data': 'Make a set of images ready for training, or check one.',
  'bench': 'Measure what this machine can do.',
}


def _add_verb(
  name: str,
  *arguments: Argument,
  preset: str | None = None,
) -> Callable[[Callable], Callable]:
  def add(run: Callable) -> Callable:
    VERBS[name] = Verb(run, arguments, preset)
    return run

  return add


_CONFIG_HELP = (
  'FILE[:ARGUMENT], a path or the name of a preset (pretrain:300, shapes);'
  ' --config.section.key=value changes one value'
)
_CONFIG = ('--config', ..., _CONFIG_HELP)
_PATH = parsers.parse_path
_RUN = ('--workdir', ..., 'of the pretraining', _PATH)
_JSON = ('--json', False, 'print the results as JSON in the last line')
_THREADS = (
  '--threads',
  0,
  '0: one for each core',
  parsers.make_parser(int, 0, 4096),
)
_SECONDS = parsers.make_parser(int, 1, 10**6)
_PROCESSES: tuple[Argument, ...] = (
  (
    '--distributed',
    'none',
    "'gce' (Cloud TPU), 'gke', 'slurm', 'auto' for the one of them that is"
    " there, with another port 'gce:8490'; or HOST:PORT,PROCESSES,INDEX",
    parsers.parse_distributed,
  ),
  ('--startup_seconds', 300, 'timeout for processes to report', _SECONDS),
  ('--heartbeat_seconds', 100, 'timeout of a heartbeat', _SECONDS),
)


def _add_evaluation(name: str) -> Callable[[Callable], Callable]:
  preset = f'evals/{name}'
  config = ('--config', preset, _CONFIG_HELP)
  return _add_verb(name, _RUN, config, *_PROCESSES, preset=preset)


@_add_verb(
  'pretrain',
  _CONFIG,
  ('--workdir', ..., 'made if missing', _PATH),
  *_PROCESSES,
  preset='pretrain',
)
def pretrain(workdir: str, **job: Any) -> None:
  """Pretrain BYOL into a workdir, or resume what it holds.

  presets: pretrain:{40,100,300,1000,1000_batch512,EPOCHS} for ImageNet;
  imagenette, cifar10 (for a GPU), imagenette:cpu, cifar10:cpu, shapes (for two
  CPU cores). --config.dataset is 'shapes', a folder of images or a .tar of it,
  an .npz of arrays, a prepared TFDS directory, or a TFDS name (with
  --config.data_dir).

  examples: byol-jax pretrain --config=shapes --workdir=runs/demo
            byol-jax pretrain --config=imagenette:cpu
                --config.dataset=~/Pictures --workdir=runs/pictures

  exit codes: 0 done, 1 the devices disagree, 2 configuration, 3 data or
  workdir, 4 diverged, 42 stopped by a signal (the same command resumes).
  """
  config, log = _join_job('pretrain', **job)
  from byol_jax import api

  last = api.pretrain(config, workdir)
  if last['unusable_images']:
    log(f'{last["unusable_images"]} images could not be used; see above')
  done = 'done before: step {step}'
  if 'loss' in last:
    done = 'done: step {step}, loss {loss:.4f}, {seconds:.0f} s'
  log(f'{done.format(**last)}; {workdir}')


@_add_evaluation('knn')
def knn(**arguments: Any) -> None:
  """Nearest-neighbour accuracy of a frozen encoder.

  Cosine similarity, weights exp(similarity / 0.1), k = 1, 20 and 200; the bank
  is the training split, the queries the test split. --config.dataset takes
  another set than the run's own; --config.weights is online, target, random
  or random_calibrated.

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


@_add_verb(
  'embed',
  _RUN,
  ('--images', ..., 'a folder, or any dataset', _PATH),
  ('--output', ..., 'an .npz file', _PATH),
  ('--weights', 'online', 'or target, random, random_calibrated'),
  *_PROCESSES,
)
def embed(
  workdir: str, images: str, output: str, weights: str, **job: Any
) -> None:
  """Write the representations and file names of a folder of images.

  The .npz holds `representations`, float32 [N, D], and `names`, the files'
  paths below the folder, in the same order.

  example: byol-jax embed --workdir=runs/demo --images=~/Pictures
           --output=pictures.npz
  """
  configuration.load('evals/knn', {'weights': weights})  # refuses others
  _, log = _join_job(**job)
  from byol_jax import api

  count = api.embed(workdir, images, output, weights)
  log(f'{count} representations in {output}')


@_add_verb(
  'report',
  _RUN,
  ('--knn', 'evals/knn', _CONFIG_HELP),
  ('--linear', 'evals/linear:cpu', _CONFIG_HELP),
)
def report(workdir: str, knn: str, linear: str) -> None:
  """Print kNN and linear accuracy of a run beside its random encoders.

  Rows: the encoder as initialised, the same with its batch-norm averages
  estimated on training images, and BYOL. Also written to WORKDIR/report.json.

  example: byol-jax report --workdir=runs/demo
  """
  for kind, spec in (('evals/knn', knn), ('evals/linear', linear)):
    configuration.load(spec, kind=kind)
  from byol_jax.tools import report as report_tool

  report_tool.run(workdir, knn=knn, linear=linear)


@_add_verb('conformance', ('dir', ..., 'vectors of the reference', _PATH))
def conformance(dir: str) -> None:
  """Compare with the numbers of the reference implementation.

  DIR holds primitives.npz and, for each tag, TAG.config.json, TAG.pkl and
  TAG.npz. Prints the largest error of each quantity; exit code 1 above the
  tolerances. It does not see random keys, distributions of augmentations and
  crops, initial weights, bottleneck and v2 blocks, most of the presets, and
  sums over devices where batches have one device.
  """
  from byol_jax.conformance import run as conformance_run

  conformance_run.run(dir)


@_add_verb(
  'data prepare',
  ('source', ..., 'images; see above', _PATH),
  ('output', ..., 'a data_dir; others may share it', _PATH),
  ('--name', None, 'of the set; default: that of SOURCE'),
  (
    '--shorter_side',
    None,
    'at most this many pixels',
    parsers.make_parser(int, 1, 65535),
  ),
  ('--quality', 95, 'of resized JPEGs', parsers.make_parser(int, 1, 100)),
  (
    '--max_bad_share',
    0.001,
    'of images that may be left out, beyond ten',
    parsers.make_parser(float, 0, 1),
  ),
  _THREADS,
)
def prepare_data(**arguments: Any) -> None:
  """Write a folder of images, or a .tar of one, as ArrayRecord files.

  SOURCE is a folder, a .tar of one, or a prepared TFDS directory. Written
  is a TFDS directory below OUTPUT, or nothing. Images keep their bytes;
  --shorter_side makes larger ones smaller (bicubic with antialiasing, JPEG
  4:2:0) and leaves the others as they are. ImageNet's archives: tfds build
  imagenet2012 --file_format=array_record --manual_dir=DIR --data_dir=OUTPUT

  example: byol-jax data prepare ~/Pictures prepared --name=pictures
           byol-jax pretrain --config=imagenette:cpu
               --config.dataset=pictures --config.data_dir=prepared
               --workdir=runs/pictures
  """
  from byol_jax.data.preparation import prepare

  path = prepare.prepare_images(**arguments, **_get_holdout())
  print(f'{path}\n\n{prepare.make_training_command(path)}')


@_add_verb(
  'data check',
  ('dataset', ..., 'a folder, a .tar of one, a TFDS directory or name', _PATH),
  ('--data_dir', None, 'where TFDS prepared its sets', _PATH),
  ('--split', 'all', 'or train, test, ...'),
  ('--output', None, 'a JSON file for the whole report', _PATH),
  _THREADS,
)
def check_data(**arguments: Any) -> None:
  """Read and decode every image of a set, and report what it holds.

  Prints counts, sizes, kinds, duplicates and what is broken; exit code 1 if
  anything is. --output writes all of it as JSON.

  example: byol-jax data check ~/Pictures
  """
  from byol_jax.data.preparation import check

  check.check_images(**arguments, **_get_holdout())


@_add_verb(
  'bench input',
  _CONFIG,
  _JSON,
  (
    '--rounds',
    5,
    'each result is their median',
    parsers.make_parser(int, 1, 1000),
  ),
  (
    '--cores',
    0,
    'measure on this many cores alone, as JSON',
    parsers.make_parser(int, 0, 65536),
  ),
  preset='pretrain',
)
def bench_input(spec: str, overrides: list[str], **options: Any) -> None:
  """Measure how fast this machine makes views, and what a pod would need.

  On one core, two and all: decoding, interpolation, the official recipe, and
  ours from memory, from the source and from the decoded cache. Ends with the
  cores and hosts for the paper's rate, 44,485 images/s, and for twice that.

  example: byol-jax bench input --config=pretrain:1000
               --config.dataset=DATA/imagenet_sample/1.0.0
  """
  configuration.load(spec, overrides, 'pretrain')
  from byol_jax.tools import bench_input as bench_input_tool

  bench_input_tool.run(spec, overrides, **options)


@_add_verb(
  'plan',
  _CONFIG,
  ('--topology', ..., 'v3-512 or v3:16x16, v4-512, v5e-256, v5p-8, v6e-256'),
  _JSON,
  ('--once', False, 'compile once: no largest batch'),
  (
    '--share',
    0.5,
    'of the best speed, for a second estimate of the hours',
    parsers.make_parser(float, 0.01, 1),
  ),
  preset='pretrain',
)
def plan(
  spec: str, overrides: list[str], topology: str, **options: Any
) -> None:
  """Compile the step of a run for a TPU slice, and say what it would take.

  Needs no TPU but the package libtpu, and minutes. Prints memory by kind, the
  largest batch, FLOPs, bytes, the shortest time of a step, images/s, hours,
  input rates, collectives.

  example: byol-jax plan --config=pretrain:1000 --topology=v3-512

  exit codes: 1 does not fit, 2 configuration or no libtpu, 3 data.
  """
  from byol_jax.planning import topologies

  topologies.find_topology(topology)
  configuration.load(spec, overrides, 'pretrain')
  from byol_jax.planning import plan as plan_tool

  plan_tool.run(spec, overrides, topology=topology, **options)


def _get_holdout() -> dict[str, Any]:
  """Returns how the presets divide a set into splits."""
  from byol_jax.data import from_config

  return from_config.get_holdout(configuration.load('pretrain'))


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
  return config, lambda text: print(errors.to_line(text))


def _evaluate(name: str, workdir: str, **job: Any) -> None:
  """Evaluates the run of a workdir and prints the results."""
  config, log = _join_job(f'evals/{name}', **job)
  from byol_jax import api, pretrained

  run = pretrained.open_run(workdir)
  encoder = pretrained.open_encoder(
    run, config.weights, calibration_batches=config.calibration_batches
  )
  for key, value in api.evaluate(name, config, run, encoder, log=log).items():
    text = f'{value:.4g}' if isinstance(value, float) else value
    log(f'{key}: {text}')
