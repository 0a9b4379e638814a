"""How fast this machine makes the views of a set, beside what others take.

Every row is measured in the same process on the same images, which lie in
memory: in turn, several rounds, medians. A process of its own for each number
of cores, held to them.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
from typing import Any

import numpy as np

from byol_jax import configuration, errors
from byol_jax.tools import bench_rows
from byol_jax.training import provenance

PAPER_RATE = 44_485  # images/s: 1000 epochs of ImageNet in 8 hours (spec 7)
_HOSTS = (96, 48)  # virtual cores of hosts that people rent
_LATE = 300_000  # the step that a seek is measured at


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
  """Measures, prints the table and the verdict, or one line of JSON.

  Args:
    arguments: of the verb.
    overrides: of the configuration, as they were given.
  """
  config = configuration.load(arguments.config, overrides)
  if arguments.rounds < 1:
    raise errors.ConfigError(
      f'--rounds: expected at least 1, found {arguments.rounds}'
    )
  if arguments.cores:
    found = measure(config, arguments.cores, arguments.rounds)
    print(json.dumps(found))
    return
  everything = len(usable())
  counts = sorted({1, min(2, everything), everything})
  argv = [
    f'--config={arguments.config}',
    f'--rounds={arguments.rounds}',
    *overrides,
  ]
  results = [child(argv, cores) for cores in counts]
  report = {
    'config': arguments.config,
    'overrides': overrides,
    'machine': machine(),
    'versions': provenance.versions(),
    'results': results,
    'verdict': verdict(results),
  }
  if arguments.json:
    print(json.dumps(report))
    return
  for line in described(report):
    print(line)


def usable() -> list[int]:
  """The cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def child(argv: list[str], cores: int) -> dict[str, Any]:
  """What a process of its own measures on so many cores.

  Raises:
    UserError: that of the process, with its line and exit code.
  """
  command = [sys.executable, '-m', 'byol_jax', 'bench', 'input', *argv]
  done = subprocess.run(
    [*command, f'--cores={cores}'], capture_output=True, text=True, check=False
  )
  if done.returncode:
    lines = done.stderr.splitlines() or [f'exit code {done.returncode}']
    kinds = (errors.CheckFailed, errors.ConfigError, errors.DataError)
    kind = {k.exit_code: k for k in kinds}.get(
      done.returncode, errors.DataError
    )
    raise kind(lines[-1].removeprefix('byol_jax: '))
  return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(config: Any, cores: int, rounds: int) -> dict[str, Any]:
  """All rows on the first `cores` cores; images/s, medians over rounds.

  Raises:
    ConfigError: there are not so many cores.
    DataError: the set cannot be opened, or gives no encoded images.
  """
  if cores > len(usable()):
    raise errors.ConfigError(
      f'--cores: expected at most {len(usable())}, found {cores}'
    )
  if hasattr(os, 'sched_setaffinity'):
    # Before any thread is made: those that exist stay where they are.
    os.sched_setaffinity(0, usable()[:cores])
  sample, facts = bench_rows.sample(config)
  rows = bench_rows.rows(config, sample, cores)
  before = memory()
  rates: dict[str, list[float]] = {name: [] for name in rows}
  for _ in range(rounds):
    for name, row in rows.items():
      rates[name].append(row())
  # Interpolation was timed on one core.
  rates[bench_rows.INTERPOLATION] = [
    cores * rate for rate in rates[bench_rows.INTERPOLATION]
  ]
  rates = floor(rates)
  decoding = np.array(rates[bench_rows.DECODING])
  return {
    'cores': cores,
    'rounds': rounds,
    'images': facts,
    'images_per_second': {k: float(np.median(v)) for k, v in rates.items()},
    # Of the rounds, which share what else the machine does.
    'of_decoding': {
      k: float(np.median(np.array(v) / decoding)) for k, v in rates.items()
    },
    'of_official': of_official(rates),
    'peak_gib': memory() / 2**30,
    'before_gib': before / 2**30,
    'seek_seconds': {
      str(step): bench_rows.seek(config, step) for step in (0, _LATE)
    },
  }


