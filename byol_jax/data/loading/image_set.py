"""From a source to batches [local devices, per device, H, W, 3].

A batch is a pure function of set, seed and step: `order` says which examples,
`crops` draws every crop from nothing but (seed, epoch, example id, view). An
image that cannot be used is replaced, in training, by the next one that can,
and left out of an evaluation by its mask; it is named once.
"""

from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from byol_jax import errors
from byol_jax.data.loading import batch_buffer, batch_plan, threads
from byol_jax.data.sampling import crops, order, resize, views
from byol_jax.data.sources import base

Batch = batch_buffer.Batch
# (job, source, threads) -> what is done, in the order of the positions
Engine = Callable[
  [batch_plan.Job, base.Source, int], Generator[batch_buffer.Chunk]
]


class ImageSet:
  """The batches of one source on this process.

  Args:
    source: the images.
    engine: paints the pictures: `pipeline.painted`, or `pictures.painted`
      without TensorFlow.
    image_size: of every picture, pixels.
    crop_ranges: of each view's random crop; None is the evaluation crop.
    eval_crop: 'resize', 'crop' or 'whole', see `resize.evaluation_window`.
    transfer: 'float32', exact, in [0, 1]; 'uint8', rounded, 0 to 255.
    max_bad_share: see `assemble.Failures`.
    seed: of order and crops.
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
    num_threads: int = 0,
    local_devices: int = 1,
    process_index: int = 0,
    process_count: int = 1,
  ) -> None:
    if eval_crop not in resize.METHODS:
      raise errors.ConfigError(
        f'data.eval_crop: {eval_crop!r} is none of {resize.METHODS}'
      )
    if process_count > len(source):
      raise errors.DataError(
        f'{source.name}: {len(source)} images for {process_count} processes;'
        ' expected at least one image a process'
      )
    self.num_examples = len(source)
    self.num_classes = source.num_classes
    self.class_names = source.class_names
    self.fingerprint = source.fingerprint
    self._source = source
    self._engine = engine
    self._mender = batch_buffer.Mender(source, max_bad_share)
    self._size = image_size
    self._eval_view = views.evaluation(eval_crop, image_size)
    self._views = [
      views.random_crop(crop_range, image_size)
      if crop_range
      else self._eval_view
      for crop_range in crop_ranges
    ]
    self._dtype = np.dtype(transfer)
    self._seed = seed
    self._threads = threads.count(num_threads)
    self._local_devices = local_devices
    self._process = process_index, process_count

  @property
  def num_failures(self) -> int:
    """Distinct images that could not be used so far."""
    return len(self._mender.failures)

  def file_name(self, index: int) -> str:
    """The name of the image with an id."""
    return self._source.file_name(index)

  def view_batches(
    self, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Batch]:
    """Steps start_step to start_step + num_steps - 1 of pretraining.

    Yields dicts of 'view1', 'view2', ..., [L, P, H, W, 3], float32 in [0, 1]
    or uint8, and 'labels', int32 [L, P], if there are labels.
    """
    named = {f'view{i + 1}': view for i, view in enumerate(self._views)}
    steps = range(start_step, start_step + num_steps)
    return self._training(named, self.drawn_pair, batch_size, steps)

  def crop_batches(
    self, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Batch]:
    """Steps of a supervised training: the first view's crop, then a flip.

    Yields dicts of 'images', [L, P, H, W, 3], float32 in [0, 1] or uint8, and
    'labels', int32 [L, P], if there are labels.
    """
    view = self._views[0]

    def draw(ids: np.ndarray, epochs: np.ndarray) -> np.ndarray:
      uniforms = crops.draw_uniform(
        self._seed, crops.SUPERVISED_STREAM, epochs, ids, 2
      )
      numbers = crops.draw_crops(uniforms[:, :1], [view.crop_range])
      return np.concatenate([numbers, uniforms[:, 1:, :1]], axis=-1)

    named = {'images': views.random_flip(view)}
    steps = range(start_step, start_step + num_steps)
    return self._training(named, draw, batch_size, steps)

  def eval_batches(self, batch_size: int) -> Iterator[Batch]:
    """Every image once, over all processes, in as many batches on each.

    Yields dicts of 'images', [L, P, H, W, 3], float32 in [0, 1] or uint8,
    'labels', int32 [L, P], 'mask', bool [L, P], and 'ids', int64 [L, P]. Where
    the mask is False there is no image: zeros, label -1, id -1.
    """

    def wanted(step: int) -> np.ndarray:
      positions = order.batch_positions(step, batch_size, *self._process)
      return positions[positions < self.num_examples]

    job = self._job(
      {'images': self._eval_view},
      batch_size,
      range(-(-self.num_examples // batch_size)),
      wanted=wanted,
      ids=lambda positions: (positions, np.zeros_like(positions)),
      draw=lambda ids, epochs: np.zeros((len(ids), 1, 4)),
    )

    def finished(step: int, done: np.ndarray, labels: np.ndarray) -> Batch:
      positions = job.wanted(step)
      for i in np.flatnonzero(~done):
        found = self._mender.pixels(int(positions[i]))
        if found is not None:
          labels[i], done[i] = found[1], True
          job.paint(int(positions[i]), [found[0]], np.zeros((1, 4)))
      batch = job.canvas.take(step)
      missing = job.local - len(positions)
      mask = np.append(done, np.zeros(missing, bool))
      batch['images'][~mask] = 0
      filled = [np.append(x, np.full(missing, -1)) for x in (labels, positions)]
      labels, ids = (np.where(mask, x, -1) for x in filled)
      return {
        **batch,
        'labels': labels.astype(np.int32),
        'mask': mask,
        'ids': ids.astype(np.int64),
      }

    return self._run(job, finished)

  def drawn_pair(self, ids: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """What is drawn for the views of pretraining, float64 [N, V, 4]."""
    count = len(self._views)
    uniforms = crops.draw_uniform(
      self._seed, crops.PRETRAIN_STREAM, epochs, ids, count
    )
    return crops.draw_crops(uniforms, [view.crop_range for view in self._views])

  def _training(
    self,
    named: dict[str, views.View],
    draw: Callable[[np.ndarray, np.ndarray], np.ndarray],
    batch_size: int,
    steps: range,
  ) -> Iterator[Batch]:
    job = self._job(
      named,
      batch_size,
      steps,
      wanted=lambda step: order.batch_positions(
        step, batch_size, *self._process
      ),
      ids=lambda at: order.example_ids(self._seed, at, self.num_examples),
      draw=draw,
    )

    def finished(step: int, done: np.ndarray, labels: np.ndarray) -> Batch:
      gaps = np.flatnonzero(~done)
      plan = job.plan_of(job.wanted(step)[gaps])
      for i, position, index, drawn in zip(gaps, *plan):
        # The next image that can be used, with the crop of the broken.
        pixels, labels[i] = self._mender.first(int(index))
        job.paint(int(position), [pixels], drawn)
      batch = job.canvas.take(step)
      return {**batch, 'labels': labels} if self.num_classes else batch

    return self._run(job, finished)

  def _job(
    self,
    named: dict[str, views.View],
    batch_size: int,
    steps: range,
    **functions: Callable,
  ) -> batch_plan.Job:
    local = self.local_batch(batch_size)
    shape = (self._size, self._size, 3)
    canvas = batch_buffer.Canvas(
      dict.fromkeys(named, (shape, self._dtype)),
      local,
      lambda position: order.locate_position(
        position, batch_size, *self._process
      ),
    )
    return batch_plan.Job(steps, local, views=named, canvas=canvas, **functions)

  def _run(
    self,
    job: batch_plan.Job,
    finished: Callable[[int, np.ndarray, np.ndarray], Batch],
  ) -> Iterator[Batch]:
    # A set of which nothing can be used would keep the stream silent.
    self._mender.first(0)
    chunks = self._engine(job, self._source, self._threads)
    found = batch_buffer.in_order(chunks, map(job.wanted, job.steps))

    def batches() -> Iterator[Batch]:
      try:
        for step, one in zip(job.steps, found):
          yield self.shaped(finished(step, *one))
      finally:
        chunks.close()
        job.canvas.close()

    return batches()

  def local_batch(self, batch_size: int) -> int:
    """This process's part of a batch; ConfigError if it is uneven."""
    return order.local_batch_size(
      batch_size, self._local_devices, self._process[1]
    )

  def shaped(self, batch: Batch) -> Batch:
    """[L * P, ...] -> [L, P, ...]."""
    return {
      name: array.reshape(self._local_devices, -1, *array.shape[1:])
      for name, array in batch.items()
    }
