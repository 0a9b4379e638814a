"""Measures how fast this machine makes batches: the verb `bench input`.

All rows use the same images in one process, in turn, for several rounds;
results are medians. Each number of cores has its own process, restricted to
them.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time
from typing import Any

import numpy as np

from byol_jax import configuration, errors
from byol_jax.data import from_config
from byol_jax.data.loading import decode, image_set, tf_engine
from byol_jax.data.loading.tf_engine import tf
from byol_jax.data.sampling import crops, resize, views
from byol_jax.data.sources import base
from byol_jax.tools import spread
from byol_jax.training import provenance

PAPER_RATE = 44_485  # images/s: 1000 epochs of ImageNet in 8 hours
BATCH = 64
MAX_IMAGES = 400  # of the set
SKIPPED = 4  # results before the clock starts: the pipeline fills
HOST_CORES = (96, 48)  # virtual, of hosts that can be rented

DECODING = 'decoding alone'
INTERPOLATION = 'two interpolations alone'
FLOOR = 'floor: these two, one after the other'
TENSORFLOW = "decoding, two of TensorFlow's resizes"
OFFICIAL = 'the official recipe'
CONFIGURED = 'as configured, from memory'
SOURCE = 'as configured, from the source'
DECODED = 'from the decoded cache'


def run(
  spec: str,
  overrides: list[str],
  *,
  rounds: int = 5,
  cores: int = 0,
  as_json: bool = False,
) -> None:
  """Measures, and prints a table and the cores that the paper's rate needs.

  With `cores` in this process on that many, and prints JSON; 0 starts a process
  for one core, for two and for all. `as_json` prints one line in place of the
  table.

  Raises:
    ConfigError: a value cannot be used.
    DataError: the set cannot be opened, or has no encoded images.
  """
  config = configuration.load(spec, overrides)
  if cores:
    print(json.dumps(measure_rates(config, cores, rounds)))
    return
  available = len(available_cores())
  arguments = [f'--config={spec}', f'--rounds={rounds}', *overrides]
  results = [
    _measure_in_process(arguments, count)
    for count in sorted({1, min(2, available), available})
  ]
  report = {
    'config': spec,
    'overrides': overrides,
    'machine': {'processor': _processor_name(), 'cores': available},
    'versions': provenance.list_versions(),
    'results': results,
    'verdict': count_needed_cores(results[-1]),
  }
  worst = max(results[-1]['spread'][name] for name in (CONFIGURED, DECODED))
  if reason := spread.explain(worst):
    report |= {'verdict': {}, 'no_verdict': reason}
  print(json.dumps(report) if as_json else '\n'.join(describe_report(report)))


def available_cores() -> list[int]:
  """Returns the cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def _measure_in_process(arguments: list[str], cores: int) -> dict[str, Any]:
  """Raises the error of the process, with its exit code and line."""
  command = [sys.executable, '-m', 'byol_jax', 'bench', 'input', *arguments]
  command.append(f'--cores={cores}')
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    kind = errors.ConfigError if done.returncode == 2 else errors.DataError
    lines = done.stderr.splitlines() or [f'exit code {done.returncode}']
    raise kind(lines[-1].removeprefix('byol_jax: '))
  return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_rates(config: Any, cores: int, rounds: int) -> dict[str, Any]:
  """Measures all rows on the first `cores` cores, images/s.

  Raises:
    ConfigError: the process may not use that many cores.
    DataError: see `run`.
  """
  available = available_cores()
  if cores > len(available):
    raise errors.ConfigError(
      f'--cores: expected at most {len(available)}, found {cores}'
    )
  if hasattr(os, 'sched_setaffinity'):
    # Before any thread starts: threads keep the cores that they started with.
    os.sched_setaffinity(0, available[:cores])
  images, facts = sample_images(config)
  rows = make_rows(config, images, cores)
  measured = [[row() for row in rows.values()] for _ in range(rounds)]
  rates = dict(zip(rows, np.transpose(measured)))
  rates[INTERPOLATION] *= cores  # timed on one
  first = {k: rates.pop(k) for k in (DECODING, INTERPOLATION)}
  floor = 1 / sum(1 / rate for rate in first.values())
  rates = first | {FLOOR: floor} | rates

  def medians(name: str | None = None) -> dict[str, float]:
    """Of the rates, or their ratios to a row of the same round."""
    # In a round, other load on the machine is in both numbers.
    unit = rates[name] if name else 1
    return {k: float(np.median(rate / unit)) for k, rate in rates.items()}

  return {
    'cores': cores,
    'rounds': rounds,
    'images': facts,
    'images_per_second': medians(),
    'spread': {
      name: spread.summarize(rate.tolist())['spread']
      for name, rate in rates.items()
    },
    'of_decoding': medians(DECODING),
    'of_official': medians(OFFICIAL) if OFFICIAL in rates else {},
  }


