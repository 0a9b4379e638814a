"""The arguments of each verb, their help, and errors in one line."""

import argparse
from collections.abc import Callable, Mapping, Sequence
import inspect
from typing import Any

from byol_jax import errors

# verb -> what runs it: (arguments, those that only a configuration knows)
Verbs = Mapping[str, Callable[[argparse.Namespace, list[str]], None]]

CONFIG_HELP = (
  'FILE[:ARGUMENT], a path or the name of a preset (pretrain:300, shapes);'
  ' --config.section.key=value changes one value'
)

DISTRIBUTED_HELP = (
  "'none', 'auto' (Cloud TPU, GKE, SLURM) or HOST:PORT,PROCESSES,INDEX"
)

TOP_HELP = """BYOL (Grill et al. 2020) in JAX and Haiku.

  a first run: python -m byol_jax pretrain --config=shapes --workdir=runs/demo
               python -m byol_jax report --workdir=runs/demo
  each verb:   python -m byol_jax VERB --help

  From Python: byol_jax.pretrain(...), byol_jax.load_encoder(workdir).
  """


def parser(verbs: Verbs) -> argparse.ArgumentParser:
  """All verbs and their arguments; a function's docstring is its help."""
  top = Parser(prog='python -m byol_jax', text=TOP_HELP)
  parsers = top.add_subparsers(dest='verb', metavar='VERB')

  def add(name: str) -> Parser:
    text = inspect.cleandoc(verbs[name].__doc__ or '')
    summary = text.splitlines()[0].rstrip('.')
    verb = parsers.add_parser(name, help=summary, text=text)
    verb.set_defaults(run=verbs[name])
    return verb

  def with_run(verb: Parser) -> Parser:
    verb.add_argument('--workdir', required=True, help='of the pretraining')
    return verb

  def with_processes(verb: Parser) -> None:
    verb.add_argument('--distributed', default='none', help=DISTRIBUTED_HELP)

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
  return top


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
      from byol_jax import overrides, presets

      config = presets.load(self.preset)
      text += f'\nvalues, as in {self.preset}:\n'
      for key in overrides.keys(config):
        value = overrides.lookup(config, key)
        text += f'  {presets.PREFIX}{key}={value}\n'
    return text


def parse(
  argv: Sequence[str], verbs: Verbs
) -> tuple[argparse.Namespace, list[str]]:
  """Arguments, and those that only the verb's configuration knows.

  Raises:
    ConfigError: no such verb, or an argument is missing.
  """
  top = parser(verbs)
  if argv and not argv[0].startswith('-') and argv[0] not in verbs:
    raise errors.ConfigError(
      f'unknown verb {argv[0]!r}: expected one of {", ".join(verbs)}; see'
      f' {top.prog} --help'
    )
  arguments, rest = top.parse_known_args(argv)
  if arguments.verb is None:
    raise errors.ConfigError(
      f'no verb: expected one of {", ".join(verbs)}; see {top.prog} --help'
    )
  return arguments, rest
