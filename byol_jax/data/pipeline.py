"""From a source to batches [local devices, per device, H, W, 3], by tf.data.

A batch is a pure function of the set, the seed and its step: `order` says
which examples, and every crop is drawn by a stateless op from (seed, epoch,
example id, view). So threads, hosts and restarts change nothing.

An image that cannot be decoded is replaced, in training, by the next one that
can, and left out of an evaluation by its mask; it is named once in the log.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
import os
from typing import Any, NamedTuple

import numpy as np

from byol_jax import errors
from byol_jax.data import assemble, order, parts, preprocess
from byol_jax.data.preprocess import tf

Batch = assemble.Batch
Row = assemble.Row
Render = assemble.Render
Crop = tuple[Sequence[float], Sequence[float]]  # area, ratio

_CHUNK = 16  # images a call from TensorFlow into Python, which costs 60 us
_PAIR, _SINGLE = 0, 1  # the random stream of view_batches, of crop_batches
# Every function here is written as a graph: nothing to convert, less to wait.
_graph = tf.autograph.experimental.do_not_convert


class _Job(NamedTuple):
  """What a stream is made of.

  wanted: step -> positions, int64 [N], of this process.
  plan: positions -> ids and epochs.
  render: image, id, epoch -> a row, in TensorFlow.
  mend: position -> the row in place of one that failed.
  """

  steps: range
  local: int
  wanted: Callable[[int], np.ndarray]
  plan: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
  render: Render
  mend: Callable[[int], Row]


class ImageSet:
  """The batches of one source on this process.

  Args:
    source: the images.
    image_size: of every picture, pixels.
    crops: for each view (area, ratio) of its random crop, or None for the
      crop of the evaluation.
    eval_crop: 'resize', 'crop' or 'whole', see `preprocess.eval_crop`.
    seed: of order and crops.
    threads: for reading and decoding; 0 is one for each core.
    local_devices: of this process; every process has as many.
    process_index, process_count: the place of this process among all.

  A batch size is that of all processes; ConfigError if the devices do not
  divide it. DataError ends an iterator when too many images fail to decode.
  """

  def __init__(
    self,
    source: parts.Source,
    *,
    image_size: int,
    crops: Sequence[Crop | None],
    eval_crop: str,
    seed: int,
    threads: int = 0,
    local_devices: int = 1,
    process_index: int = 0,
    process_count: int = 1,
  ) -> None:
    if eval_crop not in preprocess.EVAL_CROPS:
      raise errors.ConfigError(
        f'data.eval_crop: {eval_crop!r} is none of {preprocess.EVAL_CROPS}'
      )
    self.num_examples = len(source)
    self.num_classes = source.num_classes
    self.class_names = source.class_names
    self.fingerprint = source.fingerprint
    self._source = source
    self._mender = assemble.Mender(source)
    self._size = image_size
    self._eval_view = preprocess.eval_crop(eval_crop, image_size)
    self._views = [
      preprocess.random_crop(*crop, image_size) if crop else self._eval_view
      for crop in crops
    ]
    self._seed = seed
    self._threads = threads or os.cpu_count() or 1
    self._local_devices = local_devices
    self._process = process_index, process_count

  @property
  def num_failures(self) -> int:
    """Distinct images that could not be decoded so far."""
    return len(self._mender.failures)

  def file_name(self, index: int) -> str:
    """The name of the image with an id."""
    return self._source.file_name(index)

  def view_batches(
    self, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Batch]:
    """Steps start_step to start_step + num_steps - 1 of pretraining.

    Yields dicts of 'view1', 'view2', ..., float32 [L, P, H, W, 3] in [0, 1],
    and 'labels', int32 [L, P], if there are labels.
    """

    def render(image: Any, index: Any, epoch: Any) -> Row:
      count = len(self._views)
      chance = preprocess.chance(self._seed, _PAIR, index, epoch, count)
      pictures = preprocess.render(image, self._views, chance)
      return {f'view{i + 1}': picture for i, picture in enumerate(pictures)}

    return self._training(render, batch_size, start_step, num_steps)

  def crop_batches(
    self, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Batch]:
    """Steps of a supervised training: the first view's crop, then a flip.

    Yields dicts of 'images', float32 [L, P, H, W, 3] in [0, 1], and 'labels',
    int32 [L, P], if there are labels.
    """

    def render(image: Any, index: Any, epoch: Any) -> Row:
      chance = preprocess.chance(self._seed, _SINGLE, index, epoch, 2)
      (picture,) = preprocess.render(image, self._views[:1], chance)
      flipped = tf.reverse(picture, [1])
      return {'images': tf.where(chance[1, 0] < 0.5, flipped, picture)}

    return self._training(render, batch_size, start_step, num_steps)

  def eval_batches(self, batch_size: int) -> Iterator[Batch]:
    """Every image once, over all processes, in as many batches on each.

    Yields dicts of 'images', float32 [L, P, H, W, 3] in [0, 1], 'labels',
    int32 [L, P], 'mask', bool [L, P], and 'ids', int64 [L, P]. Where the mask
    is False there is no image: zeros, label -1, id -1.
    """
    nothing = assemble.nothing(self._size)

    def render(image: Any, index: Any, epoch: Any) -> Row:
      chance = tf.zeros([1, 4], tf.float64)
      (picture,) = preprocess.render(image, [self._eval_view], chance)
      return {'images': picture, 'ids': index, 'mask': True}

    def wanted(step: int) -> np.ndarray:
      positions = order.positions_of(step, batch_size, *self._process)
      return positions[positions < self.num_examples]

    def plan(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
      return positions, np.zeros_like(positions)

    def mend(position: int) -> Row:
      row = self._mender.attempt(render, position, position, 0)
      return {**(row or nothing), 'position': position}

    local = self._local_batch(batch_size)
    steps = range(-(-self.num_examples // batch_size))
    batches = self._run(_Job(steps, local, wanted, plan, render, mend))
    return (
      self._shaped(assemble.padded(batch, local, nothing)) for batch in batches
    )

  def _training(
    self, render: Render, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Batch]:
    def wanted(step: int) -> np.ndarray:
      return order.positions_of(step, batch_size, *self._process)

    def plan(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
      return order.ids_at(self._seed, positions, self.num_examples)

    def mend(position: int) -> Row:
      """The next image that can be decoded, with the crop of the broken."""
      (index,), (epoch,) = plan(np.array([position]))
      row = self._mender.first(render, int(index), int(epoch))
      return {**row, 'position': position}

    local = self._local_batch(batch_size)
    steps = range(start_step, start_step + num_steps)
    batches = self._run(_Job(steps, local, wanted, plan, render, mend))
    without = () if self.num_classes else ('labels',)
    return (self._shaped(batch, without) for batch in batches)

  def _run(self, job: _Job) -> Iterator[Batch]:
    # A set of which nothing can be decoded would keep the stream silent.
    self._mender.first(job.render, 0, 0)
    wanted = map(job.wanted, job.steps)
    return assemble.in_order(self._stream(job), wanted, job.mend)

  def _stream(self, job: _Job) -> Iterator[Batch]:
    """Chunks of rendered images in the order wanted, the broken ones gone."""
    encoded = isinstance(self._source.read(0)[0], bytes)
    read_many = functools.partial(parts.read_many, self._source)

    def ids(step: Any) -> tuple:
      def call(step: np.ndarray) -> tuple:
        positions = job.wanted(int(step))
        return positions, *job.plan(positions)

      columns = tf.numpy_function(call, [step], [tf.int64] * 3)
      return tuple(tf.ensure_shape(column, [None]) for column in columns)

    def read(positions: Any, indices: Any, epochs: Any) -> tuple:
      kinds = [tf.string if encoded else tf.uint8, tf.int32]
      images, labels = tf.numpy_function(read_many, [indices], kinds)
      images = tf.ensure_shape(images, [None] if encoded else [None] * 3 + [3])
      labels = tf.ensure_shape(labels, [None])
      return images, labels, positions, indices, epochs

    def decode(
      image: Any, label: Any, position: Any, index: Any, epoch: Any
    ) -> Row:
      row = job.render(image, index, epoch)
      return {**row, 'labels': label, 'position': position}

    parallel = {'num_parallel_calls': self._threads, 'deterministic': True}
    dataset = tf.data.Dataset.range(job.steps.start, job.steps.stop)
    dataset = dataset.map(_graph(ids)).unbatch()
    dataset = dataset.batch(_CHUNK if encoded else 1)
    dataset = dataset.map(_graph(read), **parallel).unbatch()
    dataset = dataset.map(_graph(decode), **parallel)
    dataset = dataset.ignore_errors().batch(job.local).prefetch(2)
    options = preprocess.options(self._threads)
    return dataset.with_options(options).as_numpy_iterator()

  def _local_batch(self, batch_size: int) -> int:
    return order.local_batch(batch_size, self._local_devices, self._process[1])

  def _shaped(self, batch: Batch, without: Sequence[str] = ()) -> Batch:
    """[L * P, ...] -> [L, P, ...]."""
    return {
      name: array.reshape(self._local_devices, -1, *array.shape[1:])
      for name, array in batch.items()
      if name not in (*without, 'position')
    }
