"""Prints the result of a benchmark and writes it with the machine's facts."""

from collections.abc import Sequence
import importlib.metadata
import json
import os
import pathlib
import shlex
import sys
import time
from typing import Any

from byol_jax.training import provenance


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
    'command': shlex.join(['PYTHONPATH=.', 'python', *sys.argv]),
    'date': time.strftime('%Y-%m-%d'),
    'cores': os.cpu_count(),
    'load_average': round(os.getloadavg()[0], 2),
    'versions': provenance.list_versions() | versions,
  }
  text = json.dumps(result, indent=2) + '\n'
  print(text, end='')
  if output:
    output.write_text(text)
