"""Writes a folder of images, or a tar of one, as a TFDS set of ArrayRecord.

TFDS's own writer makes the files. ImageNet's archives are not read here:
`tfds build imagenet2012 --file_format=array_record` prepares them.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import io
import logging
import os
import pathlib
import re
import shlex
import tempfile
from typing import Any

from PIL import Image
import tqdm

from byol_jax import errors, files
from byol_jax.data import catalog
from byol_jax.data.loading import bad_images, decode, thread_engine
from byol_jax.data.preparation import check
from byol_jax.data.sources import base, tfds as prepared_sets

VERSION = '1.0.0'
_NAME = re.compile('[a-z][a-z0-9_]*')

Examples = Iterator[tuple[str, dict[str, Any]]]  # key, fields


def prepare_images(
  source: str,
  output: str,
  *,
  name: str | None,
  shorter_side: int | None,
  quality: int,
  max_bad_share: float,
  num_threads: int,
  **holdout: Any,
) -> pathlib.Path:
  """Writes a set of images as ArrayRecord files that TFDS and we can read.

  Args:
    source: a folder of images or a .tar of one.
    output: a data_dir; it may hold other sets.
    name: of the set; None takes that of the source.
    shorter_side: larger images are resized to it, in pixels; None keeps the
      bytes of every image.
    quality: of the JPEGs that are resized, 1 to 100.
    max_bad_share: of unusable images that are left out, in [0, 1], beyond ten.
    num_threads: 0 is one for each core.
    holdout: see `check.open_disjoint_splits`.

  Returns:
    The folder of the set. Prints a line for each split.

  Raises:
    ConfigError: a value cannot be used, or TensorFlow is not installed.
    DataError: the images cannot be read or too many are bad, the set exists,
      or it cannot be written; then nothing is left of it.
  """
  if name:
    _check_name(name)
  _check_not_imagenet(source, output)
  splits = check.open_disjoint_splits(source, data_dir=None, **holdout)
  first = next(iter(splits.values()))
  name = name or _derive_name(first.name)
  variant = f'shorter_{shorter_side}' if shorter_side else ''
  path = files.expand_home(output) / name / variant / VERSION
  if path.exists():
    raise errors.DataError(
      f'{path} exists: remove it, or choose another OUTPUT or --name'
    )
  counter = bad_images.BadImageCounter(
    name, sum(map(len, splits.values())), max_bad_share, '--max_bad_share'
  )
  convert = functools.partial(
    resize_encoded, shorter_side=shorter_side, quality=quality
  )
  threads = thread_engine.count_threads(num_threads)
  names = {'valid': 'validation'}
  examples = {
    names.get(x, x): _read_examples(x, images, convert, threads, counter)
    for x, images in splits.items()
  }
  info = _write(examples, first.class_names, path, name, variant or None)
  _print_written(info, len(counter))
  return path


def _print_written(info: Any, num_left_out: int) -> None:
  for split, written in info.splits.items():
    files_written = base.show_count(written.num_shards, 'files')
    images = base.show_count(written.num_examples, 'images')
    print(f'{split}: {images}, {written.num_bytes:,} bytes in {files_written}')
  if num_left_out:
    print(f'{base.show_count(num_left_out, "unusable images")} left out')


def make_training_command(path: pathlib.Path) -> str:
  """Returns the command line that trains on the set in a folder."""
  words = ('byol-jax', 'pretrain', '--config=imagenette')
  dataset = f'--config.dataset={path.resolve()}'
  return shlex.join([*words, dataset, '--workdir=runs/prepared'])


def _check_name(name: str) -> None:
  expected = None
  if not _NAME.fullmatch(name):
    expected = 'small letters, digits and _'
  elif (facts := catalog.find_facts(name)) and not facts.homepage:
    expected = f'another name, since tfds build {name} prepares that set'
  if expected:
    raise errors.ConfigError(
      f'--name: expected {expected}, found {errors.quote(name)}'
    )


def _check_not_imagenet(source: str, output: str) -> None:
  if any(files.expand_home(source).glob('ILSVRC2012_img_*.tar')):
    raise errors.DataError(
      f'{source}: holds the archives of ImageNet; prepare them with: tfds build'
      f' imagenet2012 --file_format=array_record --manual_dir={source}'
      f' --data_dir={output}'
    )


def _derive_name(source_name: str) -> str:
  """Returns a source's name as TFDS names sets: 'My Photos' -> my_photos."""
  words = source_name.partition('/')[0].removesuffix('.tar').lower()
  name = re.sub('[^a-z0-9]+', '_', words).strip('_')
  if not _NAME.fullmatch(name):
    raise errors.ConfigError(
      f'--name: expected one, since {source_name!r} cannot be written in small'
      ' letters, digits and _ after a letter'
    )
  return name


