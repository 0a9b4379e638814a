"""The least time of a step and its all-reduces, over cores and batches.

PYTHONPATH=.:.venv/libtpu python benchmarks/step_by_cores.py \\
  [--images=1,8,32,64] [--check=v3-512,8] [--output=FILE.json] [OVERRIDES ...]

What the compiler says of a step that is replicated over the cores depends on
the images of a core, not on the number of cores: `--images` are compiled for
the eight cores of a v3-8, by the verb `plan`, and `--check` for another slice,
which must give the same. Between two compiled numbers of images the time is a
line; above the last one that fits, and below one image a core, there is none.

This is not how a step scales. The compiler charges an all-reduce only what a
core reads and writes, nothing for the network between the cores. Each core
gives `bytes` to the all-reduces of a step: a ring sends and receives twice
that, as many times as there are all-reduces it waits for all cores.
"""

import json
import subprocess
import sys

import numpy as np

from benchmarks import results_file

CORES = [8, 32, 64, 128, 256, 512, 1024, 2048]
BATCHES = [2**n for n in range(9, 17)]  # 512 to 65,536


def plan(topology, cores, images, overrides):
  """One row of the result; None if the step does not fit a core."""
  command = [sys.executable, '-m', 'byol_jax', 'plan', '--json', '--once']
  command += ['--config=pretrain:1000', f'--topology={topology}', *overrides]
  command += [f'--config.batch_size={cores * images}']
  print('$', *command[1:], flush=True)
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
  if done.returncode == 1:
    return None
  done.check_returncode()
  found = json.loads(done.stdout.splitlines()[-1])
  kinds = found['collectives']
  reduces = kinds.pop('all-reduce', {'operations': 0, 'bytes': 0})
  row = {
    'topology': topology,
    'images_of_a_core': images,
    'optimal_ms': round(1e3 * found['compiler_optimal_seconds'], 3),
    'million_cycles': round(found['estimated_cycles'] / 1e6, 3),
    'gb_accessed': round(found['bytes_accessed'] / 1e9, 3),
    'gflop': round(found['flops'] / 1e9, 1),
    'memory_gb': round(found['memory_bytes'] / 1e9, 3),
    'all_reduces': reduces['operations'],
    'all_reduce_bytes': reduces['bytes'],
    'other_collectives': kinds,
    'lower_seconds': found['lower_seconds'],
    'compile_seconds': found['compile_seconds'],
    'libtpu': found['versions']['libtpu'],
  }
  print(row, flush=True)
  return row


def fill_table(rows):
  """{cores: {batch: ms, or why there is none}} from rows of one slice."""
  rows = sorted(rows, key=lambda row: row['images_of_a_core'])
  images = [row['images_of_a_core'] for row in rows]
  times = [row['optimal_ms'] for row in rows]

  def look_up(cores, batch):
    if batch < cores:
      return 'less than an image'
    if batch / cores > images[-1]:
      return f'above {images[-1]} images'
    if batch / cores < images[0]:
      return f'below {images[0]} images'
    return round(float(np.interp(batch / cores, images, times)), 2)

  return {n: {batch: look_up(n, batch) for batch in BATCHES} for n in CORES}


def compare(rows, checked):
  """Relative difference of each figure to that of as many images on v3-8."""
  same = {row['images_of_a_core']: row for row in rows}
  other = same[checked['images_of_a_core']]
  keys = ('optimal_ms', 'gb_accessed', 'gflop', 'memory_gb')
  keys += ('all_reduces', 'all_reduce_bytes')
  return {key: checked[key] / other[key] - 1 for key in keys}


def main():
  parser = results_file.make_parser(__doc__)
  parser.add_argument('--images', default='1,8,32,64')
  parser.add_argument('--check', default='v3-512,8')
  arguments, overrides = parser.parse_known_args()
  found = {
    images: plan('v3-8', 8, images, overrides)
    for images in map(int, arguments.images.split(','))
  }
  rows = [row for row in found.values() if row]
  result = {
    'what': "the compiler's least time of a step on TPU v3, ms, and the"
    ' all-reduces of a core; nothing is charged for the network',
    'rule': 'the images of a core decide; a line between those compiled',
    'compiled': rows,
    'do_not_fit': [images for images, row in found.items() if not row],
    'table_ms': fill_table(rows),
  }
  if arguments.check:
    topology, images = arguments.check.split(',')
    cores = int(topology.removeprefix('v3-'))
    checked = plan(topology, cores, int(images), overrides)
    result |= {'checked': checked, 'check_minus_rule': compare(rows, checked)}
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
