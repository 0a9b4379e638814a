"""Compares this implementation with what the reference computed.

The verb `conformance DIR`. DIR holds `primitives.npz` (single functions) and
any number of runs, each three files `<tag>.config.json`, `<tag>.pkl` (a
checkpoint) and `<tag>.npz` (batches and results). Everything goes through the
functions that training uses, on CPUs in float32.

It does not see random keys, the distributions of augmentations and crops,
initial weights, bottleneck and v2 blocks, presets but for two schedules, and,
where batches have one device, sums over devices; other tests do.
"""

import collections
from collections.abc import Mapping
import contextlib
import io
from pathlib import Path

import jax
import numpy as np

from byol_jax import errors, files
from byol_jax.conformance import compare, primitives, steps

PRIMITIVES = 'primitives'
ENDINGS = ('.config.json', '.pkl', '.npz')
USES = ('compared', 'used as input', 'not compared')


def run(folder: str) -> None:
  """Prints the comparison with every vector in a folder.

  Call it before a device is used: it starts the CPU devices that the vectors
  need.

  Raises:
    CheckFailed: a difference exceeds the tolerance, or nothing was compared.
    DataError: the folder is missing or holds no vectors, or a tag lacks a file.
  """
  comparisons, keys = compare_folder(folder)
  report = map(errors.to_line, format_report(comparisons, keys))
  print('\n'.join(report), flush=True)
  failed = [found for found in comparisons if not found.holds]
  if failed:
    worst = max(failed, key=lambda found: found.error)
    note = f' ({worst.note})' if worst.note else ''
    raise errors.CheckFailed(
      f'{folder}: {len(failed)} of {len(comparisons)} comparisons above'
      f' {compare.TOLERANCE:g}; worst: {worst.group}, {worst.key}, error'
      f' {worst.error:.2e}{note}'
    )
  if USES[0] not in keys.values():
    raise errors.CheckFailed(f'{folder}: none of {len(keys)} keys was compared')


def format_report(
  comparisons: list[compare.Comparison], keys: Mapping[str, str]
) -> list[str]:
  """Returns the table and the numbers of keys; see `compare_folder`."""
  counts = collections.Counter(keys.values())
  return [
    *compare.format_table(comparisons),
    f'{len(keys)} keys: ' + ', '.join(f'{counts[use]} {use}' for use in USES),
    *(f'  not compared: {key}' for key, use in keys.items() if use == USES[2]),
  ]


def compare_folder(
  folder: str,
) -> tuple[list[compare.Comparison], dict[str, str]]:
  """Compares with every vector in a folder; raises DataError as `run`.

  Returns:
    The comparisons, and {'file: key': one of `USES`}.
  """
  root = Path(folder)
  tags = _find_tags(root)
  has_primitives = (root / f'{PRIMITIVES}.npz').is_file()
  names = [PRIMITIVES, *tags] if has_primitives else tags
  arrays_of = {name: read_arrays(root / f'{name}.npz') for name in names}
  counts = {tag: steps.count_devices(arrays_of[tag]) for tag in tags}
  devices = start_cpu_devices(max(counts.values(), default=1))
  comparisons: list[compare.Comparison] = []
  keys = {}
  with jax.default_device(devices[0]):
    for tag, arrays in arrays_of.items():
      if tag == PRIMITIVES:
        found = list(primitives.compare_primitives(arrays))
        is_input = primitives.is_input
      else:
        found = list(
          steps.compare_run(tag, root, arrays, devices[: counts[tag]])
        )
        is_input = steps.is_input
      comparisons += found
      compared = {comparison.key for comparison in found}
      for key in sorted(arrays):
        uses = key in compared, is_input(key), True
        keys[f'{tag}.npz: {key}'] = USES[uses.index(True)]
  return comparisons, keys


def _find_tags(root: Path) -> list[str]:
  """Returns the names of runs; raises DataError for missing files."""
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
  content = io.BytesIO(files.read_file(path))
  try:
    with np.load(content, allow_pickle=False) as file:
      return {key: file[key] for key in file.files}
  except Exception as error:  # numpy and zipfile raise many kinds
    raise errors.DataError(
      f'{path}: not an npz of numbers: {errors.first_line(error)}'
    ) from error


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
