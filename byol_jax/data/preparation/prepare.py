"""Image sets written as TFDS directories of ArrayRecord files.

`tensorflow_datasets` writes the files and sorts the records by a hash of
their keys, which are the file names: ImageNet comes in its official order.
"""

from collections.abc import Iterator, Mapping
import contextlib
import io
import pathlib
import shutil
import tempfile
from typing import Any, NamedTuple

import numpy as np
import tqdm

from byol_jax import errors
from byol_jax.data.loading import batch_buffer, decode, threads
from byol_jax.data.preparation import imagenet, shrink, survey
from byol_jax.data.sources import base, paths, tfds as records

_VERSIONS = {imagenet.NAME: '5.1.0'}  # TFDS's own, of that order
_VERSION = '1.0.0'
_TRIED = 64  # images, to estimate the size of all


class Plan(NamedTuple):
  """What is written where.

  folder: the data_dir, which may hold other sets.
  name: of the set, as TFDS names sets.
  change: None keeps the bytes.
  max_bad_share: of the images; more unusable ones, and than ten, are an error.
  """

  folder: pathlib.Path
  name: str
  change: shrink.Change | None
  max_bad_share: float
  num_threads: int

  @property
  def version(self) -> str:
    """Of the set."""
    return _VERSIONS.get(self.name, _VERSION)

  @property
  def config(self) -> str:
    """The name of the variant; '' for images as they are."""
    return f'shorter_{self.change.shorter_side}' if self.change else ''

  @property
  def path(self) -> pathlib.Path:
    """Where the set will lie."""
    return self.folder / self.name / self.config / self.version


class Written(NamedTuple):
  """What a split became; bytes are those of its records."""

  num_images: int
  num_bytes: int
  num_shards: int


def write(splits: Mapping[str, base.Source], plan: Plan) -> dict[str, Written]:
  """Writes all splits, or nothing.

  Args:
    splits: TFDS's name of a split -> its images, all with the same classes.
    plan: what to write.

  Raises:
    DataError: the set exists, too many images are unusable, or a file cannot
      be written; then no set lies at plan.path.
  """
  path = plan.path
  if path.exists():
    raise errors.DataError(
      f'{path} exists: remove it, or choose another OUTPUT or --name'
    )
  try:
    with paths.remove_new_folders_on_error(path):
      plan.folder.mkdir(parents=True, exist_ok=True)
      _check_space(splits, plan)
      return _made(path, _builder(splits, plan))
  except errors.UserError:
    raise
  except Exception as error:  # of TFDS, ArrayRecord, the disk: many kinds
    first = (str(error) or type(error).__name__).partition('\n')[0]
    raise errors.DataError(f'{path} cannot be written: {first}') from error


def _made(path: pathlib.Path, builder: Any) -> dict[str, Written]:
  with (
    # TFDS makes it even for what needs no download, and speaks of one.
    tempfile.TemporaryDirectory() as downloads,
    contextlib.redirect_stdout(io.StringIO()),
  ):
    builder.download_and_prepare(
      file_format='array_record', download_dir=downloads
    )
  return _written(path, builder)


def _written(path: pathlib.Path, builder: Any) -> dict[str, Written]:
  """Opens what was written: a full disk is not always an error."""
  try:
    prepared = records.PreparedDataset(path)
    shards = {name: prepared.open_files(name) for name in prepared.split_names}
  except errors.DataError:
    shutil.rmtree(path)
    raise
  return {
    name: Written(split.num_examples, int(split.num_bytes), len(shards[name]))
    for name, split in builder.info.splits.items()
  }


