"""The table of TPU slices, and the names by which they are found."""

import importlib.util
import math
import subprocess
import sys

import pytest

from byol_jax import errors
from byol_jax.planning import topologies

ROWS = list(topologies.TOPOLOGIES.values())
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed'
)


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.name)
def test_numbers_of_a_row_agree(row):
  assert math.prod(int(side) for side in row.grid.split('x')) == row.chips
  assert row.aot_name == f'{row.generation}:{row.grid}'
  # gcloud counts cores of these generations, chips of the others.
  counts_cores = row.generation in ('v3', 'v4', 'v5p')
  assert row.name.endswith(f'-{row.chips * (1 + counts_cores)}')
  assert row.devices == row.chips * (2 if row.generation == 'v3' else 1)
  assert row.hosts * row.chips_per_host == row.chips
  # The order of magnitude. 95 GiB is rounded, the compiler's number is not.
  assert 16e9 < row.hbm_bytes < 110e9
  assert 0.9 * row.hbm_bytes < row.usable_bytes < 1.01 * row.hbm_bytes
  assert 5e13 < row.peak_flops < 1e15
  assert 4e11 < row.hbm_bandwidth < 3e12


def test_the_paper_pod():
  pod = topologies.find_topology('v3-512')
  assert (pod.devices, pod.hosts, pod.chips) == (512, 64, 256)
  assert pod.hbm_bytes == 16 * 2**30
  assert pod.gke_accelerator == 'tpu-v3-slice'
  assert topologies.find_topology('v3-8').gke_accelerator == 'tpu-v3-device'


@pytest.mark.parametrize(
  'text, name',
  (
    ('v3-512', 'v3-512'),
    ('v3:2x2', 'v3-8'),
    ('v4:4x8x8', 'v4-512'),
    ('v5litepod-256', 'v5litepod-256'),
    ('v5e-256', 'v5litepod-256'),
    ('v5e:16x16', 'v5litepod-256'),
  ),
)
def test_a_slice_has_several_names(text, name):
  assert topologies.find_topology(text).name == name


@pytest.mark.parametrize(
  'text, near',
  (
    ('v3-511', 'nearest: .*v3-512'),
    ('v3:16x17', 'nearest: .*v3:16x16'),
    ('v5lite-256', 'nearest: .*v5litepod-256'),
    ('v3', "expected a slice such as 'v3-512' or 'v3:16x16', found 'v3'"),
    ('', 'known: v3-8, v3-32'),
  ),
)
def test_an_unknown_slice_lists_the_nearest(text, near):
  with pytest.raises(errors.ConfigError, match=near) as caught:
    topologies.find_topology(text)
  assert '\n' not in str(caught.value)


def test_the_table_needs_only_the_standard_library():
  code = (
    'import byol_jax.planning.topologies, sys;'
    "assert not {'jax', 'numpy', 'libtpu', 'ml_collections'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def run_with_libtpu(code):
  """Returns the printed words of code that runs in another process."""
  head = """
from byol_jax.planning import compile, topologies
compile.isolate_libtpu(topologies.find_topology('v3-512'))
import jax, jax.numpy as jnp
rows = topologies.TOPOLOGIES.values()
"""
  done = subprocess.run(
    [sys.executable, '-c', head + code], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout.split()


@pytest.mark.libtpu
@needs_libtpu
def test_usable_bytes_are_the_limit_of_the_compiler():
  """Of each generation, by a program that cannot fit."""
  code = """
def sort_twice(x):
  y = jnp.sort(jnp.outer(x, x), axis=1)
  return jnp.sum(y * jnp.sort(y, axis=0))
for row in {row.generation: row for row in rows if row.hosts == 1}.values():
  devices = compile.describe_devices(row)
  shape = jax.ShapeDtypeStruct((len(devices), 300_000), jnp.float32)
  try:
    jax.pmap(sort_twice, devices=devices).lower(shape).compile()
  except jax.errors.JaxRuntimeError as error:
    print(row.name, str(error).partition('available HBM (')[2].split('G')[0])
"""
  words = run_with_libtpu(code)
  found = dict(zip(words[::2], map(float, words[1::2]), strict=True))
  assert len(found) == 5
  for name, gib in found.items():
    row = topologies.find_topology(name)
    assert row.usable_bytes == int(gib * 2**30)


@pytest.mark.libtpu
@needs_libtpu
def test_each_row_is_what_the_compiler_describes():
  code = """
for row in rows:
  devices = compile.describe_devices(row)
  assert len({device.device_kind for device in devices}) == 1
  hosts = {device.process_index for device in devices}
  print(row.name, len(devices), len(hosts))
"""
  words = run_with_libtpu(code)
  expected = [(row.name, str(row.devices), str(row.hosts)) for row in ROWS]
  assert list(zip(*[iter(words)] * 3, strict=True)) == expected
