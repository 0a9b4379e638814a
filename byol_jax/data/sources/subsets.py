"""Parts of a labelled training set, for evaluations with few labels.

Own parts are class-balanced. ImageNet's 1 % and 10 % are published as lists of
files, which TFDS prepares as separate sets (method.md 5.2).
"""

import numpy as np

from byol_jax import errors
from byol_jax.data import catalog
from byol_jax.data.sources import base, lookup

# A key of Philox that no epoch of a training has.
_STREAM = (1 << 64) - 1


def draw_balanced(
  source: base.Source, fraction: float, seed: int
) -> base.Subset:
  """Returns a class-balanced part of a labelled set, in its order.

  It has round(fraction * N) images, at least one of each class, as many of
  each class as of any other: they differ by at most one, but for classes that
  have too few. Of one seed a smaller fraction is part of a larger one. Images
  that cannot be read are left out.

  Args:
    source: N images.
    fraction: in (0, 1].
    seed: of the choice.

  Returns:
    The part, its `labels` known.

  Raises:
    DataError: the set has no labels, or a class without an image.
  """
  if not source.num_classes:
    raise errors.DataError(
      f'{source.name}: no labels, which a part with few labels needs; give a'
      ' labelled --config.dataset (a folder with a sub-folder a class)'
    )
  labels = base.read_labels(source)
  missing = np.setdiff1d(np.arange(source.num_classes), labels)
  if len(missing):
    names = source.class_names or [*map(str, range(source.num_classes))]
    shown = ', '.join(errors.quote(names[i]) for i in missing[:3])
    raise errors.DataError(
      f'{source.name}: no training image of {len(missing)} of'
      f' {source.num_classes} classes ({shown}); add images of them'
    )
  ids = choose_balanced(labels, fraction, seed)
  subset = base.Subset(source, ids)
  subset.labels = labels[ids]
  return subset


def choose_balanced(
  labels: np.ndarray, fraction: float, seed: int
) -> np.ndarray:
  """Returns the rows of `draw_balanced`, sorted, int64 [M].

  Args:
    labels: int64 [N] from 0, each class at least once; -1 is left out.
    fraction: in (0, 1].
    seed: of the choice.
  """
  rows = np.flatnonzero(labels >= 0)
  classes = labels[rows]
  num_classes = int(classes.max()) + 1
  count = max(round(fraction * len(rows)), num_classes)
  key = np.array([seed & _STREAM, _STREAM], np.uint64)
  words = np.random.Philox(key=key).random_raw(len(labels) + num_classes)
  # Shuffled within each class; then the first of each class, the second...
  by_class = np.lexsort((words[rows], classes))
  starts = np.searchsorted(classes[by_class], np.arange(num_classes))
  turns = np.arange(len(rows)) - starts[classes[by_class]]
  places = words[len(labels) :][classes[by_class]]  # of a class in a turn
  chosen = by_class[np.lexsort((places, turns))][:count]
  return np.sort(rows[chosen])


def open_published(
  valid: base.Source, fraction: float, data_dir: str | None
) -> base.Subset:
  """Returns the published part of a set, without its held-out images.

  Args:
    valid: the images held out of the set, known by their file names.
    fraction: of the set.
    data_dir: where TFDS prepared its sets, see `lookup.find_set`.

  Raises:
    DataError: the part is not prepared.
  """
  name = catalog.SUBSETS[valid.name, fraction]
  source = lookup.open_source(
    name, 'train', data_dir=data_dir, holdout='paper', heldout_share=0.0
  )
  held, names = (
    base.call_in_threads(x.file_name, range(len(x))) for x in (valid, source)
  )
  ids = np.flatnonzero(~np.isin(names, held))
  subset = base.Subset(source, ids)
  subset.labels = base.read_labels(subset)
  return subset
