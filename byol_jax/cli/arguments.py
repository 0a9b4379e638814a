"""The arguments of each verb, their help, and errors in one line."""

import argparse
from collections.abc import Callable, Mapping, Sequence
import inspect
import itertools
from typing import Any

from byol_jax import errors

# verb, of one word or two -> what runs it: (arguments, those that only a
# configuration knows)
Verbs = Mapping[str, Callable[[argparse.Namespace, list[str]], None]]

CONFIG_HELP = (
  'FILE[:ARGUMENT], a path or the name of a preset (pretrain:300, shapes);'
  ' --config.section.key=value changes one value'
)

DISTRIBUTED_HELP = (
  "'none'; 'gce' (Cloud TPU), 'gke', 'slurm', 'auto' for the one of them that"
  ' is there; or HOST:PORT,PROCESSES,INDEX'
)
STARTUP_HELP = 'for all processes to report (default: 300)'
HEARTBEAT_HELP = 'without a sign of life a process is dead (default: 100)'

TOPOLOGY_HELP = 'a slice: v3-512 or v3:16x16, v4-512, v5e-256, v5p-8, v6e-256'
JSON_HELP = 'the last line holds all of it as JSON'
THREADS_HELP = 'default: one for each core'
DATASET_HELP = 'a folder of images, a .tar of it, a TFDS directory or name'

TOP_HELP = """BYOL (Grill et al. 2020) in JAX and Haiku.

  a first run: python -m byol_jax pretrain --config=shapes --workdir=runs/demo
               python -m byol_jax report --workdir=runs/demo
  each verb:   python -m byol_jax VERB --help

  From Python: byol_jax.pretrain(...), byol_jax.load_encoder(workdir).
  """


# The first words of verbs of two.
GROUPS = {
  'data': 'Make a set of images ready for training, or check one.',
  'bench': 'Measure what this machine can do.',
}


def positive(text: str) -> int:
  """A whole number from 1."""
  value = int(text)
  if value < 1:
    raise ValueError
  return value


def parser(verbs: Verbs) -> argparse.ArgumentParser:
  """All verbs and their arguments; a function's docstring is its help."""
  top = Parser(prog='python -m byol_jax', text=TOP_HELP)
  parsers = top.add_subparsers(dest='verb', metavar='VERB')

  groups: dict[str, Any] = {'': parsers}

  def add_parser(group: str, name: str, text: str) -> Parser:
    summary = text.splitlines()[0].rstrip('.')
    return groups[group].add_parser(name, help=summary, text=text)

  def add(name: str) -> Parser:
    group, _, word = name.rpartition(' ')
    if group not in groups:
      first = add_parser('', group, GROUPS[group])
      groups[group] = first.add_subparsers(dest='second', metavar='VERB')
    verb = add_parser(group, word, inspect.cleandoc(verbs[name].__doc__ or ''))
    verb.set_defaults(run=verbs[name])
    return verb

  def with_run(verb: Parser) -> Parser:
    verb.add_argument('--workdir', required=True, help='of the pretraining')
    return verb

  def with_processes(verb: Parser) -> None:
    verb.add_argument('--distributed', default='none', help=DISTRIBUTED_HELP)
    verb.add_argument(
      '--startup_seconds', type=positive, default=300, help=STARTUP_HELP
    )
    verb.add_argument(
      '--heartbeat_seconds', type=positive, default=100, help=HEARTBEAT_HELP
    )

  verb = add('pretrain')
  verb.preset = 'pretrain'
  verb.add_argument('--config', required=True, help=CONFIG_HELP)
  verb.add_argument('--workdir', required=True, help='made if missing')
  with_processes(verb)
  for name in ('knn', 'linear'):
    verb = with_run(add(name))
    verb.preset = f'evals/{name}'
    verb.add_argument('--config', default=verb.preset, help=CONFIG_HELP)
    with_processes(verb)
  verb = with_run(add('embed'))
  verb.add_argument('--images', required=True, help='a folder, or any dataset')
  verb.add_argument('--output', required=True, help='an .npz file')
  verb.add_argument(
    '--weights', default='online', help='or target, random, random_calibrated'
  )
  with_processes(verb)
  verb = with_run(add('report'))
  verb.add_argument('--knn', default='evals/knn', help=CONFIG_HELP)
  verb.add_argument('--linear', default='evals/linear:cpu', help=CONFIG_HELP)
  verb = add('conformance')
  verb.add_argument('folder', metavar='DIR')
  add_data(add)
  verb = add('bench input')
  verb.preset = 'pretrain'
  verb.add_argument('--config', required=True, help=CONFIG_HELP)
  verb.add_argument('--json', action='store_true', help='one line of JSON')
  verb.add_argument('--rounds', type=int, default=5, help='medians are of them')
  verb.add_argument(
    '--cores', type=int, default=0, help='so many alone, as JSON'
  )
  add_plan(add('plan'))
  return top


