"""What a stream of batches is made of, whoever makes it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from byol_jax import errors
from byol_jax.data.loading import batch_buffer
from byol_jax.data.sampling import resize, views as views_lib
from byol_jax.data.sources import base


class Job(NamedTuple):
  """Some steps of one set, on this process.

  steps: the global steps.
  local: images of a batch on this process.
  wanted: step -> positions, int64 [N], of this process.
  ids: positions -> ids and epochs, int64 [N] each.
  draw: ids, epochs -> float64 [N, V, 4 or 5], what is drawn for the views.
  views: name in the batch -> view.
  canvas: where the pictures go.
  """

  steps: range
  local: int
  wanted: Callable[[int], np.ndarray]
  ids: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
  draw: Callable[[np.ndarray, np.ndarray], np.ndarray]
  views: dict[str, views_lib.View]
  canvas: batch_buffer.Canvas

  def plan(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions and ids, int64 [N] each, and what is drawn, [N, V, 4 or 5]."""
    return self.plan_of(self.wanted(step))

  def plan_of(
    self, positions: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of any positions, int64 [N]."""
    ids, epochs = self.ids(positions)
    return positions, ids, self.draw(ids, epochs)

  def windows(self, sides: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(y, x, height, width) of each view in an image, int32 [V, 4]."""
    height, width = (int(side) for side in sides)
    places = [
      view.resample_window(height, width, numbers)
      for view, numbers in zip(self.views.values(), drawn)
    ]
    return np.array([place.window for place in places], np.int32)

  def paint(
    self,
    position: int,
    images: Sequence[np.ndarray],
    drawn: np.ndarray,
    sides: np.ndarray | None = None,
  ) -> None:
    """Makes the pictures of a position, in its row of the batch.

    Args:
      position: of the image.
      images: uint8 [H, W, 3], one for all views, or the window of each.
      drawn: float64 [V, 4 or 5].
      sides: of the whole image, where `images` are windows.
    """
    row = self.canvas.row(position)
    for i, (name, view) in enumerate(self.views.items()):
      if sides is None:
        image = images[0]
        height, width, _ = image.shape
        place = view.resample_window(height, width, drawn[i])
      else:
        image = images[i]
        height, width, _ = image.shape
        place = view.resample_window(int(sides[0]), int(sides[1]), drawn[i])
        place = place._replace(window=(0, 0, height, width))
      resize.resample(image, place, row[name])


def first_image(source: base.Source) -> bytes | np.ndarray:
  """The first image of a source that can be read."""
  for index in range(len(source)):
    try:
      return source.read(index)[0]
    except Exception:  # as everywhere: counted and named when its turn comes
      continue
  raise errors.DataError(f'{source.name}: no image can be read')
