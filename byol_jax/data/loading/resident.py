"""A set whose pixels live on the devices, where its views are made.

The host says which images and which windows, by the same `BatchPlan` as the
streamed path; a device cuts and resizes them. TensorFlow is not imported:
images are decoded by Pillow.

The resize is TensorFlow's bicubic without antialiasing (method.md 3.2). Which
four pixels of a line make a new one, and with what weights, depends only on
the two lengths: numpy works it out once for all lengths, in
`resize.compute_taps`, so no rounding of a device can take another entry of
TensorFlow's table.
"""

from collections.abc import Callable, Iterator, Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import errors
from byol_jax.data.loading import (
  batch_buffer,
  decode,
  image_set,
  thread_engine,
)
from byol_jax.data.sampling import crops, resize
from byol_jax.data.sources import base

Batch = batch_buffer.Batch
_SAMPLE = 200  # headers that show at once that a set is far too large


class DecodedImages(NamedTuple):
  """A whole set on the host; smaller images lie at the top left of the largest.

  Attributes:
    images: uint8 [N, H, W, 3].
    sizes: int32 [N, 2], height and width of each.
    labels: int32 [N], -1 without a label.
  """

  images: np.ndarray
  sizes: np.ndarray
  labels: np.ndarray


class Store(NamedTuple):
  """What lives on a device; M is the longest side, S the image size.

  Attributes:
    images: uint8 [N, H, W, 3].
    labels: int32 [N], or None.
    is_labelled: bool [N], or None where each image is.
    indices: int32 [M, S, 4], pixels of a window's line of 1, ..., M pixels.
    weights: float32 [M, S, 4], of those pixels.
  """

  images: Any
  labels: Any
  is_labelled: Any
  indices: Any
  weights: Any


def resize_windows(
  store: Store, ids: jax.Array, windows: jax.Array
) -> jax.Array:
  """Returns windows of images, resized: float32 [P, S, S, 3] in [0, 1].

  Gathers and weighted sums, for the rows and then for the columns. A product
  of matrices would be shorter, but accelerators round its operands.

  Args:
    store: the set.
    ids: int32 [P].
    windows: int32 [P, 4], (y, x, height, width) inside the image.
  """
  y, x, height, width = jnp.moveaxis(windows, -1, 0)
  rows = y[:, None, None] + store.indices[height - 1]  # [P, S, 4]
  columns = x[:, None, None] + store.indices[width - 1]
  down = store.weights[height - 1][..., None, None]
  along = store.weights[width - 1][:, None, ..., None]
  lines = sum(
    store.images[ids[:, None], rows[:, :, i]] * down[:, :, i] for i in range(4)
  )  # [P, S, W, 3]
  picture = sum(
    jnp.take_along_axis(lines, columns[:, None, :, i, None], axis=2)
    * along[:, :, :, i]
    for i in range(4)
  )
  # Bicubic overshoots, so we clip, here and not later.
  return jnp.clip(picture / 255, 0, 1)


