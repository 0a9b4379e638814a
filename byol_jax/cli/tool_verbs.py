"""The verbs of image sets, of measurements and of checks."""

from typing import Any

from byol_jax import configuration, errors
from byol_jax.cli import parsers, registry

_BAD_SHARE = 'of images that may be left out, beyond ten'
_SHARE = 'of the best speed, for a second estimate of the hours'


@registry.add_verb(
  'conformance', ('dir', ..., 'vectors of the reference', registry.PATH)
)
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


@registry.add_verb(
  'config',
  ('key', None, 'a key, a section, or a word; all without it'),
  ('--config', 'pretrain', registry.CONFIG_HELP),
  ('--markdown', False, 'print docs/configuration.md instead'),
  preset='pretrain',
)
def explain_config(
  spec: str, overrides: list[str], key: str | None, markdown: bool
) -> None:
  """Explain the keys of a configuration: value, meaning, allowed values.

  examples: byol-jax config optimizer
            byol-jax config --config=evals/linear:cpu rates
  """
  from byol_jax.cli import config_help

  if markdown:
    print(config_help.make_page(), end='')
  else:
    print(*config_help.list_lines(spec, overrides, key), sep='\n')


@registry.add_verb(
  'data prepare',
  ('source', ..., 'images; see above', registry.PATH),
  ('output', ..., 'a data_dir; others may share it', registry.PATH),
  ('--name', None, 'of the set; default: that of SOURCE'),
  registry.number('--shorter_side', None, 'at most, in pixels', 1, 65535),
  registry.number('--quality', 95, 'of resized JPEGs', 1, 100),
  registry.number('--max_bad_share', 0.001, _BAD_SHARE, 0, 1, float),
  registry.LABELS,
  registry.THREADS,
)
def prepare_data(labels: str, **arguments: Any) -> None:
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

  path = prepare.prepare_images(**arguments, **_get_holdout(labels))
  command = prepare.make_training_command(path)
  print(f'{errors.to_line(str(path))}\n\n{errors.to_line(command)}')


@registry.add_verb(
  'data check',
  (
    'dataset',
    ...,
    'a folder, a .tar of one, or anything that --config.dataset takes',
    registry.PATH,
  ),
  ('--data_dir', None, 'where TFDS prepared its sets', registry.PATH),
  ('--split', 'all', 'or train, test, ...'),
  ('--output', None, 'a JSON file for the whole report', registry.PATH),
  registry.LABELS,
  registry.THREADS,
)
def check_data(labels: str, **arguments: Any) -> None:
  """Read and decode every image of a set, and report what it holds.

  Prints counts, sizes, kinds, duplicates and what is broken; exit code 1 if
  anything is. --output writes all of it as JSON.

  example: byol-jax data check ~/Pictures
  """
  from byol_jax.data.preparation import check

  check.check_images(**arguments, **_get_holdout(labels))


@registry.add_verb(
  'views',
  ('dataset', ..., 'any dataset, or the file of one image', registry.PATH),
  ('--config', 'pretrain:1000', registry.CONFIG_HELP),
  ('--output', 'views.png', 'a PNG file', registry.PATH),
  registry.number('--count', 4, 'images, the first of a run', 1, 64),
  preset='pretrain',
)
def views(
  dataset: str, spec: str, overrides: list[str], output: str, count: int
) -> None:
  """Draw both views of some images, with what chance did to each.

  A PNG file with two rows an image: the crop's window, the crop, and the view
  after each operation, with the drawn values below. They are those of the first
  images of the first step of a run with this configuration.

  example: byol-jax views ~/Pictures --config=shapes --output=views.png
  """
  config = configuration.load(spec, overrides, 'pretrain')
  from byol_jax.tools import views as views_tool

  drawn = views_tool.run(dataset, config, output=output, count=count)
  images = errors.format_count(drawn, 'image')
  print(errors.to_line(f'both views of {images}: {output}'))