def sample_images(config: Any) -> tuple[list[bytes], dict[str, Any]]:
  """Returns usable encoded images spread over the training set, and facts.

  Raises:
    DataError: the set gives pixels, or no image can be used.
  """
  source = from_config.open_split(config, 'train')
  count = min(MAX_IMAGES, len(source))
  images, sizes = [], []
  for index in np.linspace(0, len(source) - 1, count, dtype=int):
    # A source may raise any exception; a run would name the image.
    with contextlib.suppress(Exception):
      image, _ = source.read(int(index))
      if isinstance(image, bytes):
        sizes.append((len(image), decode.decode_rgb(image).size / 3e6))
        images.append(image)
  if not images:
    raise errors.DataError(
      f'{errors.quote(source.name)}: expected encoded images that can be used,'
      ' found none'
    )
  mean_bytes, mean_megapixels = np.mean(sizes, axis=0).tolist()
  return images, {
    'dataset': config.dataset,
    'count': len(images),
    'mean_bytes': mean_bytes,
    'mean_megapixels': mean_megapixels,
    'image_size': config.image_size,
  }


class MemorySource(list, base.Source):
  """Images in memory, encoded or decoded, with the label 0."""

  name = fingerprint = 'sample'
  class_names, num_classes, labels = None, 1, None

  def read(self, index: int) -> tuple[Any, int]:
    return self[index], 0

  def file_name(self, index: int) -> str:
    return str(index)


def make_rows(
  config: Any, images: list[bytes], threads: int
) -> dict[str, Callable[[], float]]:
  """Returns the rows of the table: name -> a measurement, images/s."""
  encoded = MemorySource(images)
  pixels = from_config.make_pixel_options(config)
  decoded = MemorySource(map(decode.decode_rgb, images))
  size, crop = config.image_size, config.augment.view1.crop
  crop_range = crops.CropRange(tuple(crop.area), tuple(crop.ratio))

  def ours(
    source: base.Source,
    decoding: str = config.data.decoding,
    transfer: str = config.data.transfer,
  ) -> Callable[[], float]:
    dataset = image_set.ImageSet(
      source,
      engine=functools.partial(tf_engine.decode_into, decoding=decoding),
      image_size=size,
      crop_ranges=[crop_range] * 2,
      eval_crop=config.data.eval_crop,
      transfer=transfer,
      max_bad_share=1.0,
      seed=0,
      pixels=pixels,
      num_threads=threads,
    )
    count = min(len(source), MAX_IMAGES)
    steps = _count_passes(count) * count // BATCH
    return lambda: _time(dataset.view_batches(BATCH, 0, steps), BATCH)

  def mapped(function: Callable, batch: int = 0) -> Callable[[], float]:
    return lambda: _time(_map(function, images, threads, batch), batch or 1)

  graph = functools.partial(_make_views, size=size, crop_range=crop_range)
  rows = {
    DECODING: mapped(_decode),
    INTERPOLATION: lambda: _time_interpolation(
      decoded, crop_range, size, config.data.transfer
    ),
    TENSORFLOW: mapped(functools.partial(graph, official=False)),
  }
  if all(image.startswith(b'\xff\xd8\xff') for image in images):
    rows[OFFICIAL] = mapped(functools.partial(graph, official=True), BATCH)
  return rows | {
    CONFIGURED: ours(encoded),
    SOURCE: ours(from_config.open_split(config, 'train')),
    'data.decoding=crops': ours(encoded, decoding='crops'),
    'data.transfer=uint8': ours(encoded, transfer='uint8'),
    DECODED: ours(decoded),
    'from the decoded cache, uint8': ours(decoded, transfer='uint8'),
  }


