"""What a verb is, and the arguments that several of them have."""

from collections.abc import Callable
from typing import Any, NamedTuple

from byol_jax.cli import parsers

# Name or --flag; default, `...` for none; help; parser, if it is no text.
Argument = tuple[str, Any, str] | tuple[str, Any, str, Callable[[str], Any]]


class Verb(NamedTuple):
  """A verb, of one word or two."""

  run: Callable[..., None]
  arguments: tuple[Argument, ...]
  preset: str | None  # whose keys --help lists; None: takes no configuration


# The first words of verbs of two.
GROUPS = {
  'data': 'Make a set of images ready for training, or check one.',
  'bench': 'Measure what this machine can do.',
}


VERBS: dict[str, Verb] = {}  # by name


def add_verb(
  name: str, *arguments: Argument, preset: str | None = None
) -> Callable[[Callable], Callable]:
  """Returns a decorator that adds a function to `VERBS`."""

  def add(run: Callable) -> Callable:
    VERBS[name] = Verb(run, arguments, preset)
    return run

  return add


def number(
  name: str, default: Any, text: str, low: float, high: float, kind: Any = int
) -> Argument:
  """Returns an argument of a number in [low, high], of the type `kind`."""
  return name, default, text, parsers.make_parser(kind, low, high)


FILE_HELP = 'FILE[:ARGUMENT], a path or the name of a preset'
CONFIG_HELP = f'{FILE_HELP}; --config.section.key=value changes one value'
CONFIG = ('--config', ..., CONFIG_HELP)
PATH = parsers.parse_path
RUN = ('--workdir', ..., 'of the pretraining', PATH)
ORIGIN = (
  '--workdir',
  ...,
  'of the pretraining; or an exported or a published file of weights',
  PATH,
)
STEP = number('--step', None, 'of an older checkpoint', 0, 10**9)
JSON = ('--json', False, 'print the results as JSON in the last line')
LABELS = ('--labels', 'auto', 'or folders, none: as data.labels of a training')
THREADS = number('--threads', 0, '0: one for each core', 0, 4096)
PROCESSES: tuple[Argument, ...] = (
  (
    '--distributed',
    'none',
    "'gce' (Cloud TPU), 'gke', 'slurm', 'auto' for the one of them that is"
    " there, with another port 'gce:8490'; or HOST:PORT,PROCESSES,INDEX",
    parsers.parse_distributed,
  ),
  number('--startup_seconds', 300, 'for processes to report', 1, 10**6),
  number('--heartbeat_seconds', 100, 'timeout of a heartbeat', 1, 10**6),
)
