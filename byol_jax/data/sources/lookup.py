"""Random access to encoded images: what a run can learn from.

A source gives the bytes of image `index` and its label, in any order, from any
thread, without TensorFlow. Splits of every set:

  train   everything that pretraining may use
  fit     train without valid
  valid   held out of train, for choices
  test    read once, at the end
  all     every image, for embedding
"""

import pathlib

import numpy as np

from byol_jax import errors
from byol_jax.data import catalog
from byol_jax.data.sources import (
  archives,
  arrays,
  base,
  image_folder,
  layouts,
  locate,
  paths,
  shapes,
  storage,
  tfds,
)

Source = base.Source
SPLITS = ('train', 'fit', 'valid', 'test', 'all')


def open_source(
  dataset: str,
  split: str,
  *,
  data_dir: str | None,
  holdout: str,
  heldout_share: float,
) -> Source:
  """Opens a split of a data set; nothing is ever downloaded.

  Args:
    dataset: 'shapes' (generated), a folder of images or a tar file of it, an
      .npz of arrays, a prepared TFDS directory (also gs://), or the name of a
      set prepared by TFDS below data_dir.
    split: one of SPLITS.
    data_dir: where TFDS prepared its sets (also gs://); None is
      $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    holdout: 'paper' or 'official', which images imagenet2012 holds out.
    heldout_share: share held out of any other set, in [0, 1): as valid, and as
      test of a folder that has none.

  Returns:
    A source of at least one image.

  Raises:
    ConfigError: an argument is none of the above.
    DataError: the set is missing, broken, or has no such split.
  """
  _check(split, holdout, heldout_share)
  if dataset == 'shapes':
    return _open_shapes(split, heldout_share)
  root = locate.find(dataset, data_dir)
  if locate.is_prepared(root):
    return _open_records(root, split, holdout, heldout_share)
  if root.suffix == '.npz':
    return _open_arrays(pathlib.Path(root), split, heldout_share)
  layout = layouts.scan(_files(root), heldout_share)
  if not layout.splits.get(split):
    raise errors.DataError(
      f'{root}: no image for {split!r}: '
      + (
        'a folder without class folders has no labels, so no test set'
        if layout.class_names is None
        else f'the held-out share is {heldout_share} of'
        f' {len(layout.splits["all"])} images; raise data.heldout_share or'
        ' add train/ and val/'
      )
    )
  return image_folder.FolderSource(layout, split)


def _files(root: storage.Path) -> paths.Files:
  path = pathlib.Path(root)  # only a prepared set may be in a bucket
  return paths.Directory(path) if path.is_dir() else archives.Archive(path)


def _check(split: str, holdout: str, share: float) -> None:
  if split not in SPLITS:
    raise errors.ConfigError(f'split: {split!r} is none of {SPLITS}')
  if holdout not in catalog.HOLDOUTS:
    raise errors.ConfigError(
      f'data.holdout: {holdout!r} is none of {tuple(catalog.HOLDOUTS)}'
    )
  if not 0 <= share < 1:
    raise errors.ConfigError(f'data.heldout_share: {share} is not in [0, 1)')


def _open_arrays(path: pathlib.Path, split: str, share: float) -> Source:
  held = arrays.read(path)
  if split == 'all':
    return base.Joined(list(held.values()))
  if split in ('train', 'test'):
    if split not in held:
      raise errors.DataError(
        f'{path}: no test set; add the arrays test_images and test_labels'
      )
    return held[split]
  return _held_out(held['train'], split, round(share * len(held['train'])))


def _open_shapes(split: str, share: float) -> Source:
  test, train = shapes.ShapesSource('test'), shapes.ShapesSource('train')
  if split == 'all':
    return base.Joined([train, test])
  if split == 'test':
    return test
  if split == 'train':
    return train
  return _held_out(train, split, round(share * len(train)))


def _open_records(
  root: storage.Path, split: str, holdout: str, share: float
) -> Source:
  prepared = tfds.Prepared(root)
  facts = catalog.find(prepared.name)
  names = prepared.split_names
  if facts:
    tests = [facts.test_split]
  else:
    tests = [name for name in ('test', 'validation') if name in names]
  expected = {'test': tests[:1], 'all': []}.get(split, ['train'])
  if split == 'test' and not tests:
    expected = ['test or validation']
  for name in expected:
    if name not in names:
      raise errors.DataError(
        f'{root}: no split {name!r}, found {list(names)}; {split!r} needs it'
      )
  if split == 'all':
    return tfds.RecordSource(
      prepared, [n for n in ('train', 'validation', 'test') if n in names]
    )
  if split == 'test':
    return tfds.RecordSource(prepared, tests[:1])
  own_valid = len(tests) == 2  # not the test set: made for choices
  if split == 'valid' and own_valid:
    return tfds.RecordSource(prepared, ['validation'])
  train = tfds.RecordSource(prepared, ['train'])
  if split == 'train' or (split == 'fit' and own_valid):
    return train
  if prepared.name.startswith('imagenet2012'):
    return _imagenet(train, split, holdout)
  count = facts.num_valid if facts else None
  return _held_out(train, split, count or round(share * len(train)))


def _imagenet(train: Source, split: str, holdout: str) -> Source:
  """ImageNet's hold-out by place in the official order (spec 5.1)."""
  end, count = catalog.HOLDOUTS[holdout]
  _check_count(train, count)
  ids = np.arange(len(train), dtype=np.int64)
  heldout = ids < count if end == 'first' else ids >= len(train) - count
  return base.Subset(train, ids[heldout if split == 'valid' else ~heldout])


def _held_out(train: Source, split: str, count: int) -> Source:
  """A fixed random part of train, the same for every seed of a run."""
  _check_count(train, count)
  words = np.random.Philox(key=0).random_raw(len(train))
  order = np.argsort(words, kind='stable')
  chosen = order[:count] if split == 'valid' else order[count:]
  return base.Subset(train, np.sort(chosen))


def _check_count(train: Source, count: int) -> None:
  if not 0 < count < len(train):
    raise errors.DataError(
      f'{train.name}: {count:,} images cannot be held out of the'
      f' {len(train):,} of train; change data.heldout_share or use another'
      ' set'
    )
