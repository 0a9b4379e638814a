"""What `bench input` measures: each row makes the views of a sample once."""

from collections.abc import Callable, Iterator
import functools
import time
from typing import Any

import numpy as np

from byol_jax import errors
from byol_jax.data import catalog, from_config
from byol_jax.data.loading import decode, image_set, tf_engine
from byol_jax.data.sampling import crops, resize, views
from byol_jax.data.sources import base
from byol_jax.tools import bench_graphs

DECODING = 'decoding alone'
INTERPOLATION = 'two interpolations alone'
FLOOR = 'floor: these two, one after the other'
TENSORFLOW = "decoding, two of TensorFlow's resizes"
OFFICIAL = 'the official recipe'
CONFIGURED = 'as configured, from memory'
SOURCE = 'as configured, from the source'
DECODED = 'from the decoded cache'
_FIRST = 4
_IMAGES = 400  # of the set, at most

Row = Callable[[], float]  # -> images/s


class Held:
  """Images in memory, encoded or decoded."""

  name, fingerprint = 'sample', 'sample'
  class_names: tuple[str, ...] | None = None
  num_classes: int | None = 1

  def __init__(self, images: list[Any]) -> None:
    self._images = images

  def __len__(self) -> int:
    return len(self._images)

  def read(self, index: int) -> tuple[Any, int]:
    """The image; its label is 0."""
    return self._images[index], 0

  def file_name(self, index: int) -> str:
    """Its number."""
    return str(index)


class Synthetic:
  """An index of ImageNet's size; reading gives always the same image."""

  name, fingerprint = 'synthetic', 'synthetic'
  class_names: tuple[str, ...] | None = None
  num_classes: int | None = 1

  def __len__(self) -> int:
    facts = catalog.find_facts('imagenet2012')
    return facts.num_train if facts else 0

  def read(self, index: int) -> tuple[Any, int]:
    """Grey pixels."""
    return np.full((16, 16, 3), 128, np.uint8), 0

  def file_name(self, index: int) -> str:
    """Its number."""
    return str(index)


def sample(config: Any) -> tuple[list[bytes], dict[str, Any]]:
  """Usable encoded images spread over the training set, and what they are.

  Raises:
    DataError: the set gives pixels, or no image can be used.
  """
  source = from_config.source(config, 'train')
  count = min(_IMAGES, len(source))
  images, sizes = [], []
  for index in np.linspace(0, len(source) - 1, count).astype(int):
    try:
      image, _ = source.read(int(index))
      if not isinstance(image, bytes):
        break
      sizes.append(decode.rgb(image).shape[:2])
      images.append(image)
    except Exception:  # a source may raise anything; a run names it
      continue
  if not images:
    raise errors.DataError(
      f'{source.name}: expected encoded images that can be used, found none'
    )
  return images, {
    'dataset': config.dataset,
    'count': len(images),
    'mean_bytes': float(np.mean([len(image) for image in images])),
    'mean_megapixels': float(np.mean([h * w for h, w in sizes]) / 1e6),
    'image_size': config.image_size,
  }


def rows(config: Any, images: list[bytes], threads: int) -> dict[str, Row]:
  """Name -> one measurement, in the order of the table."""
  encoded = Held(images)
  held = Held([decode.rgb(image) for image in images])
  drawn = _drawn(config, len(images))

  def ours(source: base.Source, **options: Any) -> Row:
    values = {
      'decoding': config.data.decoding,
      'transfer': config.data.transfer,
      **options,
    }
    return lambda: _rate(
      _batches(config, source, threads, **values), bench_graphs.BATCH
    )

  found = {
    DECODING: lambda: _rate(bench_graphs.decoded(images, threads), 1),
    INTERPOLATION: lambda: _interpolated(config, held, drawn),
    TENSORFLOW: lambda: _rate(
      bench_graphs.resized(config, images, drawn, threads), 1
    ),
  }
  if all(image.startswith(b'\xff\xd8\xff') for image in images):
    found[OFFICIAL] = lambda: _rate(
      bench_graphs.official(images, config, threads), bench_graphs.BATCH
    )
  return found | {
    CONFIGURED: ours(encoded),
    SOURCE: ours(from_config.source(config, 'train')),
    'data.decoding=crops': ours(encoded, decoding='crops'),
    'data.transfer=uint8': ours(encoded, transfer='uint8'),
    DECODED: ours(held),
    'from the decoded cache, uint8': ours(held, transfer='uint8'),
  }


def seek(config: Any, step: int) -> float:
  """Seconds to the first batch at a step of a set of ImageNet's size."""
  batches = _batches(config, Synthetic(), 1, start=step)
  began = time.perf_counter()
  next(batches)
  return time.perf_counter() - began


def _rate(results: Iterator[Any], images_each: int) -> float:
  """Images/s once it runs: the first results, and starting, do not count."""
  for _ in range(_FIRST):
    next(results)
  began, count = time.perf_counter(), 0
  for _ in results:
    count += images_each
  return count / (time.perf_counter() - began)


def _drawn(config: Any, count: int) -> np.ndarray:
  """What is drawn for two views of each image, float64 [N, 2, 4]."""
  ids = np.arange(count)
  uniforms = crops.draw_uniform(
    0, crops.PRETRAIN_STREAM, np.zeros_like(ids), ids, 2
  )
  return crops.draw_crops(uniforms, [bench_graphs.crop_range_of(config)] * 2)


def _batches(
  config: Any,
  source: base.Source,
  threads: int,
  *,
  decoding: str = 'once',
  transfer: str = 'float32',
  start: int = 0,
) -> Iterator[Any]:
  data = image_set.ImageSet(
    source,
    engine=functools.partial(tf_engine.decode_into, decoding=decoding),
    image_size=config.image_size,
    crop_ranges=[bench_graphs.crop_range_of(config)] * 2,
    eval_crop=config.data.eval_crop,
    transfer=transfer,
    max_bad_share=1.0,
    seed=0,
    num_threads=threads,
  )
  count = min(len(source), _IMAGES)
  steps = bench_graphs.passes(count) * count // bench_graphs.BATCH
  return data.view_batches(bench_graphs.BATCH, start, steps)


def _interpolated(config: Any, held: Held, drawn: np.ndarray) -> float:
  """Images/s of two pictures each from pixels in memory, on one core."""
  size = config.image_size
  view = views.random_crop(bench_graphs.crop_range_of(config), size)
  out = np.empty((size, size, 3), config.data.transfer)
  began = time.perf_counter()
  for index, numbers in enumerate(drawn):
    image, _ = held.read(index)
    height, width, _ = image.shape
    for i in range(2):
      resize.resample(
        image, view.resample_window(height, width, numbers[i]), out
      )
  return len(drawn) / (time.perf_counter() - began)
