"""What an evaluation needs of its data: splits with labels that fit.

Data sets arrive through `load`; which files they come from is the entry's
business.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from byol_jax import errors


class ImageSet(Protocol):
  """What an evaluation needs of a split (`data.image_set.ImageSet`)."""

  num_examples: int
  num_classes: int | None
  class_names: tuple[str, ...] | None

  def crop_batches(
    self, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Any]:
    """Randomly cropped and flipped `images` and `labels`, by step."""

  def eval_batches(self, batch_size: int) -> Iterator[Any]:
    """Every image once: `images`, `labels`, `mask`, `ids`."""


# split name -> image set
Load = Callable[[str], ImageSet]


def open_splits(
  load: Load, names: tuple[str, ...]
) -> tuple[dict[str, ImageSet], int]:
  """The splits by name and their number of classes, which must agree.

  Raises:
    DataError: labels are absent, or the classes of two splits differ.
  """
  splits = {name: load(name) for name in names}
  for name, split in splits.items():
    if not split.num_classes:
      raise errors.DataError(
        f"split '{name}' has no labels, which this evaluation needs; give a"
        ' labelled --config.dataset (a folder with a sub-folder a class)'
      )
  first = splits[names[0]]
  for name, split in splits.items():
    if split.num_classes != first.num_classes:
      raise errors.DataError(
        f"split '{name}' has {split.num_classes} classes, '{names[0]}' has"
        f' {first.num_classes}; both must hold the same classes'
      )
    if split.class_names != first.class_names:
      raise errors.DataError(
        f"the class names of split '{name}' are not those of '{names[0]}';"
        ' both must hold the same classes'
      )
  assert first.num_classes is not None
  return splits, first.num_classes


def check_labels(labels: np.ndarray, num_classes: int, split: str) -> None:
  """Refuses labels outside [0, num_classes).

  Raises:
    DataError: names the first.
  """
  wrong = labels[(labels < 0) | (labels >= num_classes)]
  if wrong.size:
    raise errors.DataError(
      f"split '{split}': expected labels in [0, {num_classes}), found"
      f' {wrong.flat[0]}'
    )
