"""Plans the batches of a stream: images, crops and rows."""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from byol_jax.data.loading import batch_buffer, decode
from byol_jax.data.sampling import crops, order, resize, views as views_lib


@dataclasses.dataclass(frozen=True)
class BatchPlan:
  """Some steps of one set on one process: images, crops, and where they go.

  A position numbers the images of a run: row r of global step s has position
  s * batch_size + r.

  Attributes:
    steps: the global steps.
    batch_size: of all processes.
    process_index, process_count: the place of this process.
    num_examples: of the set.
    seed: of order and crops.
    stream: `crops.PRETRAIN_STREAM` or `crops.SUPERVISED_STREAM`; None is an
      evaluation: every image once, in its order, with no random crop.
    views: name in the batch -> view.
    buffer: where `write_row` writes.
    pixels: how an encoded image becomes pixels.
  """

  steps: range
  batch_size: int
  process_index: int
  process_count: int
  num_examples: int
  seed: int
  stream: int | None
  views: Mapping[str, views_lib.View]
  buffer: batch_buffer.BatchBuffer
  pixels: decode.PixelOptions = decode.AS_FILES

  @property
  def rows(self) -> int:
    """Rows of a batch on this process."""
    return self.batch_size // self.process_count

  def positions(self, step: int) -> np.ndarray:
    """Returns the positions of a step on this process, int64 [N]."""
    found = order.compute_positions(
      step, self.batch_size, self.process_index, self.process_count
    )
    return found[found < self.num_examples] if self.stream is None else found

  def plan_rows(
    self, positions: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what becomes of positions, int64 [N].

    Returns:
      The positions, ids of the images, int64 [N], and what is drawn for each
      view, float64 [N, V, 4 or 5]: a fifth number determines a flip.
    """
    ranges = [view.crop_range for view in self.views.values()]
    if self.stream is None:
      return positions, positions, np.zeros((len(positions), len(ranges), 4))
    ids, epochs = order.find_examples(self.seed, positions, self.num_examples)
    num_flips = int(self.stream == crops.SUPERVISED_STREAM)
    uniforms = crops.draw_uniform(
      self.seed, self.stream, epochs, ids, len(ranges) + num_flips
    )
    drawn = crops.draw_crops(uniforms[:, : len(ranges)], ranges)
    if num_flips:
      drawn = np.concatenate([drawn, uniforms[:, -1:, :1]], axis=-1)
    return positions, ids, drawn

  def plan_step(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns `plan_rows` of the positions of a step."""
    return self.plan_rows(self.positions(step))

  def compute_windows(self, sides: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Returns (y, x, height, width) of each view in an image, int32 [V, 4]."""
    height, width = map(int, sides)
    found = [
      view.resample_window(height, width, numbers).window
      for view, numbers in zip(self.views.values(), drawn)
    ]
    return np.array(found, np.int32)

  def write_row(
    self,
    position: int,
    images: Sequence[np.ndarray],
    drawn: np.ndarray,
    sides: np.ndarray | None = None,
  ) -> None:
    """Crops and resizes an image into its row of the buffer, for each view.

    Args:
      position: of the image.
      images: uint8 [H, W, 3], one for all views, or the window of each.
      drawn: float64 [V, 4 or 5], from `plan_rows`.
      sides: height and width of the whole image, where `images` are windows.
    """
    row = self.buffer.row(
      *order.locate_position(
        position, self.batch_size, self.process_index, self.process_count
      )
    )
    for i, (name, view) in enumerate(self.views.items()):
      image = images[0] if sides is None else images[i]
      own_sides = image.shape[:2]
      height, width = map(int, own_sides if sides is None else sides)
      window = view.resample_window(height, width, drawn[i])
      if sides is not None:
        window = window._replace(window=(0, 0, *own_sides))
      resize.resample(image, window, row[name])
