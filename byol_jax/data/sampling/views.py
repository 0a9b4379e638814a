"""Defines views: which window of an image is resized to which size."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from byol_jax.data.sampling import crops, resize


class View(NamedTuple):
  """A crop of an image, resized.

  Attributes:
    crop_range: of its random crop; None if it has none.
    resample_window: maps height and width of an image, and the numbers drawn
      for it, float64 [4 or more], to the window.
  """

  crop_range: crops.CropRange | None
  resample_window: Callable[[int, int, np.ndarray], resize.ResampleWindow]


def make_random_crop(crop_range: crops.CropRange, size: int) -> View:
  """Returns the random crop of method.md 3.2, as [size, size] pixels."""

  def resample_window(
    height: int, width: int, drawn: np.ndarray
  ) -> resize.ResampleWindow:
    window = crops.compute_window(height, width, drawn)
    y, x, h, w = (int(number) for number in window)
    return resize.make_square_window((y, x, h, w), size)

  return View(crop_range, resample_window)


def add_random_flip(view: View) -> View:
  """Returns the view, mirrored if a fifth number is below one half."""

  def resample_window(
    height: int, width: int, drawn: np.ndarray
  ) -> resize.ResampleWindow:
    window = view.resample_window(height, width, drawn)
    if drawn[4] >= 0.5:
      return window
    return window._replace(columns=window.columns.reversed())

  return view._replace(resample_window=resample_window)


def make_evaluation_crop(method: str, size: int) -> View:
  """Returns the view for evaluation; see `resize.make_evaluation_window`."""

  def resample_window(
    height: int, width: int, _: np.ndarray
  ) -> resize.ResampleWindow:
    return resize.make_evaluation_window(height, width, size, method)

  return View(None, resample_window)
