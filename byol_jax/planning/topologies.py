"""Describes the TPU slices of Google Cloud that this project supports.

One table for planning a run and for launching it; needs neither JAX nor
libtpu. A test compares each row with the compiler's own description of the
slice. A device is what JAX calls one: a core of v3 (two a chip), a chip of all
later generations.

Sources. Chips: cloud.google.com/tpu/docs/{v3,v4,v5e,v5p-training,v6e}, values a
chip: v3 123 TFLOP/s bfloat16, 32 GiB at 900 GB/s; v4 275, 32 GiB, 1200; v5e
197, 16 GB, 819; v5p 459, 95 GB, 2765; v6e 918, 32 GB, 1638. The compiler's
limits show that those GB of memory are GiB, v5p's rounded. Labels:
cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus. Runtimes:
cloud.google.com/tpu/docs/runtimes.
"""

import difflib
import math
from typing import NamedTuple

from byol_jax import errors

GIB = 2**30


class Topology(NamedTuple):
  """A TPU slice: how it is requested, and its hardware."""

  name: str  # gcloud's accelerator type, 'v3-512' or 'v5litepod-256'
  generation: str  # 'v3'
  chips: int
  devices: int  # of JAX
  hosts: int
  grid: str  # of chips, as GKE and the compiler write it: '16x16'
  runtime_version: str  # of gcloud's --version
  aot_name: str  # of `get_topology_desc`: 'v3:16x16'
  aot_options: tuple[tuple[str, object], ...]  # keyword arguments of the same
  hbm_bytes: int  # of a device, as are the next three
  usable_bytes: int  # of these, what the compiler gives to a program
  peak_flops: float  # a second, bfloat16
  hbm_bandwidth: float  # bytes a second
  gke_accelerator: str  # cloud.google.com/gke-tpu-accelerator

  @property
  def chips_per_host(self) -> int:
    """The google.com/tpu resource of a GKE node."""
    return self.chips // self.hosts


class _Generation(NamedTuple):
  """What all slices of a generation share; hardware of one chip."""

  prefix: str  # of the accelerator type
  counted_per_chip: int  # in the number of the accelerator type
  devices_per_chip: int
  hbm_gib: int
  peak_flops: float
  hbm_bandwidth: float
  usable_gib: float  # of a device
  runtime_version: str
  gke_accelerator: str
  grids: str


_2D = '1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16'
_3D = '2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8'
_UBUNTU, _ALPHA = 'tpu-ubuntu2204-base', 'v2-alpha-tpu'
# fmt: off
_GENERATIONS = {
  'v3': _Generation('v3', 2, 2, 32, 123e12, 900e9, 15.48, _UBUNTU,
                    'tpu-v3-slice', '2x2 4x4 4x8 8x8 8x16 16x16'),
  'v4': _Generation('v4', 2, 1, 32, 275e12, 1200e9, 30.75, _UBUNTU,
                    'tpu-v4-podslice', _3D),
  'v5e': _Generation('v5litepod', 1, 1, 16, 197e12, 819e9, 15.75,
                     _ALPHA + 'v5-lite', 'tpu-v5-lite-podslice', _2D),
  'v5p': _Generation('v5p', 2, 1, 95, 459e12, 2765e9, 95.73, _ALPHA + 'v5',
                     'tpu-v5p-slice', _3D),
  'v6e': _Generation('v6e', 1, 1, 32, 918e12, 1638e9, 31.24, _ALPHA + 'v6e',
                     'tpu-v6e-slice', _2D),
}
# fmt: on


def _make_topology(generation: str, grid: str) -> Topology:
  facts = _GENERATIONS[generation]
  bounds = tuple(map(int, grid.split('x')))
  chips = math.prod(bounds)
  chips_per_host = 4
  options: dict[str, object] = {}
  if generation == 'v4':
    # Without these two, the compiler describes cores and other hosts.
    options |= {
      'chip_config_name': 'megacore',
      'chips_per_host_bounds': (2, 2, 1),
    }
  elif generation in ('v5e', 'v6e') and chips in (1, 8):  # of a single host
    chips_per_host, options = chips, {'chips_per_host_bounds': (*bounds, 1)}
  accelerator = facts.gke_accelerator
  if (generation, chips) == ('v3', 4):  # a single host is GKE's other product
    accelerator = 'tpu-v3-device'
  return Topology(
    name=f'{facts.prefix}-{chips * facts.counted_per_chip}',
    generation=generation,
    chips=chips,
    devices=chips * facts.devices_per_chip,
    hosts=chips // chips_per_host,
    grid=grid,
    runtime_version=facts.runtime_version,
    aot_name=f'{generation}:{grid}',
    aot_options=tuple(options.items()),
    hbm_bytes=facts.hbm_gib * GIB // facts.devices_per_chip,
    usable_bytes=int(facts.usable_gib * GIB),
    peak_flops=facts.peak_flops / facts.devices_per_chip,
    hbm_bandwidth=facts.hbm_bandwidth / facts.devices_per_chip,
    gke_accelerator=accelerator,
  )


_ROWS = [
  _make_topology(generation, grid)
  for generation, facts in _GENERATIONS.items()
  for grid in facts.grids.split()
]
TOPOLOGIES = {row.name: row for row in _ROWS}


def find_topology(name: str) -> Topology:
  """Returns a slice by gcloud's name, the compiler's or the common one.

  Args:
    name: 'v3-512', 'v3:16x16', 'v5litepod-256' or 'v5e-256'.

  Raises:
    ConfigError: the name is unknown; lists the nearest.
  """
  names = TOPOLOGIES | {row.aot_name: row for row in _ROWS}
  names |= {f'v5e-{r.chips}': r for r in _ROWS if r.generation == 'v5e'}
  if name in names:
    return names[name]
  near = difflib.get_close_matches(name, names, n=4, cutoff=0.6)
  known = ('nearest: ' if near else 'known: ') + ', '.join(near or TOPOLOGIES)
  raise errors.ConfigError(
    "topology: expected a slice such as 'v3-512' or 'v3:16x16', found"
    f' {name!r}; {known}'
  )