@registry.add_verb(
  'bench input',
  registry.CONFIG,
  registry.JSON,
  registry.number('--rounds', 5, 'each result is their median', 1, 1000),
  registry.number(
    '--cores', 0, 'only on this many, as JSON; 0: 1, 2 and all', 0, 65536
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


@registry.add_verb(
  'bench step',
  registry.CONFIG,
  registry.JSON,
  registry.number('--rounds', 5, 'of two seconds or more', 1, 1000),
  preset='pretrain',
)
def bench_step(spec: str, overrides: list[str], **options: Any) -> None:
  """Measure the training step on the devices of this machine.

  On views of noise, augmentation included. Prints images/s and how much the
  rounds differ, FLOP/s and their share of the peak, memory, where the time
  goes, and how long the run would take, unless the rounds differ by more than
  20 %. Needs no images of a set that the presets name.

  example: byol-jax bench step --config=shapes
  """
  configuration.load(spec, overrides, 'pretrain')
  from byol_jax.tools import bench_step as bench_step_tool

  bench_step_tool.run(spec, overrides, **options)


@registry.add_verb(
  'plan',
  registry.CONFIG,
  ('--topology', ..., 'v3-512 or v3:16x16, v4-512, v5e-256, v5p-8, v6e-256'),
  registry.JSON,
  ('--once', False, 'compile once: no largest batch'),
  registry.number('--share', 0.5, _SHARE, 0.01, 1, float),
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


@registry.add_verb(
  'ablate',
  ('--table', None, 'of the paper: 5b, 21, simclr; see --list'),
  ('--list', False, "print the rows of a table, or of all, with the paper's"),
  ('--base', 'shapes', f'what the rows change: {registry.CONFIG_HELP}'),
  ('--rows', None, 'some of the rows, with commas'),
  registry.number('--seeds', 1, 'runs a row, from --config.seed on', 1, 1000),
  ('--workdir', None, 'for the runs and the results', registry.PATH),
  (
    '--part',
    '0/1',
    'I/N: every Nth run from the Ith on, for N processes',
    parsers.parse_part,
  ),
  ('--knn', 'evals/knn', registry.CONFIG_HELP),
  ('--linear', 'evals/linear:cpu', registry.CONFIG_HELP),
  preset='pretrain',
)
def ablate(
  spec: str,
  overrides: list[str],
  table: str | None,
  as_list: bool,
  rows: str | None,
  seeds: int,
  workdir: str | None,
  part: tuple[int, int],
  **evaluations: str,
) -> None:
  """Run rows of the paper's ablations in small, beside its numbers.

  Each row changes --base as it changes the paper's setting: learning rate,
  weight decay, 1 - tau and the widths of the heads in proportion. The runs are
  ordinary workdirs below --workdir; rows of any table that come to the same
  configuration are one. Each is measured by kNN and linear, beside the better
  of two random encoders. TABLE.json, .md and .svg there compare the order of
  the rows with the paper's, those of earlier calls too. A run that diverges or
  collapses is a result. The same command goes on after any end; a training that
  a signal stops is saved, with exit code 42.

  examples: byol-jax ablate --list --table=5b
            byol-jax ablate --table=5b --rows=byol,simclr,average_beta0
                --workdir=runs/ablations
            byol-jax ablate --table=5b --base=small/cifar10:cpu --seeds=3
                --config.steps=2000 --workdir=runs/ablations
  """
  from byol_jax.tools import ablation_table

  name = table and ablation_table.find_table(table)
  if as_list:
    print(*ablation_table.list_lines(name), sep='\n')
    return
  if name is None or workdir is None:
    raise errors.ConfigError(
      'expected --table and --workdir, or --list; see byol-jax ablate --help'
    )
  selected = ablation_table.select_rows(name, rows)
  configuration.load(spec, overrides, 'pretrain')
  for protocol, preset in evaluations.items():
    configuration.load(preset, kind=f'evals/{protocol}')
  from byol_jax.tools import ablate as ablate_tool, ablation_plan

  plan = ablation_plan.Plan(name, selected, spec, overrides, seeds, evaluations)
  log = lambda text: print(errors.to_line(text), flush=True)
  found = ablate_tool.run(plan, workdir, part, log)
  print('', *ablation_table.format_table(found), sep='\n')


def _get_holdout(labels: str) -> dict[str, Any]:
  """Returns how the presets divide a set into splits."""
  from byol_jax.data import from_config

  return from_config.get_holdout(
    configuration.load('pretrain', {'data.labels': labels})
  ) | {'labels_key': '--labels'}
