"""The TPU slices of Google Cloud that this project is planned for.

One table for what plans a run and what launches it; a test holds each row to
what the compiler's own description of the slice says. A device is what JAX
calls one: a core of v3 (two a chip), a chip of all later generations. What was
not found in print is None.

Sources. Chips: cloud.google.com/tpu/docs/{v3,v4,v5e,v5p-training,v6e}, values a
chip: v3 123 TFLOP/s bfloat16, 32 GiB at 900 GB/s; v4 275, 32 GiB, 1200; v5e
197, 16 GB, 819; v5p 459, 95 GB, 2765; v6e 918, 32 GB, 1638. What the compiler
leaves to a program shows that those GB of memory are GiB, v5p's rounded. Hosts:
the page of v5e, and the machine families of the cluster autoscaler of
Kubernetes; they are GKE's machines, a Cloud TPU host may have more. Labels:
cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus. Runtimes:
cloud.google.com/tpu/docs/runtimes.
"""

import difflib
import math
from typing import NamedTuple

from byol_jax import errors

GIB = 2**30
GB = 10**9


class Topology(NamedTuple):
  """A slice: what to ask for, and what is in it."""

  name: str  # as gcloud says it: 'v3-512', 'v5litepod-256'
  accelerator_type: str  # of gcloud's --accelerator-type
  generation: str  # 'v3'
  chips: int
  devices: int  # that JAX sees
  hosts: int
  devices_per_host: int
  grid: str  # of chips, as GKE and the compiler say it: '16x16'
  runtime_version: str  # of gcloud's --version
  aot_name: str  # of get_topology_desc: 'v3:16x16'
  aot_options: tuple[tuple[str, object], ...]  # its keywords
  hbm_bytes: int  # of a device, as are the next three
  usable_bytes: int  # of it, that the compiler leaves to a program
  peak_flops: float  # a second, bfloat16
  hbm_bandwidth: float  # bytes a second
  host_memory_bytes: int | None
  host_cpus: int | None  # virtual ones
  gke_machine: str | None  # machine type of a node
  gke_accelerator: str | None  # cloud.google.com/gke-tpu-accelerator

  @property
  def chips_per_host(self) -> int:
    """What a node's google.com/tpu counts."""
    return self.chips // self.hosts


class _Generation(NamedTuple):
  """What all slices of a generation share; hardware of one chip."""

  prefix: str  # of the accelerator type, and what it counts:
  counted_per_chip: int
  devices_per_chip: int
  hbm_gib: float
  peak_flops: float
  hbm_bandwidth: float
  usable_gib: float  # of a device
  runtime_version: str
  gke_machines: str  # without the chips of a host, '-4t'
  gke_accelerator: str
  grids: str
  aot_options: tuple[tuple[str, object], ...] = ()


_GRIDS_2D = '1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16'
_GRIDS_3D = '2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8'

_GENERATIONS = {
  'v3': _Generation(
    *('v3', 2, 2, 32, 123e12, 900e9, 15.48),
    *('tpu-ubuntu2204-base', 'ct3p-hightpu', 'tpu-v3-slice'),
    '2x2 4x4 4x8 8x8 8x16 16x16',
  ),
  'v4': _Generation(
    *('v4', 2, 1, 32, 275e12, 1200e9, 30.75),
    *('tpu-ubuntu2204-base', 'ct4p-hightpu', 'tpu-v4-podslice', _GRIDS_3D),
    # Without these two, the compiler describes cores and other hosts.
    (('chip_config_name', 'megacore'), ('chips_per_host_bounds', (2, 2, 1))),
  ),
  'v5e': _Generation(
    *('v5litepod', 1, 1, 16, 197e12, 819e9, 15.75),
    *('v2-alpha-tpuv5-lite', 'ct5lp-hightpu', 'tpu-v5-lite-podslice'),
    _GRIDS_2D,
  ),
  'v5p': _Generation(
    *('v5p', 2, 1, 95, 459e12, 2765e9, 95.73),
    *('v2-alpha-tpuv5', 'ct5p-hightpu', 'tpu-v5p-slice', _GRIDS_3D),
  ),
  'v6e': _Generation(
    *('v6e', 1, 1, 32, 918e12, 1638e9, 31.24),
    *('v2-alpha-tpuv6e', 'ct6e-standard', 'tpu-v6e-slice', _GRIDS_2D),
  ),
}

