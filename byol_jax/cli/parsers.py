"""Parsers of single arguments of the command line."""

import argparse
from collections.abc import Callable
from typing import Any

from byol_jax import errors, files

# The keys of `distributed.processes.CLUSTERS`.
CLUSTERS = ('auto', 'gce', 'gke', 'slurm')


def make_parser(
  kind: Callable, low: float, high: float
) -> Callable[[str], Any]:
  """Returns a parser of numbers in [low, high], of the type `kind`."""

  def parse(text: str) -> Any:
    try:
      if low <= kind(text) <= high:
        return kind(text)
    except ValueError:
      pass
    name = 'a whole number' if kind is int else 'a number'
    raise argparse.ArgumentTypeError(
      f'expected {name} in [{low}, {high}], found {errors.quote(text)}'
    )

  return parse


def parse_distributed(text: str) -> str:
  """Returns a text that has one of the forms of `--distributed`.

  `distributed.processes`, which imports JAX, checks the rest.
  """
  name = text.partition(':')[0]
  if name not in ('none', *CLUSTERS) and text.count(',') != 2:
    raise argparse.ArgumentTypeError(
      f"expected 'none', one of {[*CLUSTERS]} with or without ':PORT', or"
      f" 'HOST:PORT,PROCESSES,INDEX', found {errors.quote(text)}"
    )
  return text


def parse_path(text: str) -> str:
  """Returns a text that can name a path, here or in a bucket."""
  if not files.is_path(text):
    raise argparse.ArgumentTypeError(
      f'expected {files.EXPECTED_PATH}, found {errors.quote(text)}'
    )
  return text


def parse_part(text: str) -> tuple[int, int]:
  """Returns (i, n) of 'i/n', 0 <= i < n."""
  index, _, count = text.partition('/')
  if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
    raise argparse.ArgumentTypeError(
      f'expected I/N with 0 <= I < N, found {errors.quote(text)}'
    )
  return int(index), int(count)
