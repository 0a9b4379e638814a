"""Where a data set lies: a folder, or a name that TFDS prepared."""

import os
import pathlib
import re

from byol_jax import errors

_INFO = 'dataset_info.json'
_NAME = re.compile(r'\w+(/[\w.+-]+)?(:[\w.*]+)?')


def is_prepared(folder: pathlib.Path) -> bool:
  """Whether a folder is what TFDS writes for one version of a set."""
  return (folder / _INFO).is_file()


def find(dataset: str, data_dir: str | None) -> pathlib.Path:
  """The folder of a data set: a path, or a TFDS name below data_dir."""
  if '://' in dataset or '://' in (data_dir or ''):
    raise errors.DataError(
      f'{dataset} in {data_dir}: buckets are not read directly; mount or copy'
      ' the set to a local path'
    )
  path = pathlib.Path(dataset).expanduser()
  if path.is_dir():
    return _newest(path) or path
  if path.exists():
    raise errors.DataError(f'{path}: is a file, expected a folder of images')
  if not _NAME.fullmatch(dataset):
    raise errors.DataError(
      f'{path}: no such folder; dataset is a folder of images, a prepared'
      " TFDS directory, the name of a TFDS set, or 'shapes'"
    )
  base = pathlib.Path(
    data_dir
    or os.environ.get('TFDS_DATA_DIR')
    or pathlib.Path.home() / 'tensorflow_datasets'
  ).expanduser()
  return _prepared(dataset, base)


def _newest(path: pathlib.Path, version: str = '*') -> pathlib.Path | None:
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


def _prepared(dataset: str, base: pathlib.Path) -> pathlib.Path:
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
  raise errors.DataError(
    f'dataset {dataset}: no such folder, and no TFDS set of that name is'
    f' prepared in {base}; prepare it with: tfds build {dataset}'
    f' --data_dir={base}, or set data_dir to where it lies'
  )
