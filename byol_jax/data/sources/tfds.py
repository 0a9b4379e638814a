"""Reads encoded images of prepared TFDS directories, in any order.

`tensorflow_datasets` reads the description of a set and parses its examples
with numpy; neither imports TensorFlow.
"""

from collections.abc import Mapping, Sequence
import functools
import hashlib
import logging
from typing import Any

import numpy as np

from byol_jax import errors
from byol_jax.data import catalog
from byol_jax.data.sources import base, paths, record_files

_LOG = logging.getLogger(__name__)
_SAMPLE = 256  # labels that are read when a set is opened


class PreparedDataset:
  """The description of a prepared TFDS directory; reads no image.

  Attributes: `name` of the set with its config, `split_names` that hold an
  example, keys of image and label in an example, `num_classes` and
  `class_names`. Label key and classes are None where there are no labels.

  Raises:
    DataError: the directory cannot be read, is of another file format, or does
      not hold one image an example.
  """

  def __init__(self, folder: paths.Path) -> None:
    import tensorflow_datasets as tfds  # takes half a second

    self.folder = folder
    what = f'{folder}: not a readable prepared TFDS directory'
    with errors.as_data_error(what):
      builder = paths.call_with_timeout(
        folder,
        'reading dataset_info.json',
        lambda: tfds.builder_from_directory(str(folder)),
      )
      self._format = builder.info.file_format.value
      self._splits = dict(builder.info.splits)
      self._features = builder.info.features
      kinds = {key: type(feature) for key, feature in self._features.items()}
    config = builder.builder_config.name if builder.builder_config else ''
    self.name = f'{builder.name}/{config}' if config else str(builder.name)
    self.split_names = tuple(
      sorted(name for name, info in self._splits.items() if info.num_examples)
    )
    if self._format not in record_files.FILE_FORMATS:
      raise errors.DataError(
        f'{folder}: file format {self._format!r} found, expected one of'
        f' {sorted(record_files.FILE_FORMATS)}; prepare it again as tfrecord'
      )
    images = [key for key in kinds if kinds[key] is tfds.features.Image]
    self._decoders = dict.fromkeys(images, tfds.decode.SkipDecoding())
    # Others are masks.
    images = ['image'] if 'image' in images else images
    if len(images) != 1:
      raise errors.DataError(
        f'{folder}: expected one image an example, found {sorted(images)} among'
        f' the features {sorted(kinds)}'
      )
    labels = [
      key for key in kinds if issubclass(kinds[key], tfds.features.ClassLabel)
    ]
    self.image_key = images[0]
    fallback = 'label' if 'label' in labels else None
    self.label_key = labels[0] if len(labels) == 1 else fallback
    label = self._features[self.label_key] if self.label_key else None
    self.num_classes: int | None = label.num_classes if label else None
    self.class_names = tuple(label.names) if label else None
    self._class_lists = [
      key
      for key in ('labels', 'labels_no_difficult')
      if kinds.get(key) is tfds.features.Sequence
      and isinstance(self._features[key].feature, tfds.features.ClassLabel)
    ]

  def count_images(self, split: str) -> int:
    """Returns the images of a split; 0 if there is none of that name."""
    return self._splits[split].num_examples if split in self._splits else 0

  def parse_example(self, record: bytes) -> Any:
    """Returns the features of a record by name; the image stays encoded."""
    return self._features.deserialize_example_np(
      record, decoders=self._decoders
    )

  @property
  def has_class_lists(self) -> bool:
    """Whether images have several classes, as those of PASCAL VOC."""
    return bool(self._class_lists) and not self.label_key

  def find_targets(self, example: Mapping[str, Any]) -> np.ndarray:
    """Returns which classes an image has, int8 [C], from its features.

    1 has the class, 0 lacks it, -1 has it in objects only that are marked as
    difficult, which do not count.
    """
    names = self._class_lists
    targets = np.zeros(self._features[names[0]].num_classes, np.int8)
    for value, name in ((-1, names[0]), (1, names[-1])):
      targets[np.asarray(example.get(name, ()), np.int64)] = value
    return targets

  def open_files(self, split: str) -> list[record_files.RecordFile]:
    """Opens the files of a split.

    Raises:
      DataError: a file is missing, truncated or has another number of records.
    """
    info = self._splits[split]
    places = [paths.parse_path(str(path)) for path in info.filepaths]

    def open_file(path: paths.Path, count: int) -> record_files.RecordFile:
      what = (
        f'{path}: expected a readable {self._format} file of {count:,} records,'
        f' one of {len(places)} of split {split!r}, found'
      )
      with errors.as_data_error(what, '; copy or prepare it again'):
        file = record_files.FILE_FORMATS[self._format](path)
        if file.num_records != count:
          raise ValueError(f'{file.num_records:,} records found')
        return file

    return base.call_in_threads(open_file, places, info.shard_lengths)


