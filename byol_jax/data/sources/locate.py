"""Where a data set lies: a folder, a tar file, or a name that TFDS prepared.

A prepared set may lie in a bucket, gs://; folders and tar files may not.
"""

import os
import pathlib
import re

from byol_jax import errors
from byol_jax.data.sources import storage

_INFO = 'dataset_info.json'
_NAME = re.compile(r'\w+(/[\w.+-]+)?(:[\w.*]+)?')


def is_prepared(folder: storage.Path) -> bool:
  """Whether a folder is what TFDS writes for one version of a set."""
  return storage.contact(
    folder, f'looking for {_INFO}', (folder / _INFO).exists
  )


def find(dataset: str, data_dir: str | None) -> storage.Path:
  """The place of a data set: a path, or a TFDS name below data_dir.

  Returns:
    A prepared TFDS directory, on the disk or in a bucket, or a folder or a file
    on the disk.

  Raises:
    DataError: no such place, or a bucket that does not answer.
  """
  path = storage.make_path(dataset)
  if not isinstance(path, pathlib.Path):
    return _in_bucket(path)
  if path.is_dir():
    return _newest(path) or path
  if path.exists():
    return path
  if not _NAME.fullmatch(dataset):
    raise errors.DataError(
      f'{path}: no such folder; dataset is a folder of images, a tar file of'
      ' them, an .npz of arrays, a prepared TFDS directory, the name of a TFDS'
      " set, or 'shapes'"
    )
  base = storage.make_path(
    data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  )
  return storage.contact(
    base, f'looking for {dataset}', lambda: _prepared(dataset, base)
  )


def _in_bucket(path: storage.Path) -> storage.Path:
  def look() -> storage.Path | None:
    return path if (path / _INFO).exists() else _newest(path)

  found = storage.contact(path, f'looking for {_INFO}', look)
  if found is None:
    raise errors.DataError(
      f'{path}: no prepared TFDS directory found; images and tar files in a'
      ' bucket are not read as they are: prepare the set, mount the bucket, or'
      ' copy it to a local path'
    )
  return found


def _newest(path: storage.Path, version: str = '*') -> storage.Path | None:
  """The highest version of a set below path that is prepared."""
  found = [
    child.parent
    for child in path.glob(f'{version}/{_INFO}')
    if re.fullmatch(r'\d+\.\d+\.\d+', child.parent.name)
  ]
  return max(
    found,
    key=lambda child: [int(part) for part in child.name.split('.')],
    default=None,
  )


def _prepared(dataset: str, base: storage.Path) -> storage.Path:
  name, _, version = dataset.partition(':')
  found = _newest(base / name, version or '*')
  if found:
    return found
  configs = [
    path
    for path in sorted((base / name).glob('*'))
    if _newest(path, version or '*')
  ]
  if len(configs) == 1:
    return _newest(configs[0], version or '*') or configs[0]
  if configs:
    raise errors.DataError(
      f'dataset {dataset}: {base / name} holds several:'
      f' {", ".join(f"{name}/{path.name}" for path in configs)}; choose one'
    )
  missing = '' if base.exists() else ', a folder that does not exist'
  raise errors.DataError(
    f'dataset {dataset}: no such folder, and no TFDS set of that name is'
    f' prepared in {base}{missing}; prepare it with: tfds build {dataset}'
    f' --data_dir={base}, or with data prepare, or set data_dir to where it'
    ' lies'
  )
