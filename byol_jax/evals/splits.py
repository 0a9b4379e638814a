"""Opens the splits of an evaluation, and checks that their labels fit.

Data sets arrive through a function `load`; evaluations know no files.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from byol_jax import errors
from byol_jax.evals import features


class Split(Protocol):
  """A split, as an evaluation needs it; see `data.loading.image_set`."""

  num_examples: int
  num_classes: int | None
  class_names: tuple[str, ...] | None

  def crop_batches(
    self, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Any]:
    """Yields randomly cropped and flipped `images` and `labels`, by step."""

  def eval_batches(self, batch_size: int) -> Iterator[Any]:
    """Yields every image once: `images`, `labels`, `mask`, `ids`."""


# split name -> image set
Load = Callable[[str], Split]


def open_splits(
  load: Load, names: tuple[str, ...]
) -> tuple[dict[str, Split], int]:
  """Returns the splits by name and their number of classes.

  Raises:
    DataError: labels are absent, or the classes of two splits differ.
  """
  splits = {name: load(name) for name in names}
  first = splits[names[0]]
  classes = first.num_classes, first.class_names
  for name, split in splits.items():
    if not split.num_classes:
      raise errors.DataError(
        f"split '{name}' has no labels, which this evaluation needs; give a"
        ' labelled --config.dataset (a folder with a sub-folder a class)'
      )
    if (split.num_classes, split.class_names) != classes:
      raise errors.DataError(
        f"split '{name}' has {split.num_classes} classes, '{names[0]}' has"
        f' {first.num_classes}; expected the same number and class names'
      )
  assert first.num_classes is not None
  return splits, first.num_classes


def encode_split(
  encoder: features.Encoder,
  splits: Mapping[str, Split],
  batch_size: int,
  log: Callable[[str], None],
  name: str,
) -> features.Features:
  """Returns the representations of a split, its labels checked.

  Raises:
    DataError: there is no image, or a label does not fit.
    DivergedError: a representation is not finite.
  """
  split = splits[name]
  log(f'encoding {name}, {split.num_examples:,} images')
  found = features.extract_features(encoder, split.eval_batches(batch_size))
  check_labels(found.labels, split.num_classes or 0, name)
  return found


def check_labels(labels: np.ndarray, num_classes: int, split: str) -> None:
  """Raises DataError for labels outside [0, num_classes), naming the first."""
  wrong = labels[(labels < 0) | (labels >= num_classes)]
  if wrong.size:
    raise errors.DataError(
      f"split '{split}': expected labels in [0, {num_classes}), found"
      f' {wrong.flat[0]}'
    )
