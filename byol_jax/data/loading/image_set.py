"""From a source to batches [local devices, per device, H, W, 3].

A batch is a pure function of set, seed and step: `order` says which examples,
`crops` draws every crop from (seed, epoch, example id, view) alone. An image
that cannot be used is replaced, in training, by the next one that can, and
left out of an evaluation by its mask; it is named once.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

import numpy as np

from byol_jax import errors
from byol_jax.data.loading import (
  bad_images,
  batch_buffer,
  batch_plan,
  decode,
  thread_engine,
)
from byol_jax.data.sampling import crops, order, resize, views
from byol_jax.data.sources import base

Batch = batch_buffer.Batch
# (plan, source, threads) -> which rows are done, in the order of the positions
Engine = Callable[
  [batch_plan.BatchPlan, base.Source, int], Generator[batch_buffer.Chunk]
]


class ImageSet:
  """The batches of one source on this process.

  Args:
    source: the images.
    engine: `tf_engine.decode_into`, or `thread_engine.decode_into` without
      TensorFlow.
    image_size: of every crop, pixels.
    crop_ranges: of each view's random crop; None is the evaluation crop.
    eval_crop: 'resize', 'crop' or 'whole', see `resize.make_evaluation_window`.
    transfer: 'float32', exact, in [0, 1]; 'uint8', rounded, 0 to 255.
    max_bad_share: in [0, 1], see `bad_images.BadImageCounter`.
    seed: of order and crops.
    pixels: how an encoded image becomes pixels.
    num_threads: for reading and decoding; 0 is one for each core.
    local_devices: of this process; every process has as many.
    process_index, process_count: the place of this process among all.

  A batch size is that of all processes; ConfigError if the devices do not
  divide it. DataError ends an iterator when too many images cannot be used.
  """

  def __init__(
    self,
    source: base.Source,
    *,
    engine: Engine,
    image_size: int,
    crop_ranges: Sequence[crops.CropRange | None],
    eval_crop: str,
    transfer: str,
    max_bad_share: float,
    seed: int,
    pixels: decode.PixelOptions = decode.AS_FILES,
    num_threads: int = 0,
    local_devices: int = 1,
    process_index: int = 0,
    process_count: int = 1,
  ) -> None:
    if process_count > len(source):
      raise errors.DataError(
        f'{source.name}: {len(source)} images for {process_count} processes;'
        ' expected at least one image a process'
      )
    self.num_examples = len(source)
    self.num_classes = source.num_classes
    self.class_names = source.class_names
    self.labels = source.labels  # None: known when an image is read
    self.is_partly_labelled = source.is_partly_labelled
    self.fingerprint = source.fingerprint
    self._source = source
    self._engine = engine
    self._fallback = bad_images.FallbackReader(source, max_bad_share, pixels)
    self._pixels = pixels
    self._size = image_size
    self._eval_view = views.View(image_size, eval_crop)
    self._views = [
      self._eval_view._replace(crop_range=crop_range)
      for crop_range in crop_ranges
    ]
    self._dtype = np.dtype(transfer)
    self._seed = seed
    self._threads = thread_engine.count_threads(num_threads)
    self._local_devices = local_devices
    self._process = process_index, process_count

  def locate_images(self) -> tuple[tuple, np.ndarray]:
    """Returns what the evaluation images depend on, and their rows in it.

    The first names the whole set and how its images become pixels; the rows,
    int64 [num_examples], are those of the images in the set.
    """
    fingerprint, rows = self._source.locate_in_whole()
    return (fingerprint, self._eval_view, self._dtype, self._pixels), rows

  @property
  def num_failures(self) -> int:
    """Distinct images that could not be used so far."""
    return len(self._fallback.bad_images)

  def file_name(self, index: int) -> str:
    """Returns the name of the image with an id."""
    return self._source.file_name(index)

  def read_image(self, index: int) -> np.ndarray:
    """Returns the image with an id, or the next usable one, uint8 [H, W, 3].

    Raises:
      DataError: no image can be used, or too many are bad.
    """
    return self._fallback.read_next_usable(index)[0]

  def read_targets(self) -> np.ndarray | None:
    """Returns which classes each image has; see `base.Source`.

    Rows are found by the `ids` of `eval_batches`: batches do not hold them.
    """
    return self._source.read_targets()

  def view_batches(
    self, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Batch]:
    """Yields steps start_step to start_step + num_steps - 1 of pretraining.

    Dicts of 'view1', 'view2', ..., [L, P, H, W, 3], float32 in [0, 1] or
    uint8, and 'labels', int32 [L, P], if there are labels; where some images
    have none, -1, also 'is_labelled', bool [L, P].
    """
    steps = range(start_step, start_step + num_steps)
    return self._training_batches(self.plan_views(batch_size, steps))

  def make_blank_views(self, batch_size: int) -> Batch:
    """Returns zeros like a batch of `view_batches`; nothing is read."""
    count = order.divide_batch(
      batch_size, self._local_devices, self._process[1]
    )
    # One zero, seen many times.
    view = np.broadcast_to(
      np.zeros((), self._dtype), (count, self._size, self._size, 3)
    )
    batch = {f'view{i + 1}': view for i in range(len(self._views))}
    if self.num_classes:
      batch |= self.label_columns(np.zeros(count, np.int32))
    return self.split_over_devices(batch)

  def load_code(self) -> None:
    """Resizes an image of one pixel: numba loads, or compiles, its code."""
    image, drawn = np.zeros((1, 1, 3), np.uint8), np.zeros(4)
    out = np.empty((self._size, self._size, 3), self._dtype)
    resize.resample(image, self._eval_view.resample_window(1, 1, drawn), out)

  def crop_batches(
    self, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Batch]:
    """Yields steps of a supervised training: view 1's crop, then a flip.

    Dicts of 'images', [L, P, H, W, 3], float32 in [0, 1] or uint8, and
    'labels', int32 [L, P], if there are labels.
    """
    steps = range(start_step, start_step + num_steps)
    named = {'images': self._views[0]._replace(has_flip=True)}
    return self._training_batches(
      self._make_plan(named, crops.SUPERVISED_STREAM, batch_size, steps)
    )

  def eval_batches(self, batch_size: int) -> Iterator[Batch]:
    """Yields every image once, over all processes, in as many batches on each.

    Dicts of 'images', [L, P, H, W, 3], float32 in [0, 1] or uint8, 'labels',
    int32 [L, P], 'mask', bool [L, P], and 'ids', int64 [L, P]. Where the mask
    is False there is no image: zeros, label -1, id -1.
    """
    steps = range(-(-self.num_examples // batch_size))
    plan = self._make_plan({'images': self._eval_view}, None, batch_size, steps)

    def finish(step: int, done: np.ndarray, labels: np.ndarray) -> Batch:
      positions = plan.positions(step)
      for i in np.flatnonzero(~done):
        found = self._fallback.read(int(positions[i]))
        if found is not None:
          labels[i], done[i] = found[1], True
          plan.write_row(int(positions[i]), [found[0]], np.zeros((1, 4)))
      images = plan.buffer.take(step)['images']
      padding = plan.rows - len(positions)
      mask = np.append(done, np.zeros(padding, bool))
      images[~mask] = 0
      labels, ids = (
        np.where(mask, np.append(column, np.full(padding, -1)), -1)
        for column in (labels, positions)
      )
      return {
        'images': images,
        'labels': labels.astype(np.int32),
        'mask': mask,
        'ids': ids.astype(np.int64),
      }

    return self._run_engine(plan, finish)

  def plan_views(self, batch_size: int, steps: range) -> batch_plan.BatchPlan:
    """Returns the plan of `view_batches`."""
    named = {f'view{i + 1}': view for i, view in enumerate(self._views)}
    return self._make_plan(named, crops.PRETRAIN_STREAM, batch_size, steps)

  def _make_plan(
    self,
    named: Mapping[str, views.View],
    stream: int | None,
    batch_size: int,
    steps: range,
  ) -> batch_plan.BatchPlan:
    index, count = self._process
    shape = (self._size, self._size, 3)
    return batch_plan.BatchPlan(
      steps=steps,
      batch_size=batch_size,
      process_index=index,
      process_count=count,
      num_examples=self.num_examples,
      seed=self._seed,
      stream=stream,
      views=named,
      buffer=batch_buffer.BatchBuffer(
        dict.fromkeys(named, (shape, self._dtype)),
        order.divide_batch(batch_size, self._local_devices, count),
      ),
      pixels=self._pixels,
    )

  def _training_batches(self, plan: batch_plan.BatchPlan) -> Iterator[Batch]:
    def finish(step: int, done: np.ndarray, labels: np.ndarray) -> Batch:
      gaps = np.flatnonzero(~done)
      rows = plan.plan_rows(plan.positions(step)[gaps])
      for i, position, index, drawn in zip(gaps, *rows):
        # The next image that can be used, with the crop of the bad one.
        pixels, labels[i] = self._fallback.read_next_usable(int(index))
        plan.write_row(int(position), [pixels], drawn)
      batch = plan.buffer.take(step)
      if self.num_classes:
        batch |= self.label_columns(labels)
      return batch

    return self._run_engine(plan, finish)

  def _run_engine(
    self,
    plan: batch_plan.BatchPlan,
    finish: Callable[[int, np.ndarray, np.ndarray], Batch],
  ) -> Iterator[Batch]:
    # An engine yields nothing for a set without a usable image.
    self._fallback.read_next_usable(0)
    chunks = self._engine(plan, self._source, self._threads)
    rows = batch_buffer.match_rows(chunks, map(plan.positions, plan.steps))

    def batches() -> Iterator[Batch]:
      try:
        for step, (done, labels) in zip(plan.steps, rows):
          yield self.split_over_devices(finish(step, done, labels))
      finally:
        chunks.close()
        plan.buffer.close()

    return batches()

  def label_columns(self, labels: np.ndarray) -> Batch:
    """Returns `labels`, checked, and for a partly labelled set `is_labelled`.

    Raises:
      DataError: a label does not fit; a set is taken to be labelled as a
        sample of it is.
    """
    lowest, number = -int(self.is_partly_labelled), self.num_classes or 0
    wrong = labels[(labels < lowest) | (labels >= number)]
    if wrong.size:
      raise errors.DataError(
        f'{self._source.name}: expected labels in [{lowest}, {number}), found'
        f' {wrong[0]}; prepare the set again, or give its images as a folder'
      )
    if not self.is_partly_labelled:
      return {'labels': labels}
    return {'labels': labels, 'is_labelled': labels >= 0}

  def split_over_devices(self, batch: Batch) -> Batch:
    """Returns arrays [L * P, ...] as [L, P, ...]."""
    return {
      name: array.reshape(self._local_devices, -1, *array.shape[1:])
      for name, array in batch.items()
    }
