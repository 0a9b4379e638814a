"""Prepared TFDS directories: random access to their encoded images.

`tensorflow_datasets` reads the description of a set and parses its records
with numpy: neither loads TensorFlow.
"""

from collections.abc import Sequence
from concurrent import futures
import hashlib
from typing import Any, NamedTuple

import numpy as np

from byol_jax import errors
from byol_jax.data.sources import record_files as shards_lib, storage

_THREADS = 16  # opening is bound by the latency of the disk


class Features(NamedTuple):
  """How to read an example: names of the fields, and TFDS's parser."""

  image: str
  label: str | None
  class_names: tuple[str, ...] | None
  num_classes: int | None
  parser: Any
  decoders: dict[str, Any]


class Prepared:
  """A prepared TFDS directory, opened without reading an image."""

  def __init__(self, folder: storage.Path) -> None:
    import tensorflow_datasets as tfds  # half a second, and only here

    self.folder = folder
    try:
      builder = storage.contact(
        folder,
        'reading dataset_info.json',
        lambda: tfds.builder_from_directory(str(folder)),
      )
      self._format = builder.info.file_format.value
      self._splits = dict(builder.info.splits)
      self.features = _features(folder, builder.info.features, tfds)
    except errors.DataError:
      raise
    except Exception as error:  # TFDS raises many kinds
      first = (str(error) or type(error).__name__).splitlines()[0]
      raise errors.DataError(
        f'{folder}: not a readable prepared TFDS directory: {first}'
      ) from error
    config = builder.builder_config.name if builder.builder_config else ''
    self.name = f'{builder.name}/{config}' if config else str(builder.name)
    if self._format not in shards_lib.KINDS:
      raise errors.DataError(
        f'{folder}: file format {self._format!r} found, expected one of'
        f' {sorted(shards_lib.KINDS)}; prepare it again as tfrecord'
      )

  @property
  def split_names(self) -> tuple[str, ...]:
    """The splits of the directory that hold an example."""
    return tuple(
      sorted(name for name, info in self._splits.items() if info.num_examples)
    )

  def shards(self, split: str) -> list[shards_lib.Shard]:
    """Opens a split; a file missing, cut or of another count is refused."""
    info = self._splits[split]
    paths = [storage.make_path(str(path)) for path in info.filepaths]

    def opened(path: storage.Path, count: int) -> shards_lib.Shard:
      try:
        return shards_lib.KINDS[self._format](path)
      except errors.DataError as error:
        raise errors.DataError(
          f'{error} (expected {count:,} records)'
        ) from None
      except FileNotFoundError as error:
        raise errors.DataError(
          f'{path}: missing; dataset_info.json of {self.folder} expects'
          f' {len(paths)} files for split {split!r}; copy or prepare it again'
        ) from error

    with futures.ThreadPoolExecutor(_THREADS) as pool:
      shards = list(pool.map(opened, paths, info.shard_lengths))
    for path, count, shard in zip(
      paths, info.shard_lengths, shards, strict=True
    ):
      if shard.num_records != count:
        raise errors.DataError(
          f'{path}: {shard.num_records:,} records found, dataset_info.json'
          f' expects {count:,}; copy or prepare it again'
        )
    return shards


def _features(folder: storage.Path, features: Any, tfds: Any) -> Features:
  """Finds the one image and, if there is one, the class label."""
  images = [k for k, f in features.items() if type(f) is tfds.features.Image]
  labels = [
    k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)
  ]
  if len(images) != 1:
    raise errors.DataError(
      f'{folder}: expected one image an example, found {sorted(images)} among'
      f' the features {sorted(features)}'
    )
  label = 'label' if 'label' in labels else None
  if label is None and len(labels) == 1:
    label = labels[0]
  return Features(
    image=images[0],
    label=label,
    class_names=tuple(features[label].names) if label else None,
    num_classes=features[label].num_classes if label else None,
    parser=features,
    decoders={images[0]: tfds.decode.SkipDecoding()},
  )


class RecordSource:
  """Splits of a prepared directory, in the order of their records.

  The fingerprint covers number, length and checksum of all TFRecords; of an
  ArrayRecord file number, size and some blocks.
  """

  def __init__(self, prepared: Prepared, splits: Sequence[str]) -> None:
    self._features = prepared.features
    self._shards = [s for name in splits for s in prepared.shards(name)]
    self._ends = np.cumsum([shard.num_records for shard in self._shards])
    self.name = prepared.name
    self.class_names = prepared.features.class_names
    self.num_classes = prepared.features.num_classes
    self._label = f'{prepared.name}/{"+".join(splits)}'
    digest = hashlib.sha256(self._label.encode())
    for shard in self._shards:
      digest.update(shard.digest)
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return int(self._ends[-1])

  def read(self, index: int) -> tuple[bytes, int]:
    """Encoded image and label, -1 if there is none."""
    example = self._example(index)
    label = self._features.label
    return example[self._features.image], int(example[label]) if label else -1

  def verify(self, index: int) -> None:
    """Compares a record with its checksums; DataError if they differ."""
    shard, place = self._place(index)
    shard.verify(place)

  def file_name(self, index: int) -> str:
    """The stored file name, else split and number."""
    try:
      name = self._example(index).get('file_name')
    except Exception:  # also asked for records that cannot be parsed
      name = None
    if isinstance(name, bytes) and name:
      return name.decode('utf-8', 'replace')
    return f'{self._label}/{index:08d}'

  def _place(self, index: int) -> tuple[shards_lib.Shard, int]:
    if not 0 <= index < len(self):
      raise IndexError(index)
    shard = int(np.searchsorted(self._ends, index, side='right'))
    start = int(self._ends[shard - 1]) if shard else 0
    return self._shards[shard], index - start

  def _example(self, index: int) -> Any:
    shard, place = self._place(index)
    return self._features.parser.deserialize_example_np(
      shard.record(place), decoders=self._features.decoders
    )
