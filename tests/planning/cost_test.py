"""The arithmetic of a plan, and the collectives of a compiled program."""

import json

import pytest

from byol_jax.planning import cost, topologies
from tests.helpers import tiny_run
from tests.helpers.step_cost import make_cost

POD = topologies.find_topology('v3-512')


def test_memory_counts_a_donated_state_once():
  assert make_cost().memory_bytes == 2_060_000_000
  assert make_cost(alias_bytes=0).memory_bytes == 2_510_000_000


@pytest.mark.parametrize(
  'points, expected',
  (
    # 0.5 GB and 0.19 GB an image: 76 fit 15 GB, 77 do not.
    ([(8, 2_020_000_000), (40, 8_100_000_000)], 8 * 76),
    ([(40, 8_100_000_000), (8, 2_020_000_000)], 8 * 76),
    ([(8, 10**9), (16, 10**9)], None),  # memory does not grow
    ([(8, 17 * 10**9), (16, 18 * 10**9)], 0),  # the state alone is too large
    ([(8, 10**9)], 64),  # nothing else was found to fit
  ),
)
def test_the_largest_batch_is_on_a_line(points, expected):
  assert cost.estimate_largest_batch(points, 8, 15 * 10**9) == expected


def test_the_roofline_is_the_slower_of_arithmetic_and_memory():
  assert cost.compute_roofline(make_cost(), POD) == pytest.approx(0.040)
  assert cost.compute_roofline(make_cost(flops=61.5e12), POD) == pytest.approx(
    1.0
  )


@pytest.mark.parametrize(
  'seconds, accepted',
  (
    *((0.021, True), (0.39, True), (0.019, False), (0.41, False)),
    *((0.0, False), (float('nan'), False), (float('inf'), False)),
  ),
)
def test_the_roofline_replaces_an_absurd_optimum(seconds, accepted):
  given = make_cost(optimal_seconds=seconds)
  expected = (cost.compute_roofline(given, POD), cost.ROOFLINE)
  if accepted:
    expected = (seconds, cost.OPTIMUM)
  assert cost.estimate_step_seconds(given, POD) == expected


def test_pace_of_the_paper_run():
  """8 hours, 44,485 images/s, 695 on each of 64 hosts."""
  pace = cost.compute_pace(0.092, 4096, 312_784, POD)
  assert pace['hours'] == pytest.approx(8.0, rel=1e-2)
  assert pace['images_per_second'] == pytest.approx(44_485, rel=1e-2)
  assert pace['host_images_per_second'] == pytest.approx(695, rel=1e-2)
  assert pace['device_hours'] == pytest.approx(512 * pace['hours'])


HLO = """
%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add.1 = f32[]{:T(256)} add(%a, %b), metadata={op_name="all-reduce("}
}
ENTRY %main {
  %all-reduce.7 = (f32[1,64]{1,0:T(2,128)}, /*index=1*/bf16[8]{0:T(256)(2,1)}) \
all-reduce(%x.1, %y.2), channel_id=1, replica_groups={{0,1}}, to_apply=%sum
  %get.1 = f32[1,64]{1,0:T(2,128)} get-tuple-element(%all-reduce.7), index=0
  ROOT %all-reduce.8 = pred[] all-reduce(%z), to_apply=%sum
  %s = (f32[4]{0}, f32[16]{0}) all-gather-start(%get.1), dimensions={0}
  %d = f32[16]{0} all-gather-done(%s)
  %p = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%q)
  %e = f32[4]{0} collective-permute-done(%p)
  %r = f32[4]{0} all-reduce-start(%q), to_apply=%sum
  %f = f32[4]{0} all-reduce-done(%r)
  %fusion.3 = f32[4]{0} fusion(%f), kind=kLoop, calls=%all-reduce.9
}
"""


def test_collectives_are_counted_with_the_bytes_of_their_results():
  assert cost.count_collectives(HLO) == {
    # 64 floats and 8 of 16 bits, a bool, 4 floats.
    'all-reduce': (3, 256 + 16 + 1 + 16),
    'all-gather': (1, 64),
    'collective-permute': (1, 16),
  }
  assert cost.count_collectives('') == {}


def test_cycles_are_those_of_all_operations():
  line = '%f = f32[] fusion(%a), backend_config={"estimated_cycles":"304",'
  assert cost.sum_estimated_cycles(f'{line}\n{HLO}\n{line}') == 608


def test_collectives_of_a_program_of_four_devices():
  """Programs that XLA compiles for CPUs."""
  code = """
import json
import jax, jax.numpy as jnp
from byol_jax.planning import cost
assert jax.device_count() == 4
ring = [(i, (i + 1) % 4) for i in range(4)]
functions = {
  'psum': lambda x: jax.lax.psum(x, 'i'),
  'gather': lambda x: jax.lax.all_gather(x, 'i'),
  'permute': lambda x: jax.lax.ppermute(x, 'i', ring),
  'scatter': lambda x: jax.lax.psum_scatter(x, 'i'),
  'none': lambda x: x + 1,
}
shape = jax.ShapeDtypeStruct((4, 4, 25), jnp.float32)
found = {}
for name, function in functions.items():
  step = jax.pmap(function, axis_name='i')
  found[name] = cost.count_collectives(step.lower(shape).compile().as_text())
print(json.dumps(found))
"""
  process = tiny_run.start_python('-c', code, JAX_NUM_CPU_DEVICES='4')
  found = json.loads(tiny_run.finish(process).splitlines()[-1])
  assert found == {
    'psum': {'all-reduce': [1, 400]},
    'gather': {'all-gather': [1, 1600]},
    'permute': {'collective-permute': [1, 400]},
    'scatter': {'reduce-scatter': [1, 100]},
    'none': {},
  }


def test_bytes_are_those_of_operands_and_results():
  """Of the outermost operations, in bytes: 64 + 64 + 4, then 64 + 32."""
  text = """
%inside (x: f32[16]) -> f32[16] {
  ROOT %y = f32[16]{0} add(%x, %x)
}

ENTRY %main (x: f32[16]) -> (bf16[16]) {
  %x = f32[16]{0} parameter(0)
  %one = f32[] constant(1)
  %sum.1 = (f32[16]{0}, u8[0]{0}) fusion(%x, %one), calls=%inside
  %y = f32[16]{0} get-tuple-element(%sum.1), index=0
  %z = bf16[16]{0} convert(%y), metadata={op_name="f32[4096](%x)"}
  ROOT %all = (bf16[16]{0}) tuple(%z)
}
"""
  assert cost.sum_bytes_accessed(text) == (64 + 64 + 4) + (64 + 32)
  assert cost.sum_bytes_accessed('') == 0