def resize_encoded(
  data: bytes, shorter_side: int | None, quality: int
) -> bytes:
  """Returns an encoded image of at most that shorter side, as JPEG.

  Bicubic with antialiasing, chroma 4:2:0; an image that is not larger keeps
  its bytes, unless EXIF turns it: in a prepared set nothing is turned.

  Args:
    data: the encoded image.
    shorter_side: pixels; None keeps the size.
    quality: of the JPEG, 1 to 100.

  Raises:
    decode.Unusable: it cannot be decoded, or its header not be read.
  """
  header = decode.read_header(data)
  shorter = min(header.height, header.width)
  side = min(shorter_side or shorter, shorter)
  if side == shorter and header.orientation == 1:
    return data
  sides = header.width, header.height
  size = [max(1, round(x * side / shorter)) for x in sides]
  buffer = io.BytesIO()
  Image.fromarray(decode.decode_rgb(data)).resize(
    size, Image.Resampling.BICUBIC
  ).save(buffer, 'JPEG', quality=quality, subsampling='4:2:0')
  return buffer.getvalue()


def _read_examples(
  split: str,
  source: base.Source,
  convert: Callable[[bytes], bytes],
  num_threads: int,
  counter: bad_images.BadImageCounter,
) -> Examples:
  """Yields the usable images, converted, in the order of the source."""

  def read(index: int) -> tuple[bytes, int] | str:
    try:
      image, label = source.read(index)
      if not isinstance(image, bytes):
        raise errors.DataError(
          f'{source.name}: holds pixels, expected encoded images'
        )
      return convert(image), label
    except errors.UserError:
      raise
    except Exception as error:  # a source or a decoder may raise anything
      return bad_images.describe_failure(error)

  found = thread_engine.map_in_order(read, range(len(source)), num_threads)
  bar = tqdm.tqdm(found, split, total=len(source), unit=' images', disable=None)
  for index, image in enumerate(bar):
    name = source.file_name(index)
    if isinstance(image, str):
      counter.add(len(counter), f'{split}: {name}', image)
      continue
    # Names of files need not be text; TFDS's must.
    name = name.encode('utf-8', 'replace').decode()
    fields: dict[str, Any] = {'image': image[0], 'file_name': name}
    if source.class_names is not None:
      fields['label'] = image[1]
    yield name, fields


def _write(
  examples: Mapping[str, Examples],
  class_names: tuple[str, ...] | None,
  path: pathlib.Path,
  name: str,
  config: str | None,
) -> Any:
  """Writes all splits by TFDS to the folder `path`; returns its DatasetInfo.

  They are written beside it and renamed: nothing is left of what fails.
  """
  errors.require_package('tensorflow', extra='tf')  # TFDS writes with it
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  logging.getLogger('absl').setLevel(logging.ERROR)  # TFDS names each variant
  features = {
    'image': tfds.features.Image(encoding_format='jpeg'),
    'file_name': tfds.features.Text(),
  }
  if class_names is not None:
    features['label'] = tfds.features.ClassLabel(names=class_names)
  parent = next(folder for folder in path.parents if folder.exists())
  with (
    errors.as_data_error(f'{path} cannot be written'),
    tempfile.TemporaryDirectory(prefix='.preparing-', dir=parent) as folder,
    contextlib.redirect_stdout(io.StringIO()),
  ):
    builder = tfds.dataset_builders.AdhocBuilder(
      version=VERSION,
      features=tfds.features.FeaturesDict(features),
      split_datasets=examples,
      description='Written by byol_jax data prepare.',
      data_dir=folder,
      name=name,
      config=config,
    )
    builder.download_and_prepare(
      file_format='array_record', download_dir=f'{folder}/downloads'
    )
    # Opens what was written, since a full disk is not always an error.
    written = prepared_sets.PreparedDataset(pathlib.Path(builder.data_dir))
    for split in written.split_names:
      written.open_files(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(written.folder, path)
  return builder.info
