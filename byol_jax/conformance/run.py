"""Compares this implementation with what the reference computed.

The verb `conformance DIR`. DIR holds `primitives.npz` (single functions) and
any number of runs, each three files `<tag>.config.json`, `<tag>.pkl` (a
checkpoint) and `<tag>.npz` (batches and results). Everything goes through the
functions that training uses, on CPUs in float32.
"""

from collections.abc import Callable, Iterable, Mapping
import contextlib
import dataclasses
from pathlib import Path
import zipfile

import jax
import numpy as np

from byol_jax import errors
from byol_jax.conformance import compare, primitives, steps

PRIMITIVES = 'primitives'
ENDINGS = ('.config.json', '.pkl', '.npz')


@dataclasses.dataclass
class Report:
  """All comparisons, and the keys that took part in none."""

  comparisons: list[compare.Comparison] = dataclasses.field(
    default_factory=list
  )
  not_compared: list[str] = dataclasses.field(default_factory=list)
  num_keys: int = 0
  num_inputs: int = 0

  @property
  def num_compared(self) -> int:
    """Number of keys that were compared with ours."""
    return self.num_keys - self.num_inputs - len(self.not_compared)

  def add_file(
    self,
    name: str,
    arrays: Mapping[str, np.ndarray],
    found: Iterable[compare.Comparison],
    is_input: Callable[[str], bool],
  ) -> None:
    """Adds a file's comparisons, and the keys that they leave out."""
    comparisons = list(found)
    rest = arrays.keys() - {comparison.key for comparison in comparisons}
    inputs = {key for key in rest if is_input(key)}
    self.comparisons += comparisons
    self.num_keys += len(arrays)
    self.num_inputs += len(inputs)
    self.not_compared += [f'{name}: {key}' for key in sorted(rest - inputs)]

  def lines(self) -> list[str]:
    """Returns the table and the numbers of keys."""
    return [
      *compare.format_table(self.comparisons),
      f'{self.num_keys} keys: {self.num_compared} compared,'
      f' {self.num_inputs} used as input,'
      f' {len(self.not_compared)} not compared',
      *(f'  not compared: {key}' for key in self.not_compared),
    ]


def run(folder: str) -> None:
  """Prints the comparison with every vector in a folder.

  Call it before a device is used: it starts the CPU devices that the vectors
  need.

  Raises:
    CheckFailed: a difference exceeds the tolerance, or nothing was compared.
    DataError: the folder is missing or holds no vectors, or a tag lacks a file.
  """
  report = compare_folder(folder)
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


def compare_folder(folder: str) -> Report:
  """Compares with every vector in a folder; raises DataError as `run`."""
  root = Path(folder)
  tags = find_tags(root)
  files = {tag: read_arrays(root / f'{tag}.npz') for tag in tags}
  counts = {tag: steps.count_devices(arrays) for tag, arrays in files.items()}
  devices = start_cpu_devices(max(counts.values(), default=1))
  report = Report()
  with jax.default_device(devices[0]):
    path = root / f'{PRIMITIVES}.npz'
    if path.is_file():
      arrays = read_arrays(path)
      found = primitives.compare_primitives(arrays)
      report.add_file(path.name, arrays, found, primitives.is_input)
    for tag, arrays in files.items():
      found = steps.compare_run(tag, root, arrays, devices[: counts[tag]])
      report.add_file(f'{tag}.npz', arrays, found, steps.is_input)
  return report


def find_tags(root: Path) -> list[str]:
  """Returns the names of runs.

  Raises:
    DataError: the folder does not exist or holds nothing to compare, or a file
      of a run is missing.
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
  expected = [tag + ending for tag in sorted(tags) for ending in ENDINGS]
  for name in expected or [f'{PRIMITIVES}.npz']:
    if name not in present:
      raise errors.DataError(
        f'{root}: expected {name}, found none; a folder of vectors has'
        f' {PRIMITIVES}.npz or <tag>.config.json, <tag>.pkl and <tag>.npz'
      )
  return sorted(tags)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
  """Returns the arrays of an npz file; refuses pickled ones.

  Raises:
    DataError: the file is damaged.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      return {key: file[key] for key in file.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise errors.DataError(f'{path}: not an npz of numbers: {error}') from error


def start_cpu_devices(count: int) -> list[jax.Device]:
  """Returns at least `count` CPU devices.

  Raises:
    CheckFailed: JAX has started already, with fewer.
  """
  # Refused once a device was used; never fewer than the environment asks for.
  with contextlib.suppress(RuntimeError):
    configured: int = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    jax.config.update('jax_num_cpu_devices', max(count, configured))
    jax.config.update('jax_platforms', 'cpu')
  devices = jax.devices('cpu')
  if len(devices) < count:
    raise errors.CheckFailed(
      f'the vectors need {count} CPU devices and JAX has started with'
      f' {len(devices)}: set JAX_NUM_CPU_DEVICES={count}'
    )
  return devices
