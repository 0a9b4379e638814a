"""Which part of an image makes a picture, and how large that is."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from byol_jax.data.sampling import crops, resize


class View(NamedTuple):
  """One picture of an image.

  crop_range: what is drawn for it; None if nothing is.
  place: (height, width, drawn float64 [4 or more]) -> its place in the image.
  """

  crop_range: crops.CropRange | None
  place: Callable[[int, int, np.ndarray], resize.Place]


def random_crop(crop_range: crops.CropRange, size: int) -> View:
  """The crop of both augmentations (spec 3.2), as [size, size] pixels."""

  def place(height: int, width: int, drawn: np.ndarray) -> resize.Place:
    found = crops.window(height, width, drawn)
    y, x, h, w = (int(number) for number in found)
    return resize.square((y, x, h, w), size)

  return View(crop_range, place)


def flipped(view: View) -> View:
  """The same view, mirrored where a fifth number is below one half."""

  def place(height: int, width: int, drawn: np.ndarray) -> resize.Place:
    found = view.place(height, width, drawn)
    if drawn[4] >= 0.5:
      return found
    return found._replace(columns=found.columns.reversed())

  return view._replace(place=place)


def evaluation(method: str, size: int) -> View:
  """The picture that is evaluated; see `resize.evaluation`."""

  def place(height: int, width: int, _: np.ndarray) -> resize.Place:
    return resize.evaluation(height, width, size, method)

  return View(None, place)