# GKE's machine -> virtual CPUs, GB of memory.
_MACHINES = {
  'ct3-hightpu-4t': (96, 340),
  'ct3p-hightpu-4t': (48, 340),
  'ct4p-hightpu-4t': (240, 407),
  'ct5lp-hightpu-1t': (24, 48),
  'ct5lp-hightpu-4t': (112, 192),
  'ct5lp-hightpu-8t': (224, 384),
  'ct5p-hightpu-4t': (208, 448),
  'ct6e-standard-1t': (44, 176),
  'ct6e-standard-4t': (180, 720),
  'ct6e-standard-8t': (180, 1440),
}

# A host has four chips, but for these slices of a single host.
_OTHER_HOSTS = {(name, chips) for name in ('v5e', 'v6e') for chips in (1, 8)}


def _row(generation: str, grid: str) -> Topology:
  facts = _GENERATIONS[generation]
  chips = math.prod(map(int, grid.split('x')))
  has_other_host = (generation, chips) in _OTHER_HOSTS
  chips_per_host = chips if has_other_host else 4
  devices = chips * facts.devices_per_chip
  hosts = chips // chips_per_host
  machine = f'{facts.gke_machines}-{chips_per_host}t'
  accelerator = facts.gke_accelerator
  if (generation, hosts) == ('v3', 1):  # GKE's other product
    machine, accelerator = 'ct3-hightpu-4t', 'tpu-v3-device'
  options = facts.aot_options
  if has_other_host:
    bounds = (*map(int, grid.split('x')), 1)
    options = (('chips_per_host_bounds', bounds),)
  cpus, memory = _MACHINES[machine]
  name = f'{facts.prefix}-{chips * facts.counted_per_chip}'
  return Topology(
    name=name,
    accelerator_type=name,
    generation=generation,
    chips=chips,
    devices=devices,
    hosts=hosts,
    devices_per_host=devices // hosts,
    grid=grid,
    runtime_version=facts.runtime_version,
    aot_name=f'{generation}:{grid}',
    aot_options=options,
    hbm_bytes=int(facts.hbm_gib * GIB) // facts.devices_per_chip,
    usable_bytes=int(facts.usable_gib * GIB),
    peak_flops=facts.peak_flops / facts.devices_per_chip,
    hbm_bandwidth=facts.hbm_bandwidth / facts.devices_per_chip,
    host_memory_bytes=memory * GB,
    host_cpus=cpus,
    gke_machine=machine,
    gke_accelerator=accelerator,
  )


TOPOLOGIES = {
  row.name: row
  for generation, facts in _GENERATIONS.items()
  for row in (_row(generation, grid) for grid in facts.grids.split())
}


def find(text: str) -> Topology:
  """A slice by the name that gcloud, the compiler or people give it.

  Args:
    text: 'v3-512', 'v3:16x16', 'v5litepod-256' or 'v5e-256'.

  Raises:
    ConfigError: none of them; names those that are near.
  """
  names = dict(TOPOLOGIES)
  names |= {row.aot_name: row for row in TOPOLOGIES.values()}
  names |= {
    f'v5e-{row.chips}': row
    for row in TOPOLOGIES.values()
    if row.generation == 'v5e'
  }
  if text in names:
    return names[text]
  near = difflib.get_close_matches(text, names, n=4, cutoff=0.6)
  which = (
    f'nearest: {", ".join(near)}'
    if near
    else (f'known: {", ".join(TOPOLOGIES)}')
  )
  raise errors.ConfigError(
    "topology: expected a slice such as 'v3-512' or 'v3:16x16', found"
    f' {text!r}; {which}'
  )
