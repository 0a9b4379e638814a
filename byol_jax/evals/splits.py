"""Opens the splits of an evaluation, and checks that their labels fit.

Data sets arrive through a function `load`; evaluations know no files.
"""

from collections.abc import Callable, Iterator, Mapping
import time
from typing import Any, Protocol

import jax
import numpy as np

from byol_jax import errors
from byol_jax.evals import features


class Split(Protocol):
  """A split, as an evaluation needs it; see `data.loading.image_set`."""

  num_examples: int
  num_classes: int | None
  class_names: tuple[str, ...] | None

  def locate_images(self) -> tuple[Any, np.ndarray]:
    """Returns what the images depend on, and their rows in the whole set."""

  def read_targets(self) -> np.ndarray | None:
    """Returns which classes each image has, int8 [N, C], if several."""

  def crop_batches(
    self, batch_size: int, start_step: int, num_steps: int
  ) -> Iterator[Any]:
    """Yields randomly cropped and flipped `images` and `labels`, by step."""

  def eval_batches(self, batch_size: int) -> Iterator[Any]:
    """Yields every image once: `images`, `labels`, `mask`, `ids`."""


# Share of images that two splits may have in common: large sets hold a few
# images twice, a split that is a copy of another is a mistake.
MAX_OVERLAP = 0.1

_PROGRESS_SECONDS = 10.0
# split name -> image set; see `data.from_config.make_image_set`
Load = Callable[..., Split]


def open_splits(
  load: Load, names: tuple[str, ...]
) -> tuple[dict[str, Split], int]:
  """Returns the splits by name and their number of classes.

  Raises:
    DataError: labels are absent, there is only one class, or the classes of
      two splits differ.
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
  if first.num_classes < 2:
    raise errors.DataError(
      f"split '{names[0]}' has one class, which leaves nothing to tell apart;"
      ' give a --config.dataset of at least two'
    )
  return splits, first.num_classes


def encode_split(
  encoder: features.Encoder,
  splits: Mapping[str, Split],
  batch_size: int,
  log: Callable[[str], None],
  name: str,
) -> features.Features:
  """Returns the representations of a split, its labels checked, if any.

  An encoder with a `store` is not asked again for what is there. The store
  keeps only images of `splits`, those of the evaluation.

  Raises:
    DataError: there is no image, or a label does not fit.
    DivergedError: a representation is not finite.
  """
  split, store = splits[name], encoder.store
  count = errors.format_count(split.num_examples, 'image')
  found = None
  if store is not None:
    store.keep_only({each.locate_images()[0] for each in splits.values()})
    found = store.find(*split.locate_images())
  if found is not None:
    log(f'{name}, {count}: encoded before')
  else:
    log(f'encoding {name}, {count}')
    progress = make_progress(log, f'encoding {name}', split.num_examples)
    batches = split.eval_batches(batch_size)
    found = features.extract_features(encoder, batches, progress)
    if store is not None:
      store.add(*split.locate_images(), found)
  if split.num_classes is not None:
    check_labels(found.labels, split.num_classes, name)
  return found


def make_progress(
  log: Callable[[str], None],
  what: str,
  total: int,
  clock: Callable[[], float] = time.monotonic,
) -> Callable[[int], None]:
  """Returns a function of the images that are done, which logs every 10 s.

  Lines are like 'encoding test: 640 of 1,000 images', the total of all
  processes; `what` is 'encoding test', `clock` returns seconds.
  """
  last = clock()

  def progress(count: int) -> None:
    nonlocal last
    if clock() - last >= _PROGRESS_SECONDS:
      last = clock()
      done = min(count * jax.process_count(), total)
      log(f'{what}: {done:,} of {errors.format_count(total, "image")}')

  return progress


def check_test(
  test: features.Features,
  others: Mapping[str, features.Features],
  num_classes: int,
  log: Callable[[str], None],
) -> int:
  """Returns how many images of the test split are in another split as well.

  Images are compared as they were encoded, with those of `others`, on which
  something was trained or chosen. A line of the log says if there are any, and
  how many classes have no test image: these are not measured.

  Raises:
    DataError: more than `MAX_OVERLAP` of a split, or of the test split, are in
      both.
  """
  absent = num_classes - len(np.unique(test.labels))
  if absent:
    log(f'test has no image of {absent} of {num_classes} classes')
  overlap = np.zeros(len(test.ids), bool)
  for name, other in others.items():
    if test.digests is None or other.digests is None:
      continue
    found = np.isin(test.digests, other.digests)
    smaller = min(len(other.ids), len(test.ids))
    if np.sum(found) > MAX_OVERLAP * smaller:
      raise errors.DataError(
        f"{np.sum(found):,} images of split 'test' are in '{name}' too, of"
        f' {len(test.ids):,} and {len(other.ids):,}: their accuracy would say'
        ' nothing about new images; give a --config.dataset whose test images'
        ' are not among its training images'
      )
    overlap |= found
  if overlap.any():
    log(
      f'{np.sum(overlap):,} of {len(overlap):,} test images are among the'
      f' images of {", ".join(others)} too'
    )
  return int(np.sum(overlap))


def labelled_batches(split: Split, *steps: int) -> Iterator[Any]:
  """Yields `crop_batches(*steps)` of 'fit' as `images` and checked `labels`.

  Raises:
    DataError: a label does not fit.
  """
  for batch in split.crop_batches(*steps):
    labels = np.asarray(batch['labels'])
    check_labels(labels, split.num_classes or 0, 'fit')
    yield {'images': batch['images'], 'labels': labels}


def check_labels(labels: np.ndarray, num_classes: int, split: str) -> None:
  """Raises DataError for labels outside [0, num_classes), naming the first."""
  wrong = labels[(labels < 0) | (labels >= num_classes)]
  if wrong.size:
    raise errors.DataError(
      f"split '{split}': expected labels in [0, {num_classes}), found"
      f' {wrong.flat[0]}'
    )