class RecordSource(base.Source):
  """Splits of a prepared directory, in the order of their records.

  TFDS writes labels in [0, num_classes), or -1 for none. If a sample of a set
  that the catalog does not list has a -1, all labels are read.
  """

  is_prepared = True

  def __init__(self, dataset: PreparedDataset, splits: Sequence[str]) -> None:
    self._dataset = dataset
    self._files = [file for name in splits for file in dataset.open_files(name)]
    self._ends = np.cumsum([file.num_records for file in self._files])
    self.name = dataset.name
    self.class_names = dataset.class_names
    self.num_classes = dataset.num_classes
    self._label = f'{dataset.name}/{"+".join(splits)}'
    digest = hashlib.sha256(self._label.encode())
    for file in self._files:
      digest.update(file.digest)
    self.fingerprint = digest.hexdigest()
    self.labels = None
    if self.num_classes and not catalog.find_facts(self.name):
      self._find_labels()

  def __len__(self) -> int:
    return int(self._ends[-1])

  def _find_labels(self) -> None:
    """Sets `labels` if some images have none, and the classes if all."""
    count = len(self)
    # A record that cannot be read is named when a batch needs it.
    read = functools.partial(base.read_labels, self, unreadable=0)
    sample = read(range(0, count, -(-count // _SAMPLE)))
    if sample.min() >= 0:
      return
    _LOG.warning(
      '%s: some images have no label: reading all %s', self._label, f'{count:,}'
    )
    labels = read()
    if labels.max() < 0:
      self.num_classes = self.class_names = None
    else:
      self.labels = labels

  def read(self, index: int) -> tuple[bytes, int]:
    """Returns the encoded image and the label, -1 if there is none."""
    example = self._read_example(index)
    key = self._dataset.label_key
    return example[self._dataset.image_key], int(example[key]) if key else -1

  def read_targets(self) -> np.ndarray | None:
    """Returns which classes each image has, int8 [N, C].

    See `PreparedDataset.find_targets`; None for a set with one label an image
    or with none. Every record is read; one that cannot be read does not count.
    """
    dataset = self._dataset
    if not dataset.has_class_lists:
      return None

    def read(index: int) -> np.ndarray:
      try:
        return dataset.find_targets(self._read_example(index))
      except Exception:  # named and left out when its image is read
        return np.full(len(dataset.find_targets({})), -1, np.int8)

    return np.stack(base.call_in_threads(read, range(len(self))))

  def verify(self, index: int) -> None:
    """Raises DataError if a record does not match its checksums."""
    file, row = base.locate_part(self._ends, index)
    self._files[file].verify(row)

  def file_name(self, index: int) -> str:
    """Returns the stored file name, or split and number if there is none."""
    try:
      name = self._read_example(index).get('file_name')
    except Exception:  # reports also name records that cannot be parsed
      name = None
    if isinstance(name, bytes) and name:
      return name.decode('utf-8', 'replace')
    return f'{self._label}/{index:08d}'

  def _read_example(self, index: int) -> Any:
    file, row = base.locate_part(self._ends, index)
    return self._dataset.parse_example(self._files[file].read(row))
