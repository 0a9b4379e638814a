"""The arguments of a benchmark, and its result with the machine's facts."""

import argparse
from collections.abc import Sequence
import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import sys
import time
from typing import Any

from byol_jax.training import provenance


def make_parser(
  page: str, rounds: int | None = None
) -> argparse.ArgumentParser:
  """Returns a parser of --output and, with a default for it, of --rounds.

  Args:
    page: the docstring of the benchmark.
    rounds: the default.
  """
  parser = argparse.ArgumentParser(description=page.splitlines()[0])
  parser.add_argument('--output', type=pathlib.Path)
  if rounds is not None:
    parser.add_argument('--rounds', type=int, default=rounds)
  return parser


def _shorten(word: str) -> str:
  """Returns an argument without the folders of this machine."""
  return re.sub('(^|=)/.*/', r'\1', word)


def write_result(
  result: dict[str, Any],
  output: pathlib.Path | None,
  packages: Sequence[str] = (),
) -> None:
  """Prints and writes a result as JSON.

  Args:
    result: JSON values; the command, the date, the cores, their load and the
      versions are added.
    output: the file; None: only print.
    packages: whose versions to add to those that every run records.
  """
  versions = {name: importlib.metadata.version(name) for name in packages}
  result = result | {
    'command': shlex.join(['PYTHONPATH=.', 'python', *map(_shorten, sys.argv)]),
    'date': time.strftime('%Y-%m-%d'),
    'cores': os.cpu_count(),
    'load_average': round(os.getloadavg()[0], 2),
    'versions': provenance.list_versions() | versions,
  }
  text = json.dumps(result, indent=2) + '\n'
  print(text, end='')
  if output:
    output.write_text(text)
