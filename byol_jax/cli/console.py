"""The terminal: arguments in, one line for an error, exit codes out."""

import argparse
from collections.abc import Mapping, Sequence
from importlib import metadata
import inspect
import io
import logging
import os
import select
import sys
import threading
from typing import Any, NoReturn, TextIO

import byol_jax
from byol_jax import configuration, errors
from byol_jax.cli import registry

_TOP_HELP = """BYOL (Grill et al. 2020) in JAX and Haiku.

a first run: byol-jax pretrain --config=shapes --workdir=runs/demo
             byol-jax report --workdir=runs/demo
each verb:   byol-jax VERB --help

From Python: byol_jax.pretrain(...), byol_jax.load(workdir).
"""


# Argument -> its keyword in Python, where that has another name.
_KEYWORDS = {
  **{'config': 'spec', 'base': 'spec', 'list': 'as_list'},
  **{'json': 'as_json', 'threads': 'num_threads'},
  'with': 'parts',
}


class _Parser(argparse.ArgumentParser):
  """Raises errors in one line; the help lists the values of a preset."""

  def __init__(self, *, preset: str | None = None, **options: Any) -> None:
    super().__init__(
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
      **options,
    )
    self.preset = preset

  def error(self, message: str) -> NoReturn:
    """Raises ConfigError instead of printing the usage."""
    if len(message) > 400:
      message = f'{message[:397]}...'
    raise errors.ConfigError(f'{message}; see {self.prog} --help')

  def format_help(self) -> str:
    """Returns the usual help and what --config.section.key=value may change."""
    text = super().format_help()
    if self.preset:
      text += (
        f'\nvalues, as in {self.preset}; explained by\nbyol-jax config'
        f' --config={self.preset} [KEY]:\n'
      )
      config = configuration.read_preset(self.preset)
      for key, value in configuration.flatten(config).items():
        text += f'  {configuration.PREFIX}{key}={value}\n'
    return text


def parse(
  argv: Sequence[str], known: Mapping[str, registry.Verb]
) -> tuple[registry.Verb, dict[str, Any]]:
  """Returns the verb of a command line and its keyword arguments.

  Of these, `overrides` are those left for the verb's configuration. Names of
  verbs in `known` have one word or two.

  Raises:
    ConfigError: no such verb, or an argument is missing or unknown.
  """
  top = _Parser(prog='byol-jax', description=_TOP_HELP)
  version = f'byol_jax {byol_jax.__version__}, jax {metadata.version("jax")}'
  text = 'print the versions and exit'
  top.add_argument('--version', action='version', version=version, help=text)
  groups = {'': _add_subparsers(top)}
  for name, verb in known.items():
    group, _, word = name.rpartition(' ')
    if group not in groups:
      text = registry.GROUPS[group]
      parser = groups[''].add_parser(group, help=text, description=text)
      groups[group] = _add_subparsers(parser)
    text = inspect.cleandoc(verb.run.__doc__ or '')
    parser = groups[group].add_parser(
      word, help=text.partition('\n')[0], description=text, preset=verb.preset
    )
    for argument in verb.arguments:
      _add_argument(parser, *argument)
    parser.set_defaults(verb=verb, parser=parser)
  namespace, overrides = top.parse_known_args(argv)
  arguments = {_KEYWORDS.get(k, k): v for k, v in vars(namespace).items()}
  verb, parser = arguments.pop('verb'), arguments.pop('parser')
  if verb.preset:
    arguments['overrides'] = overrides
  elif overrides:
    parser.error(f'unknown argument {errors.quote(overrides[0])}')
  return verb, arguments


def _add_subparsers(parser: argparse.ArgumentParser) -> Any:
  return parser.add_subparsers(metavar='VERB', required=True)


def _add_argument(
  parser: argparse.ArgumentParser,
  name: str,
  default: Any,
  text: str,
  kind: Any = None,
) -> None:
  """Adds an argument as `registry.Argument` describes it."""
  if default is False:
    parser.add_argument(name, help=text, action='store_true')
    return
  options: dict[str, Any] = {'type': kind or str}
  if not name.startswith('--'):
    options['metavar'] = name.upper()
    options['nargs'] = None if default is ... else '?'
  elif default is ...:
    options['required'] = True
  else:
    options['default'] = default
    text = text if default is None else f'{text} (default: {default})'
  parser.add_argument(name, help=text, **options)


class WarnOnce(logging.Filter):
  """Drops repeated messages: several splits may open the same folder."""

  def __init__(self) -> None:
    super().__init__()
    self._seen: set[str] = set()

  def filter(self, record: logging.LogRecord) -> bool:
    """Returns whether a message is new."""
    size = len(self._seen)
    self._seen.add(record.getMessage())
    return len(self._seen) > size


class _OneLine(logging.Formatter):
  """Escapes what a message quotes, such as names of files."""

  def formatMessage(self, record: logging.LogRecord) -> str:
    """Returns the message as one line, before a traceback if there is one."""
    return errors.to_line(super().formatMessage(record))


def show_warnings() -> None:
  """Sends warnings to standard error, each once and as one line."""
  handler = logging.StreamHandler()
  handler.addFilter(WarnOnce())
  handler.setFormatter(_OneLine('%(message)s'))
  logging.basicConfig(handlers=[handler])


def escape_output() -> None:
  """Escapes what the encoding of standard output lacks, as in errors."""
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors='backslashreplace')


def exit_without_barrier(code: int) -> None:
  """Ends one process of several at once; returns in a job of one process.

  For an error that the other processes do not have: at a usual exit JAX would
  wait for them, while they wait for this process in an all-reduce.
  """
  if _is_in_job():
    _end_at_once(code)


def end_process(code: int) -> NoReturn:
  """Ends the process; after an error at once, whatever its threads do.

  At a usual exit the interpreter waits for them: for the compiler a minute. A
  job of several processes has the usual exit, where they wait for each other.
  """
  others = set(threading.enumerate()) - {threading.current_thread()}
  if code and not _is_in_job() and not all(x.daemon for x in others):
    _end_at_once(code)
  sys.exit(code)


def _is_in_job() -> bool:
  jax = sys.modules.get('jax')
  return jax is not None and jax.distributed.is_initialized()


def _end_at_once(code: int) -> NoReturn:
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def has_reader() -> bool:
  """Returns whether standard output is still open at its other end."""
  poll = select.poll()
  poll.register(sys.stdout.fileno(), 0)
  return not any(event & select.POLLERR for _, event in poll.poll(0))


def broken_pipe_exit_code() -> int:
  """Returns the exit code once the reader of our output is gone (`| head`)."""
  _discard_output(sys.stdout)
  return 128 + 13  # as a shell reports SIGPIPE


def print_line(text: str) -> None:
  """Prints one line to standard output at once."""
  print(errors.to_line(text), flush=True)


def print_error(text: str) -> None:
  """Prints one line to standard error, unless the terminal is gone."""
  try:
    print(f'byol_jax: {text}', file=sys.stderr, flush=True)
    sys.stdout.flush()
  except OSError:
    _discard_output(sys.stdout)
    _discard_output(sys.stderr)


def _discard_output(stream: TextIO) -> None:
  """Keeps Python from failing at its end, when it flushes what is left."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