def floor(rates: dict[str, list[float]]) -> dict[str, list[float]]:
  """The rates with the floor: a decoding and two interpolations an image."""
  first, second = bench_rows.DECODING, bench_rows.INTERPOLATION
  both = [1 / (1 / a + 1 / b) for a, b in zip(rates[first], rates[second])]
  parts = {first: rates[first], second: rates[second], bench_rows.FLOOR: both}
  return parts | {k: v for k, v in rates.items() if k not in parts}


def of_official(rates: dict[str, list[float]]) -> dict[str, float]:
  """Rates beside the official recipe's, where the set could be fed to it."""
  official = np.array(rates.get(bench_rows.OFFICIAL, []))
  if not len(official):
    return {}
  return {k: float(np.median(np.array(v) / official)) for k, v in rates.items()}


def memory() -> int:
  """The most resident memory that this process has had, bytes."""
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return most if sys.platform == 'darwin' else most * 1024


def machine() -> dict[str, Any]:
  """The processor by name, and the cores that may be used."""
  name = platform.processor()
  # Not Linux, or a processor that does not say.
  with contextlib.suppress(OSError, IndexError):
    with open('/proc/cpuinfo') as file:
      names = [line for line in file if line.startswith('model name')]
    name = names[0].partition(':')[2].strip()
  return {'processor': name, 'cores': len(usable())}


def verdict(results: list[dict[str, Any]]) -> dict[str, Any]:
  """Cores and hosts for the paper's rate and twice that, by row."""
  last = results[-1]
  found: dict[str, Any] = {}
  for name in (bench_rows.CONFIGURED, bench_rows.DECODED):
    if name not in last['images_per_second']:
      continue
    per_core = last['images_per_second'][name] / last['cores']
    found[name] = {}
    for demand in (PAPER_RATE, 2 * PAPER_RATE):
      cores = int(np.ceil(demand / per_core))
      hosts = {f'hosts_of_{n}': -(-cores // n) for n in _HOSTS}
      found[name][str(demand)] = {
        'cores': cores,
        'machines_like_this': -(-cores // last['cores']),
        **hosts,
      }
  return found


def described(report: dict[str, Any]) -> list[str]:
  """The report in words."""
  images = report['results'][0]['images']
  lines = [
    f'{report["machine"]["processor"]}, {report["machine"]["cores"]} cores;'
    f' {images["count"]} images of {images["dataset"]}, mean'
    f' {images["mean_bytes"] / 2**10:.0f} KiB and'
    f' {images["mean_megapixels"]:.3f} megapixels; two views of'
    f' {images["image_size"]} pixels'
  ]
  for result in report['results']:
    lines += ['', f'{result["cores"]} core' + 's' * (result['cores'] > 1)]
    lines += [f'{"":38}{"images/s":>9}{"of decoding":>13}{"of official":>13}']
    for name, rate in result['images_per_second'].items():
      beside = result['of_official'].get(name)
      lines.append(
        f'{name:38}{rate:9.0f}{result["of_decoding"][name]:13.2f}'
        + (f'{beside:13.2f}' if beside else '')
      )
    late = result['seek_seconds'][str(_LATE)]
    lines.append(
      f'peak memory {result["peak_gib"]:.2f} GiB'
      f' ({result["before_gib"]:.2f} with the images, before the first row);'
      f' first batch at step {_LATE:,} of as many images as ImageNet has:'
      f' {late:.2f} s'
    )
  lines.append('')
  for name, by_rate in report['verdict'].items():
    for demand, need in by_rate.items():
      lines.append(
        f'{int(demand):,} images/s, {name}: {need["cores"]:,} cores like'
        f' these: {need["hosts_of_96"]} hosts of 96, {need["hosts_of_48"]} of'
        f' 48, or {need["machines_like_this"]} machines like this'
      )
  return lines