def add_plan(verb: 'Parser') -> None:
  """The arguments of a plan."""
  verb.preset = 'pretrain'
  verb.add_argument('--config', required=True, help=CONFIG_HELP)
  verb.add_argument('--topology', required=True, help=TOPOLOGY_HELP)
  verb.add_argument('--json', action='store_true', help=JSON_HELP)
  verb.add_argument(
    '--once',
    action='store_true',
    help='no second compilation: no largest batch',
  )
  verb.add_argument(
    '--share',
    type=float,
    default=0.5,
    help='of the best speed, for a second estimate of the hours',
  )


def add_data(add: Callable[[str], 'Parser']) -> None:
  """The verbs that make and check sets of images."""
  verb = add('data prepare')
  verb.add_argument('source', metavar='SOURCE', help='images, see above')
  verb.add_argument(
    'output', metavar='OUTPUT', help='a data_dir; others may share it'
  )
  verb.add_argument('--name', help='of the set; default: that of SOURCE')
  verb.add_argument(
    '--shorter_side', type=int, metavar='N', help='at most N pixels'
  )
  verb.add_argument(
    '--quality', type=int, default=95, help='of the JPEGs that are resized'
  )
  verb.add_argument(
    '--max_bad_share',
    type=float,
    default=0.001,
    help='of unusable images that may be left out, beyond ten',
  )
  verb.add_argument('--threads', type=int, default=0, help=THREADS_HELP)
  verb = add('data check')
  verb.add_argument('dataset', metavar='DATASET', help=DATASET_HELP)
  verb.add_argument('--data_dir', help='where TFDS prepared its sets')
  verb.add_argument('--split', default='all', help='or train, test, ...')
  verb.add_argument('--output', help='the manifest; default: in the cache')
  verb.add_argument('--threads', type=int, default=0, help=THREADS_HELP)


class Parser(argparse.ArgumentParser):
  """Errors as one line; the help lists the values of a preset."""

  preset: str | None = None

  def __init__(self, *, text: str, **options: Any) -> None:
    super().__init__(
      description=inspect.cleandoc(text),
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
      **options,
    )

  def error(self, message: str) -> Any:
    """Raises ConfigError instead of printing the usage."""
    raise errors.ConfigError(f'{message}; see {self.prog} --help')

  def format_help(self) -> str:
    """The usual, and what --config.section.key=value may change."""
    text = super().format_help()
    if self.preset:
      from byol_jax import configuration

      config = configuration.read_preset(self.preset)
      text += f'\nvalues, as in {self.preset}:\n'
      for key, value in configuration.flatten(config).items():
        text += f'  {configuration.PREFIX}{key}={value}\n'
    return text


def parse(
  argv: Sequence[str], verbs: Verbs
) -> tuple[argparse.Namespace, list[str]]:
  """Arguments, and those that only the verb's configuration knows.

  Raises:
    ConfigError: no such verb, or an argument is missing.
  """
  top = parser(verbs)
  group = ''
  for word in itertools.takewhile(lambda w: not w.startswith('-'), argv[:2]):
    name = f'{group} {word}'.lstrip()
    if name in verbs:
      break
    if not _below(name, verbs):
      raise _expected(f'unknown verb {name!r}', group, verbs, top.prog)
    group = name
  arguments, rest = top.parse_known_args(argv)
  if 'run' not in arguments:
    what = f'{group!r} is half a verb' if group else 'no verb'
    raise _expected(what, group, verbs, top.prog)
  return arguments, rest


def _below(group: str, verbs: Verbs) -> list[str]:
  """The verbs that begin with the word `group`, or all."""
  return [name for name in verbs if not group or name.startswith(f'{group} ')]


def _expected(
  what: str, group: str, verbs: Verbs, prog: str
) -> errors.ConfigError:
  known = ', '.join(_below(group, verbs))
  see = f'{prog} {group}'.rstrip()
  return errors.ConfigError(
    f'{what}: expected one of {known}; see {see} --help'
  )
