"""What a scan over equal residual blocks saves in compiling, and costs.

PYTHONPATH=.:.venv/libtpu python benchmarks/scan_blocks.py [--output=FILE.json]

The blocks of a stage of ResNet-200 are alike, so a loop over their stacked
parameters is a shorter program. A chain of bottleneck blocks of the third stage
(8 images, 14 x 14 x 1024), with gradient and update, is compiled for TPU v3 as
it is, as a `lax.scan` over stacked parameters, and over parameters stacked in
the step, as a state with the parameters' public names needs it. Two minutes.

The compiler counts the body of a loop once. What is outside of it grows with
the blocks, so two lengths tell both: f(2n) = 2 outside + body, f(n) = outside +
body; a step of 2n blocks takes 2 outside + 2n body.
"""

import re
import time

import jax
import jax.numpy as jnp

from benchmarks import results_file
from byol_jax.planning import compile as planning, topologies

LENGTHS = (12, 24)
CHANNELS, NARROW, BATCH, SIDE = 1024, 256, 8, 14
SHAPES = {
  'first': (1, 1, CHANNELS, NARROW),
  'scale1': (NARROW,),
  'second': (3, 3, NARROW, NARROW),
  'scale2': (NARROW,),
  'third': (1, 1, NARROW, CHANNELS),
  'scale3': (CHANNELS,),
}


def convolve(x, w):
  layout = ('NHWC', 'HWIO', 'NHWC')
  return jax.lax.conv_general_dilated(
    x, w, (1, 1), 'SAME', dimension_numbers=layout
  )


def normalize(x, scale):
  mean = x.mean((0, 1, 2))
  variance = (x * x).mean((0, 1, 2)) - mean * mean
  return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * scale


def block(x, p):
  y = jax.nn.relu(normalize(convolve(x, p['first']), p['scale1']))
  y = jax.nn.relu(normalize(convolve(y, p['second']), p['scale2']))
  return jax.nn.relu(x + normalize(convolve(y, p['third']), p['scale3']))


def chain(blocks, x):
  for p in blocks:
    x = block(x, p)
  return (x**2).mean()


def scan(stacked, x):
  x, _ = jax.lax.scan(lambda x, p: (block(x, p), None), x, stacked)
  return (x**2).mean()


def scan_list(blocks, x):
  return scan(jax.tree.map(lambda *rows: jnp.stack(rows), *blocks), x)


def compile_update(loss, params, x):
  def update(params, x):
    gradients = jax.grad(loss)(params, x)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)

  lowered = jax.jit(update, donate_argnums=0).lower(params, x)
  began = time.monotonic(), time.process_time()
  compiled = lowered.compile()
  seconds, cpu = time.monotonic() - began[0], time.process_time() - began[1]
  cycles = re.findall(r'estimated_cycles":"(\d+)', compiled.as_text())
  return {
    'compile_seconds': round(seconds, 1),
    'compile_cpu_seconds': round(cpu, 1),
    'optimal_ms': round(1e3 * compiled.cost_analysis()['optimal_seconds'], 3),
    'million_cycles': round(sum(map(int, cycles)) / 1e6, 3),
    'temp_mb': round(compiled.memory_analysis().temp_size_in_bytes / 1e6),
  }


def main():
  arguments = results_file.make_parser(__doc__).parse_args()
  topology = topologies.find_topology('v3-8')
  planning.isolate_libtpu(topology)
  device = planning.describe_devices(topology)[0]
  sharding = jax.sharding.SingleDeviceSharding(device)

  def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

  def params(*lead):
    return {name: array(*lead, *shape) for name, shape in SHAPES.items()}

  x = array(BATCH, SIDE, SIDE, CHANNELS)
  found = {}
  for n in LENGTHS:
    blocks = [params() for _ in range(n)]
    found[n] = {
      'chain': compile_update(chain, blocks, x),
      'scan': compile_update(scan, params(n), x),
      'scan of a list': compile_update(scan_list, blocks, x),
    }
    print(n, found[n], flush=True)
  _, long = LENGTHS
  whole = {}
  for name in found[long]:
    for key in ('optimal_ms', 'million_cycles'):
      few, many = (found[n][name][key] for n in LENGTHS)
      outside = many - few
      body = few - outside
      whole.setdefault(name, {})[key] = round(
        many if name == 'chain' else 2 * outside + long * body, 3
      )
  result = {
    'what': 'a chain of blocks against loops over them, TPU v3',
    'libtpu': planning.read_libtpu_version(),
    'by_number_of_blocks': found,
    f'step_of_{long}_blocks': whole,
  }
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
