"""Opens a split of a data set by name or path.

A source returns the bytes of image `index` and its label, in any order, from
any thread, without TensorFlow. Splits of every set:

  train      everything that pretraining may use
  fit        train without valid
  valid      held out of train, or given, to choose hyperparameters
  fit+valid  both, once these are chosen
  test       read once, at the end
  all        every image, for embedding

Prepared TFDS sets may lie in a bucket, gs://; folders and tar files may not.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import os
import pathlib
import re
from typing import Any

import numpy as np

from byol_jax import errors
from byol_jax.data import catalog
from byol_jax.data.sources import (
  arrays,
  base,
  cifar_binary,
  layouts,
  path_lists,
  paths,
  shapes,
  tfds,
  webdataset,
)

Log = Callable[[str], None]
OpenSplit = Callable[[str], base.Source]
SPLITS = ('train', 'fit', 'valid', 'fit+valid', 'test', 'all')
_INFO = 'dataset_info.json'
_NAME = re.compile(r'\w+(/[\w.+-]+)?(:[\w.*]+)?')


def open_source(
  dataset: str, split: str, *, log: Log = lambda line: None, **where: Any
) -> base.Source:
  """Opens a split of a data set; nothing is ever downloaded.

  Args:
    dataset: see `find_set`.
    split: one of SPLITS.
    log: called with a line about the whole set: images, classes, test set, what
      is not read.
    where: the other arguments of `find_set`.

  Returns:
    A source of at least one image.

  Raises:
    ConfigError: the split is none of the above.
    DataError: the set is missing, broken, or has no such split.
  """
  if split not in SPLITS:
    raise errors.ConfigError(f'split: {split!r} is none of {SPLITS}')
  least = 1 if split == 'all' else 2  # one picture has an embedding
  line, open_split = find_set(dataset, **where, least=least)
  log(line)
  parts = [open_split(part) for part in split.split('+')]
  return base.Concatenation(parts) if len(parts) > 1 else parts[0]


def find_set(
  dataset: str,
  *,
  data_dir: str | None,
  holdout: str,
  heldout_share: float,
  labels: str = 'auto',
  labels_key: str = 'data.labels',
  least: int = 2,
) -> tuple[str, OpenSplit]:
  """Returns the line about a set, and the function that opens a split of it.

  Args:
    dataset: 'shapes' (generated), a folder of images, a tar file of it, a .txt
      of paths, or several of these with commas between them; WebDataset shards,
      a .csv or .parquet, an .npz of arrays, CIFAR's binary version, a prepared
      TFDS directory (also gs://), or the name of a set below data_dir: prepared
      by TFDS, or, for a set of the catalog, a folder of images of that name.
    data_dir: where TFDS prepared its sets (also gs://); None is
      $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    holdout: 'paper' or 'official', which images imagenet2012 holds out.
    heldout_share: share held out of any other set, in [0, 1): as valid, and as
      test of a folder that has none.
    labels: of a folder: 'auto', its folders are classes if each image lies in
      one of several; 'folders', they are in any case, whatever their names;
      'none', they are not.
    labels_key: what sets `labels`, for messages.
    least: images that are expected of folders.

  Raises:
    DataError: the set is missing or broken.
  """
  if dataset == 'shapes':
    drawn = {name: shapes.ShapesSource(name) for name in shapes.COUNTS}
    return _find_parts(dataset, drawn, heldout_share)
  name_key = lambda text: text.replace('data.labels=', f'{labels_key}=')
  try:
    names = path_lists.split_paths(dataset)
    roots = [locate_dataset(name, data_dir) for name in names]
    for root in roots:
      found = _find_divided(root, holdout, heldout_share)
      if found and len(roots) > 1:
        raise errors.DataError(
          'dataset: expected folders, tar files or .txt files of paths between'
          f' commas, found {errors.quote(str(root))}; give it alone'
        )
      if found:
        return found
    local = [pathlib.Path(root) for root in roots]
    layout = layouts.find_layouts(local, heldout_share, labels, least)
  except (errors.DataError, PermissionError) as error:
    raise errors.DataError(name_key(f'{error}')) from error
  opened = functools.partial(_open_folders, layout, dataset, heldout_share)
  return name_key(layouts.describe_layouts(layout)), opened


def _find_divided(
  root: paths.Path, holdout: str, share: float
) -> tuple[str, OpenSplit] | None:
  """Returns `find_set` of a prepared set or one in memory, None of others."""
  if is_prepared(root):
    return _find_prepared(root, holdout, share)
  path = pathlib.Path(root)  # only a prepared set may be in a bucket
  is_npz = path.suffix == '.npz'
  parts = arrays.read_npz(path) if is_npz else cifar_binary.read_cifar(path)
  return _find_parts(str(root), parts, share) if parts else None


def locate_dataset(dataset: str, data_dir: str | None) -> paths.Path:
  """Returns the path of a data set: a path, or a TFDS name below data_dir.

  Returns:
    A prepared TFDS directory, on the disk or in a bucket, or a folder or a file
    on the disk.

  Raises:
    DataError: there is no such path, or a bucket does not answer.
  """
  path = paths.parse_path(dataset)
  is_bucket = paths.is_bucket(dataset)
  if is_bucket or path.exists():
    found = paths.call_with_timeout(
      path, f'looking for {_INFO}', lambda: _newest_version(path) or path
    )
    if is_bucket and not is_prepared(found):
      raise errors.DataError(
        f'{path}: no prepared TFDS directory found; images and tar files in a'
        ' bucket are not read as they are: prepare it, mount the bucket, or'
        ' copy it to a local path'
      )
    return found
  if webdataset.is_pattern(dataset):
    return path
  if not _NAME.fullmatch(dataset):
    raise errors.DataError(
      f'{path}: no such folder; dataset is a folder of images, a tar file of'
      ' them, WebDataset shards, a .csv, .parquet or .npz, a prepared TFDS'
      " directory, the name of a TFDS set, or 'shapes'"
    )
  folder = paths.parse_path(
    data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  )
  return paths.call_with_timeout(
    folder, f'looking for {dataset}', lambda: _locate_by_name(dataset, folder)
  )


def is_prepared(folder: paths.Path) -> bool:
  """Returns whether a folder is what TFDS writes for one version of a set."""
  # `datasets` of Hugging Face has a file of the same name, and state.json.
  exists = lambda: (
    (folder / _INFO).exists() and not (folder / 'state.json').exists()
  )
  return paths.call_with_timeout(folder, f'looking for {_INFO}', exists)


def _newest_version(path: paths.Path, version: str = '*') -> paths.Path | None:
  """The prepared directory of the highest version of a set at `path`."""
  found = [
    info.parent
    for info in path.glob(f'{version}/{_INFO}')
    if re.fullmatch(r'\d+\.\d+\.\d+', info.parent.name)
  ]
  return max(
    found,
    key=lambda folder: [int(part) for part in folder.name.split('.')],
    default=None,
  )


def _locate_by_name(dataset: str, data_dir: paths.Path) -> paths.Path:
  name, _, version = dataset.partition(':')
  folders = [data_dir / name, *sorted((data_dir / name).glob('*'))]
  versions = [_newest_version(x, version or '*') for x in folders]
  found = [x for x in versions if x]
  if len(found) == 1 or versions[0]:
    return found[0]
  if found:
    choices = ', '.join(f'{name}/{path.parent.name}' for path in found)
    raise errors.DataError(
      f'dataset {dataset}: {data_dir / name} holds several: {choices}; choose'
      ' one'
    )
  facts = catalog.find_facts(dataset)
  folder = data_dir / name.partition('/')[0]
  if facts and (folder / 'train').exists():
    return folder
  advice = (
    f'prepare it with: tfds build {dataset} --data_dir={data_dir}, or with data'
    ' prepare, or set data_dir to the folder that holds it'
  )
  if facts and facts.homepage:
    splits = 'train/, valid/' if facts.valid_split else 'train/'
    advice = (
      f'TFDS does not have it: download it from {facts.homepage} and put its'
      f' images into {folder}, in {splits} and test/ with a sub-folder a class'
    )
  missing = '' if data_dir.exists() else ', a folder that does not exist'
  raise errors.DataError(
    f'dataset {dataset}: no such folder, and no TFDS set of that name is'
    f' prepared in {data_dir}{missing}; {advice}'
  )


def _open_folders(
  found: Sequence[layouts.Layout], dataset: str, share: float, split: str
) -> base.Source:
  facts = catalog.find_facts(dataset)
  if split in ('fit', 'valid') and facts and facts.valid_per_class:
    train = layouts.FolderSource(found[0], 'train')
    return _hold_out_per_class(train, split, facts.valid_per_class)
  holding = [layout for layout in found if layout.splits.get(split)]
  if not holding:
    count = sum(len(layout.splits['all']) for layout in found)
    why = (
      f'a share of {share:g} of {count} images, by their names, is none; add'
      ' images, or val/ beside train/, or raise data.heldout_share of the'
      ' pretraining'
    )
    if split == 'test' and not found[0].class_names:
      why = (
        'the images have no labels, so none are held out; give a folder for'
        ' each class, or labels.csv'
      )
    raise errors.DataError(f'{dataset}: no image for {split!r}: {why}')
  sources = [layouts.open_split(layout, split) for layout in holding]
  if len(found) == 1:
    return sources[0]
  joined = base.Concatenation(sources)
  joined.name = f'{found[0].root.name} and {len(found) - 1:,} more'
  return joined


def _find_parts(
  name: str, parts: Mapping[str, base.Source], share: float
) -> tuple[str, OpenSplit]:
  """Returns `find_set` of a set of 'train' and perhaps 'test' in memory."""
  train, test = parts['train'], parts.get('test')
  unlabelled = 0 if train.labels is None else int((train.labels < 0).sum())
  classes = train.class_names, train.num_classes, unlabelled
  line = base.describe_set(
    len(train),
    base.describe_classes(*classes) or 'none, there are no labels',
    base.show_count(len(test), 'images') if test else 'none',
  )

  def open_split(split: str) -> base.Source:
    if split == 'all':
      return base.Concatenation(list(parts.values()))
    if split in parts:
      return parts[split]
    if split == 'test':
      raise errors.DataError(
        f'{name}: no test set; add the arrays test_images and test_labels'
      )
    return _hold_out(train, split, round(share * len(train)))

  return line, open_split


def _find_prepared(
  root: paths.Path, holdout: str, share: float
) -> tuple[str, OpenSplit]:
  """Returns `find_set` of a set that TFDS prepared."""
  prepared = tfds.PreparedDataset(root)
  facts = catalog.find_facts(prepared.name)
  names = prepared.split_names
  tests = [name for name in ('test', 'validation') if name in names]
  # A validation split beside a test split.
  valid = 'validation' if len(tests) == 2 else None
  if facts:
    tests, valid = [facts.test_split], facts.valid_split
  classes, count = prepared.num_classes, prepared.count_images
  test = [f'{x}, {base.show_count(count(x), "images")}' for x in tests[:1]]
  line = base.describe_set(
    count('train'),
    base.describe_classes(prepared.class_names, classes) or 'none',
    test[0] if test else 'none',
  )

  def open_split(split: str) -> base.Source:
    chosen = {
      'valid': [valid or 'train'],
      'test': tests[:1] or ['test or validation'],
      'all': [x for x in ('train', 'validation', 'test') if x in names],
    }.get(split, ['train'])
    for name in chosen:
      if name not in names:
        raise errors.DataError(
          f'{root}: no split {name!r}, found {list(names)}; {split!r} needs it'
        )
    source = tfds.RecordSource(prepared, chosen)
    if valid or split not in ('fit', 'valid'):
      return source
    if prepared.name.startswith('imagenet2012'):
      # By position in the official order (method.md 5.1).
      end, number = catalog.HOLDOUTS[holdout]
      shift = number if end == 'last' else 0
      order = np.roll(np.arange(len(source)), shift)
      return _hold_out(source, split, number, order)
    if facts and facts.valid_per_class:
      return _hold_out_per_class(source, split, facts.valid_per_class)
    number = facts.num_valid if facts and facts.num_valid else 0
    return _hold_out(source, split, number or round(share * len(source)))

  return line, open_split


def _hold_out(
  train: base.Source,
  split: str,
  count: int,
  order: np.ndarray | None = None,
) -> base.Source:
  """The first images of an order, or the others.

  Without an order a random one, the same for all seeds of a run.
  """
  if not 0 < count < len(train):
    raise errors.DataError(
      f'{train.name}: {count:,} images cannot be held out of the'
      f' {len(train):,} of train; use another set, or another'
      ' data.heldout_share of the pretraining'
    )
  if order is None:
    words = np.random.Philox(key=0).random_raw(len(train))
    order = np.argsort(words, kind='stable')
  chosen = order[:count] if split == 'valid' else order[count:]
  return base.Subset(train, np.sort(chosen))


def _hold_out_per_class(
  train: base.Source, split: str, count: int
) -> base.Source:
  """Random images of each class, or the others; at least one is left.

  An image that cannot be read is not held out.
  """
  labels = base.read_labels(train)
  words = np.random.Philox(key=0).random_raw(len(labels))
  order = np.lexsort((words, labels))
  valid = np.zeros(len(labels), bool)
  for rows in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
    if labels[rows[0]] >= 0:
      valid[rows[: min(count, len(rows) - 1)]] = True
  chosen = valid if split == 'valid' else ~valid
  return base.Subset(train, np.flatnonzero(chosen))
