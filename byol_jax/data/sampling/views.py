"""Defines views: which window of an image is resized to which size."""

from typing import NamedTuple

import numpy as np

from byol_jax.data.sampling import crops, resize


class View(NamedTuple):
  """A crop of an image, resized.

  Attributes:
    size: height and width of the result, pixels.
    eval_crop: of the evaluation crop, see `resize.make_evaluation_window`.
    crop_range: of the random crop (method.md 3.2); None is the evaluation crop.
    has_flip: whether the view is mirrored if a fifth number is below one half.
  """

  size: int
  eval_crop: str
  crop_range: crops.CropRange | None = None
  has_flip: bool = False

  def resample_window(
    self, height: int, width: int, drawn: np.ndarray
  ) -> resize.ResampleWindow:
    """Returns the window of an image, and the taps that resize it.

    Args:
      height, width: of the image.
      drawn: what is drawn for the image, float64 [4 or 5].
    """
    if self.crop_range is None:
      window = resize.make_evaluation_window(
        height, width, self.size, self.eval_crop
      )
    else:
      y, x, h, w = map(int, crops.compute_window(height, width, drawn))
      window = resize.make_square_window((y, x, h, w), self.size)
    if self.has_flip and drawn[4] < 0.5:
      return window._replace(columns=window.columns.reversed())
    return window
