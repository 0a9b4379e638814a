"""What a run would take on a pod, from its real step compiled for it.

Nothing here touches an accelerator: libtpu compiles without one.
"""

import argparse
import importlib.util
import json
import os

from byol_jax import configuration, errors
from byol_jax.planning import topologies

LIBTPU = 'libtpu==0.0.51'  # that the figures in benchmarks/results are of


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
  """Plans, or only checks what a plan would be made from.

  Args:
    arguments: of the verb.
    overrides: of the configuration, as they were given.

  Raises:
    ConfigError: a value, the topology or the batch cannot be used, or libtpu
      is missing.
    DataError: the set is missing.
    CheckFailed: the step does not fit the memory of a device.
  """
  topology = topologies.find_topology(arguments.topology)
  if not 0 < arguments.share <= 1:
    raise errors.ConfigError(
      f'--share: expected a number in (0, 1], found {arguments.share:g}'
    )
  isolate(topology)
  config = configuration.load(arguments.config, overrides)
  check_batch(config.batch_size, topology)
  if arguments.check:
    from byol_jax.planning import check

    found = check.check(config, topology)
    lines = check.described(found)
  else:
    require_libtpu()
    from byol_jax.planning import report

    print(f'compiling for {topology.devices} devices; minutes', flush=True)
    found = report.report(
      config, topology, arguments.share, once=arguments.once
    )
    lines = report.described(found)
  found = {'config': arguments.config, 'overrides': overrides} | found
  print('\n'.join(lines))
  if arguments.json:
    print(json.dumps(found))


def isolate(topology: topologies.Topology) -> None:
  """Keeps JAX and libtpu from looking for chips; before either is imported."""
  os.environ |= {
    'JAX_PLATFORMS': 'cpu',
    # A program out of the cache would not be timed.
    'JAX_ENABLE_COMPILATION_CACHE': 'false',
    'TPU_SKIP_MDS_QUERY': '1',
    # Without chips there is nothing to lock, and several may plan at once.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    # What it would otherwise ask the machine for, and warn about.
    'TPU_ACCELERATOR_TYPE': topology.accelerator_type,
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_LOG_DIR': 'disabled',
  }


def check_batch(batch_size: int, topology: topologies.Topology) -> None:
  """Refuses a global batch that the devices do not divide."""
  if batch_size % topology.devices:
    near = max(1, round(batch_size / topology.devices)) * topology.devices
    raise errors.ConfigError(
      f'batch_size: expected {topology.devices} devices of {topology.name}'
      f' times whole images a device, found {batch_size}; nearest: {near}'
    )


def require_libtpu() -> None:
  """Refuses to plan without the compiler."""
  if importlib.util.find_spec('libtpu') is None:
    raise errors.ConfigError(
      'plan: needs the compiler for TPUs, which no run does; pip install'
      f' {LIBTPU}, or add --check'
    )