def _check_space(splits: Mapping[str, base.Source], plan: Plan) -> None:
  """Refuses what will not fit, by the size of some images of each split."""
  need = 0.0
  for source in splits.values():
    sizes = []
    for index in np.unique(np.linspace(0, len(source) - 1, _TRIED, dtype=int)):
      try:
        sizes.append(len(_image(source, plan, int(index))[1]))
      except Exception:  # counted when all are read
        continue
    need += float(np.mean(sizes or [0])) * len(source)
  free = shutil.disk_usage(plan.folder).free
  if need > free:
    raise errors.DataError(
      f'{plan.folder}: about {need / 1e9:,.3g} GB are needed,'
      f' {free / 1e9:,.3g} GB are free; choose another OUTPUT or a smaller'
      ' --shorter_side'
    )


def _image(
  source: base.Source, plan: Plan, index: int
) -> tuple[str, bytes, int]:
  """File name, the bytes to write, and label."""
  image, label = source.read(index)
  if not isinstance(image, bytes):
    raise errors.DataError(f'{source.name}: pixels, expected encoded images')
  if plan.change:
    image = shrink.smaller(image, plan.change)
  else:
    decode.header(image)
  name = source.file_name(index)
  if plan.name == imagenet.NAME:
    name = name.rpartition('/')[2]  # also of a folder that was unpacked
  # Names of files need not be text; TFDS's must.
  return name.encode('utf-8', 'replace').decode(), image, label


def _examples(
  split: str,
  source: base.Source,
  plan: Plan,
  failures: batch_buffer.Failures,
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Key and fields of each usable image, in the order of the source."""

  def attempt(index: int) -> tuple[str, bytes, int] | str:
    try:
      return _image(source, plan, index)
    except errors.UserError:
      raise
    except Exception as error:  # a source or a decoder may raise anything
      return survey.reason(error)

  found = threads.in_order(attempt, range(len(source)), plan.num_threads)
  options = {'total': len(source), 'unit': ' images', 'disable': None}
  with tqdm.tqdm(found, split, **options) as bar:
    for index, made in enumerate(bar):
      if isinstance(made, str):
        file = f'{split}: {source.file_name(index)}'
        failures.add(len(failures), file, made)  # a number for each, no more
        continue
      name, image, label = made
      fields = {'image': image, 'file_name': name}
      labels = {} if source.class_names is None else {'label': label}
      yield name, fields | labels
    bar.set_description(f'{split}: all read, now written')


def _builder(splits: Mapping[str, base.Source], plan: Plan) -> Any:
  """TFDS's own builder, of a class made for these images."""
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()  # `_examples` has one, on a terminal only
  total = sum(map(len, splits.values()))
  failures = batch_buffer.Failures(
    plan.name, total, plan.max_bad_share, '--max_bad_share'
  )
  class_names = next(iter(splits.values())).class_names
  features = {
    'image': tfds.features.Image(encoding_format='jpeg'),
    'file_name': tfds.features.Text(),
  }
  if class_names is not None:
    features['label'] = tfds.features.ClassLabel(names=class_names)

  def info(self: Any) -> Any:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_description(plan),
      features=tfds.features.FeaturesDict(features),
    )

  def split_generators(self: Any, manager: Any) -> dict[str, Any]:
    return {
      name: _examples(name, source, plan, failures)
      for name, source in splits.items()
    }

  members = {
    'name': plan.name,
    'VERSION': tfds.core.Version(plan.version),
    '_info': info,
    '_split_generators': split_generators,
    '_generate_examples': None,  # abstract; the generators are given above
  }
  if plan.config:
    members['BUILDER_CONFIGS'] = [tfds.core.BuilderConfig(name=plan.config)]
  bases = (tfds.core.GeneratorBasedBuilder,)
  made: Any = type('Images', bases, members, skip_registration=True)
  return made(data_dir=str(plan.folder))


def _description(plan: Plan) -> str:
  if plan.change is None:
    return 'Images as they were, written by byol_jax data prepare.'
  return (
    f'Images of shorter side {plan.change.shorter_side} at most, written by'
    f' byol_jax data prepare: bicubic, JPEG quality {plan.change.quality},'
    ' 4:2:0; smaller ones as they were.'
  )