class ResidentImageSet(image_set.ImageSet):
  """One source, for pretraining from the memory of the devices.

  Args:
    source: the images.
    gib: what their pixels may take on a device, GiB.
    options: see `image_set.ImageSet`; every view needs a random crop.
  """

  def __init__(self, source: base.Source, *, gib: float, **options: Any):
    super().__init__(source, engine=thread_engine.decode_into, **options)
    self._gib = gib

  @functools.cached_property
  def extent(self) -> tuple[int, int]:
    """Height and width that hold every image, from the headers.

    Raises:
      ConfigError: an array of all images takes more than `gib`.
    """
    count = self.num_examples
    sample = range(0, count, -(-count // _SAMPLE))
    for ids in (sample, range(count)):
      found = np.array(self._map(self._read_sides, ids))
      height, width = (int(side) for side in found.max(axis=0))
      size = count * height * width * 3 / 2**30
      if size > self._gib:
        largest = self.file_name(ids[int(np.argmax(found.prod(axis=1)))])
        raise errors.ConfigError(
          f'input.resident_gib: {self._source.name} has {count:,} images of up'
          f' to {height} x {width} pixels ({largest}), {size:.3g} GiB on each'
          f' device, allowed are {self._gib:g}; raise it or give'
          ' data.resident=False'
        )
    return height, width

  @functools.cached_property
  def decoded(self) -> DecodedImages:
    """All pixels and labels; for a bad image those of the next usable one.

    Raises:
      DataError: too many images cannot be used.
    """
    sides, count = self.extent, self.num_examples
    self._fallback.read_next_usable(0)  # or none can replace others
    found = DecodedImages(
      np.zeros((count, *sides, 3), np.uint8),
      np.zeros((count, 2), np.int32),
      np.full(count, -1, np.int32),
    )

    def decode_one(index: int) -> bool:
      image = self._fallback.read(index)
      if image is None:
        return False
      pixels, found.labels[index] = image
      height, width = pixels.shape[:2]
      found.images[index, :height, :width] = pixels
      found.sizes[index] = height, width
      return True

    is_good = np.array(self._map(decode_one, range(count)))
    good, bad = np.flatnonzero(is_good), np.flatnonzero(~is_good)
    replacements = good[np.searchsorted(good, bad) % len(good)]
    for column in found:
      column[bad] = column[replacements]
    if self.num_classes:
      self.label_columns(found.labels)
    return found

  def _map(self, function: Callable[[int], Any], ids: range) -> list[Any]:
    return list(thread_engine.map_in_order(function, ids, self._threads))

  def _read_sides(self, index: int) -> tuple[int, int]:
    try:
      return decode.read_sides(self._source.read(index)[0], self._pixels)
    except Exception:  # counted and named when it is decoded
      return 0, 0

  def store(self) -> Store:
    """Returns what every device holds, as numpy arrays."""
    lengths = range(1, max(self.extent) + 1)
    lines = [resize.compute_taps(length, self._size) for length in lengths]
    labels = self.decoded.labels
    return Store(
      images=self.decoded.images,
      labels=labels if self.num_classes else None,
      is_labelled=labels >= 0 if self.is_partly_labelled else None,
      indices=np.stack([line.indices for line in lines]).astype(np.int32),
      weights=np.stack([line.weights for line in lines]),
    )

  def plans(
    self, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Batch]:
    """Yields steps start_step to start_step + num_steps - 1 of pretraining.

    Dicts of 'ids', int32 [L, P], and 'windows', int32 [L, P, V, 4],
    (y, x, height, width): all that the devices need to know of a step.
    """
    steps = range(start_step, start_step + num_steps)
    plan = self.plan_views(batch_size, steps)

    def plan_step(step: int) -> Batch:
      _, ids, drawn = plan.plan_step(step)
      sides = self.decoded.sizes[ids].astype(np.float64)
      window = crops.compute_window(
        sides[:, :1], sides[:, 1:], np.moveaxis(drawn, -1, 0)
      )
      windows = np.stack(window, axis=-1).astype(np.int32)
      return self.split_over_devices(
        {'ids': ids.astype(np.int32), 'windows': windows}
      )

    return map(plan_step, steps)

  @staticmethod
  def views(store: Store, plan: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Makes a device's batch of one step, on the device.

    Args:
      store: of the device.
      plan: its part of one of `plans`, without the axis L.

    Returns:
      'view1', 'view2', ..., float32 [P, S, S, 3] in [0, 1], and 'labels',
      int32 [P], if there are labels; see `ImageSet.view_batches`.
    """
    ids, windows = plan['ids'], plan['windows']
    batch = {
      f'view{i + 1}': resize_windows(store, ids, windows[:, i])
      for i in range(windows.shape[1])
    }
    if store.labels is not None:
      batch['labels'] = store.labels[ids]
    if store.is_labelled is not None:
      batch['is_labelled'] = store.is_labelled[ids]
    return batch
