"""A set whose pixels live on the devices, where its views are made.

The host says which images and which windows, by `order` and `crops` as the
tf.data path does; a device cuts and resizes them. TensorFlow is not imported:
images are decoded by Pillow.

The resize is TensorFlow's bicubic without antialiasing (spec 3.2). Which four
pixels of a line make a new one, and with what weights, depends on nothing but
the two lengths: numpy works it out once for all lengths (`resize.taps`), so
no rounding of a device can take another place of TensorFlow's table.
"""

from collections.abc import Iterator, Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import errors
from byol_jax.data.loading import (
  batch_buffer,
  decoded,
  image_set,
  thread_engine,
)
from byol_jax.data.sampling import crops, order, resize
from byol_jax.data.sources import base

Batch = batch_buffer.Batch


class Store(NamedTuple):
  """What lives on a device; M is the longest side, S the image size."""

  images: Any  # uint8 [N, H, W, 3]
  labels: Any  # int32 [N], or None
  indices: Any  # int32 [M, S, 4], of a window's line of 1, ..., M pixels
  weights: Any  # float32 [M, S, 4]


def crop(store: Store, ids: jax.Array, windows: jax.Array) -> jax.Array:
  """Windows of images, resized: float32 [P, S, S, 3] in [0, 1].

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


class ImageSet(image_set.ImageSet):
  """One source, for pretraining from the memory of the devices.

  Args:
    source: the images.
    gib: what their pixels may take on a device, GiB.
    options: see `image_set.ImageSet`; every view needs a random crop.
  """

  def __init__(self, source: base.Source, *, gib: float, **options: Any):
    super().__init__(source, engine=thread_engine.painted, **options)
    self._gib = gib

  @functools.cached_property
  def extent(self) -> tuple[int, int]:
    """Height and width that hold every image; decodes nothing yet.

    Raises:
      ConfigError: they take too much memory, or a view has no random crop.
    """
    crop_ranges = [view.crop_range for view in self._views]
    if None in crop_ranges:
      raise errors.ConfigError(
        f'augment.view{crop_ranges.index(None) + 1}.crop: expected a random'
        ' crop, found none; give one or data.resident=False'
      )
    return decoded.extent(self._source, self._gib, self._threads)

  @functools.cached_property
  def decoded(self) -> decoded.Decoded:
    """All pixels and labels; DataError when too many images are broken."""
    return decoded.decode_all(
      self._source, self._mender, *self.extent, self._threads
    )

  def store(self) -> Store:
    """What every device holds, as numpy arrays."""
    lengths = range(1, max(self.extent) + 1)
    lines = [resize.taps(length, self._size) for length in lengths]
    return Store(
      images=self.decoded.images,
      labels=self.decoded.labels if self.num_classes else None,
      indices=np.stack([indices for indices, _ in lines]).astype(np.int32),
      weights=np.stack([weights for _, weights in lines]),
    )

  def plans(
    self, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Batch]:
    """Steps start_step to start_step + num_steps - 1 of pretraining.

    Yields dicts of 'ids', int32 [L, P], and 'windows', int32 [L, P, V, 4],
    (y, x, height, width): all that the devices need to know of a step.
    """
    self.local_batch(batch_size)

    def plan(step: int) -> Batch:
      positions = order.batch_positions(step, batch_size, *self._process)
      ids, epochs = order.example_ids(self._seed, positions, self.num_examples)
      sides = self.decoded.sizes[ids].astype(np.float64)
      drawn = np.moveaxis(self.drawn_pair(ids, epochs), -1, 0)
      window = crops.crop_window(sides[:, :1], sides[:, 1:], drawn)
      windows = np.stack(window, axis=-1).astype(np.int32)
      return self.shaped({'ids': ids.astype(np.int32), 'windows': windows})

    return map(plan, range(start_step, start_step + num_steps))

  @staticmethod
  def views(store: Store, plan: Mapping[str, jax.Array]) -> dict[str, Any]:
    """A device's batch of one step, made on it.

    Args:
      store: of the device.
      plan: its part of one of `plans`, without the axis L.

    Returns:
      'view1', 'view2', ..., float32 [P, S, S, 3] in [0, 1], and 'labels',
      int32 [P], if there are labels.
    """
    ids, windows = plan['ids'], plan['windows']
    batch = {
      f'view{i + 1}': crop(store, ids, windows[:, i])
      for i in range(windows.shape[1])
    }
    if store.labels is not None:
      batch['labels'] = store.labels[ids]
    return batch