def _count_passes(count: int) -> int:
  """Passes over a sample: three, or enough for eight batches."""
  return max(3, -(-8 * BATCH // count))


def _time(results: Iterator[Any], images_each: int) -> float:
  """Returns images/s, without the start and the first results."""
  for _ in range(SKIPPED):
    next(results)
  start = time.perf_counter()
  count = sum(images_each for _ in results)
  return count / (time.perf_counter() - start)


def _map(
  function: Callable, images: list[bytes], threads: int, batch: int
) -> Iterator[Any]:
  """Maps a function over encoded images in tf.data's threads."""
  dataset = tf.data.Dataset.from_tensor_slices(images)
  dataset = dataset.repeat(_count_passes(len(images))).map(
    tf.autograph.experimental.do_not_convert(function),
    num_parallel_calls=threads,
    deterministic=not batch,
  )
  if batch:
    dataset = dataset.batch(batch, drop_remainder=True)
  dataset = dataset.prefetch(2 if batch else threads)
  options = tf_engine.make_pipeline_options(threads)
  return dataset.with_options(options).as_numpy_iterator()


def _time_interpolation(
  images: list, crop_range: crops.CropRange, size: int, dtype: str
) -> float:
  """Returns images/s of two views each from pixels in memory, on one core."""
  ids = np.arange(len(images))
  uniform = crops.draw_uniform(0, crops.PRETRAIN_STREAM, 0 * ids, ids, 2)
  drawn = crops.draw_crops(uniform, [crop_range] * 2)  # float64 [N, 2, 4]
  view = views.View(size, 'whole', crop_range)
  out = np.empty((size, size, 3), dtype)

  def make_views(images: list) -> None:
    for image, pair in zip(images, drawn):
      height, width = image.shape[:2]
      for numbers in pair:
        window = view.resample_window(height, width, numbers)
        resize.resample(image, window, out)

  make_views(images[:1])  # the first call loads what it needs
  start = time.perf_counter()
  make_views(images)
  return len(images) / (time.perf_counter() - start)


def _decode(image: Any) -> Any:
  return tf_engine.decode_image(image, tf.io.is_jpeg(image))


def _draw_window(shape: Any, crop_range: crops.CropRange) -> Any:
  """Draws a crop as the official code does (method.md 3.2), int32 [4]."""
  image = tf.cast(shape[:2], tf.float32)
  area = tf.reduce_prod(image) * tf.random.uniform([], *crop_range.area)
  ratio = tf.exp(tf.random.uniform([], *np.log(crop_range.ratio)))
  sides = tf.round(tf.sqrt(tf.stack([area / ratio, area * ratio])))
  window = tf.cast(tf.clip_by_value(sides, 1, image), tf.int32)
  room = tf.cast(shape[:2] - window + 1, tf.float32)
  offset = tf.cast(tf.random.uniform([2]) * room, tf.int32)
  return tf.concat([offset, window], 0)


def _make_views(
  image: Any, *, size: int, crop_range: crops.CropRange, official: bool
) -> list:
  """Makes two views by TensorFlow: as the official code, or decoding once."""
  if official:
    shape = tf.io.extract_jpeg_shape(image)
  else:
    pixels = _decode(image)
    shape = tf.shape(pixels)
  found = []
  for _ in range(2):
    window = _draw_window(shape, crop_range)
    if official:
      part = tf.image.decode_and_crop_jpeg(image, window, channels=3)
    else:
      y, x, h, w = tf.unstack(window)
      part = pixels[y : y + h, x : x + w]
    view = tf.image.resize(part, [size] * 2, 'bicubic')
    found.append(tf.clip_by_value(view / 255, 0, 1) if official else view)
  return found


def _processor_name() -> str:
  with contextlib.suppress(OSError):  # not Linux
    text = pathlib.Path('/proc/cpuinfo').read_text()
    if match := re.search(r'model name\s*: (.*)', text):
      return match[1]
  return platform.processor()


def count_needed_cores(result: dict[str, Any]) -> dict[str, Any]:
  """Returns cores and hosts for the paper's rate and twice that, by row."""
  needs: dict[str, Any] = {}
  for name in (CONFIGURED, DECODED):
    per_core = result['images_per_second'][name] / result['cores']
    needs[name] = {}
    for demand in (PAPER_RATE, 2 * PAPER_RATE):
      cores = int(np.ceil(demand / per_core))
      hosts = {f'hosts_of_{n}': -(-cores // n) for n in HOST_CORES}
      needs[name][str(demand)] = {'cores': cores, **hosts}
  return needs


def describe_report(report: dict[str, Any]) -> list[str]:
  """Returns a report as lines of text."""
  machine, images = report['machine'], report['results'][0]['images']
  lines = [
    f'{machine["processor"]}, {machine["cores"]} cores; {images["count"]}'
    f' images of {images["dataset"]}, mean {images["mean_bytes"] / 2**10:.0f}'
    f' KiB and {images["mean_megapixels"]:.3f} megapixels; two views of'
    f' {images["image_size"]} pixels'
  ]
  for result in report['results']:
    lines += ['', errors.format_count(result['cores'], 'core')]
    lines += [f'{"":38}{"images/s":>9}{"of decoding":>13}{"of official":>13}']
    ratios = result['of_decoding'], result['of_official']
    lines += [
      f'{name:38}{rate:9.0f}'
      + ''.join(f'{of[name]:13.2f}' for of in ratios if of)
      for name, rate in result['images_per_second'].items()
    ]
  lines += ['', *filter(None, [report.get('no_verdict')])]
  return lines + [
    f'{int(demand):,} images/s, {name}: {need["cores"]:,} cores like these:'
    f' {errors.format_count(need["hosts_of_96"], "host")} of 96,'
    f' {need["hosts_of_48"]} of 48'
    for name, needs in report['verdict'].items()
    for demand, need in needs.items()
  ]
