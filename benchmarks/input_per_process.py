"""What one process can feed from the decoded cache, by its threads.

PYTHONPATH=. python benchmarks/input_per_process.py [--rounds=3] [--output=FILE]

Two views of images in memory, 375 x 500 pixels as ImageNet's on average, by the
threads engine (that of the decoded cache), without JAX and TensorFlow. Resizing
runs outside of Python's lock, what remains runs inside: with views of 8 pixels
almost nothing else is left, so their rate on two or more cores is the most that
one process can feed, however many cores it has. CPU time an image says what one
core can, where other work shares the machine. A minute.
"""

import os
import statistics
import time

import numpy as np

from benchmarks import results_file
from byol_jax.data.loading import image_set, thread_engine
from byol_jax.data.sampling import crops
from byol_jax.data.sources import base

IMAGES, BATCH, STEPS, FIRST = 256, 256, 12, 4
CROP = crops.CropRange((0.08, 1.0), (3 / 4, 4 / 3))


class Noise(list, base.Source):
  """Pixels in memory, with the label 0."""

  name = fingerprint = 'noise'
  class_names, num_classes, labels = None, 1, None

  def read(self, index):
    return self[index], 0

  def file_name(self, index):
    return str(index)


def measure(source, threads, size, transfer):
  """(images/s, microseconds of all cores an image)."""
  dataset = image_set.ImageSet(
    source,
    engine=thread_engine.decode_into,
    image_size=size,
    crop_ranges=[CROP] * 2,
    eval_crop='resize',
    transfer=transfer,
    max_bad_share=0.0,
    seed=0,
    num_threads=threads,
  )
  batches = dataset.view_batches(BATCH, 0, FIRST + STEPS)
  for _ in range(FIRST):
    next(batches)
  began = time.perf_counter(), time.process_time()
  images = BATCH * sum(1 for _ in batches)
  seconds = time.perf_counter() - began[0]
  return images / seconds, 1e6 * (time.process_time() - began[1]) / images


def main():
  parser = results_file.make_parser(__doc__, rounds=3)
  arguments = parser.parse_args()
  generator = np.random.default_rng(0)
  shape = (375, 500, 3)
  source = Noise(
    generator.integers(0, 256, shape, np.uint8) for _ in range(IMAGES)
  )
  cores = len(os.sched_getaffinity(0))
  settings = [
    (threads, size, transfer)
    for size, transfer in ((224, 'float32'), (224, 'uint8'), (8, 'uint8'))
    for threads in (1, 2, 4, 8, 16)
    if threads <= cores
  ]
  found = {setting: [] for setting in settings}
  for _ in range(arguments.rounds):
    for setting in settings:
      found[setting].append(measure(source, *setting))
  rows = []
  for setting, rounds in found.items():
    rate, cpu = map(statistics.median, zip(*rounds))
    row = dict(zip(('threads', 'image_size', 'transfer'), setting))
    row |= {'images_per_second': round(rate), 'cpu_us_an_image': round(cpu, 1)}
    rows.append(row)
  result = {'what': 'one process, two views an image', 'rows': rows}
  results_file.write_result(result, arguments.output)


if __name__ == '__main__':
  main()
