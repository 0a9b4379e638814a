"""Compares this implementation with what the reference computed.

The verb `conformance DIR`. DIR holds `primitives.npz` (single functions) and
any number of runs, each three files `<tag>.config.json`, `<tag>.pkl` (a
checkpoint) and `<tag>.npz` (batches and what came of them). Everything goes
through the functions that training uses, on the CPU in float32.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import itertools
from pathlib import Path
import zipfile

import jax
import numpy as np

from byol_jax import errors
from byol_jax.conformance import (
  compare,
  inputs as conformance_inputs,
  primitives as conformance_primitives,
  steps,
)

PRIMITIVES = 'primitives'
ENDINGS = ('.config.json', '.pkl', '.npz')

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Report:
  """Every comparison, and what became of every key."""

  comparisons: tuple[compare.Comparison, ...]
  num_keys: int
  num_inputs: int
  not_compared: tuple[str, ...]  # 'file: key'

  @property
  def num_compared(self) -> int:
    """Keys whose numbers stand beside ours."""
    return self.num_keys - self.num_inputs - len(self.not_compared)

  def lines(self) -> list[str]:
    """The table and the count of the keys."""
    lines = [
      *compare.table(self.comparisons),
      f'{self.num_keys} keys: {self.num_compared} compared,'
      f' {self.num_inputs} used as input,'
      f' {len(self.not_compared)} not compared',
    ]
    return lines + [f'  not compared: {key}' for key in self.not_compared]


def run(folder: str) -> None:
  """Prints the comparison with every vector in a folder.

  Call it before anything touches a device: it starts as many CPU devices as
  the vectors need.

  Raises:
    CheckFailed: something differs by more than the tolerance, or nothing was
      compared.
    DataError: the folder is missing or holds no vectors, or a tag lacks a file.
  """
  report = check(folder)
  print('\n'.join(report.lines()), flush=True)
  failed = [found for found in report.comparisons if not found.holds]
  if failed:
    worst = max(failed, key=lambda found: found.error)
    note = f' ({worst.note})' if worst.note else ''
    raise errors.CheckFailed(
      f'{folder}: {len(failed)} of {len(report.comparisons)} comparisons above'
      f' {compare.TOLERANCE:g}; worst: {worst.group}, {worst.key}, error'
      f' {worst.error:.2e}{note}'
    )
  if not report.num_compared:
    raise errors.CheckFailed(
      f'{folder}: none of {report.num_keys} keys was compared'
    )


def check(folder: str) -> Report:
  """Compares every vector in a folder; see `run`."""
  root = Path(folder)
  tags = find_tags(root)
  files = {tag: read_arrays(root / f'{tag}.npz') for tag in tags}
  counts = {
    tag: conformance_inputs.num_devices({k: v.shape for k, v in file.items()})
    for tag, file in files.items()
  }
  devices = start_cpu_devices(max(counts.values(), default=1))
  parts = []
  for tag, arrays in files.items():
    with jax.default_device(devices[0]):
      found = steps.comparisons(tag, root, arrays, devices[: counts[tag]])
      parts.append(
        account(f'{tag}.npz', found, arrays, conformance_inputs.is_input)
      )
  primitives = root / f'{PRIMITIVES}.npz'
  if primitives.is_file():
    arrays = read_arrays(primitives)
    with jax.default_device(devices[0]):
      found = conformance_primitives.comparisons(arrays)
      is_input = conformance_primitives.is_input
      parts.insert(0, account(primitives.name, found, arrays, is_input))
  return total(parts)


def find_tags(root: Path) -> list[str]:
  """Names that have their three files.

  Raises:
    DataError: the folder does not exist or holds nothing to compare, or a file
      of a tag is missing.
  """
  if not root.is_dir():
    raise errors.DataError(f'{root}: expected a folder, found none')
  present = {path.name for path in root.iterdir()}
  tags = {
    name.removesuffix(ending)
    for name in present
    for ending in ENDINGS
    if name.endswith(ending)
  } - {PRIMITIVES}
  for tag, ending in itertools.product(sorted(tags), ENDINGS):
    if tag + ending not in present:
      raise errors.DataError(
        f'{root}: expected {tag}{ending} beside the other files of {tag}, found'
        ' none'
      )
  if not tags and f'{PRIMITIVES}.npz' not in present:
    raise errors.DataError(
      f'{root}: expected {PRIMITIVES}.npz or <tag>.config.json, <tag>.pkl and'
      ' <tag>.npz, found none of them'
    )
  return sorted(tags)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
  """The arrays of an npz file, never a pickled one.

  Raises:
    DataError: the file is damaged.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      return {key: file[key] for key in file.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise errors.DataError(f'{path}: not an npz of numbers: {error}') from error


def start_cpu_devices(count: int) -> list[jax.Device]:
  """At least `count` CPU devices.

  Raises:
    CheckFailed: JAX has started already, with fewer.
  """
  # Refused once a device was touched; never fewer than somebody asked for.
  with contextlib.suppress(RuntimeError):
    asked: int = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    jax.config.update('jax_num_cpu_devices', max(count, asked))
    jax.config.update('jax_platforms', 'cpu')
  devices = jax.devices('cpu')
  if len(devices) < count:
    raise errors.CheckFailed(
      f'the vectors need {count} CPU devices and JAX has started with'
      f' {len(devices)}: set JAX_NUM_CPU_DEVICES={count}'
    )
  return devices


def account(
  file: str,
  found: Iterator[compare.Comparison],
  arrays: Arrays,
  is_input: Callable[[str], bool],
) -> Report:
  """One file's comparisons, and which of its keys they leave out."""
  comparisons = tuple(found)
  compared = {comparison.key for comparison in comparisons}
  inputs = {key for key in arrays if is_input(key)} - compared
  rest = sorted(arrays.keys() - compared - inputs)
  return Report(
    comparisons=comparisons,
    num_keys=len(arrays),
    num_inputs=len(inputs),
    not_compared=tuple(f'{file}: {key}' for key in rest),
  )


def total(parts: Sequence[Report]) -> Report:
  """The reports of several files as one."""
  return Report(
    comparisons=tuple(c for part in parts for c in part.comparisons),
    num_keys=sum(part.num_keys for part in parts),
    num_inputs=sum(part.num_inputs for part in parts),
    not_compared=tuple(key for part in parts for key in part.not_compared),
  )
