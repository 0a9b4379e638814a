"""Synthetic images, and shorthands for opening sets of them."""

import functools
import hashlib
import io
import struct

import numpy as np
from PIL import Image
import pytest

from byol_jax import errors
from byol_jax.data.loading import image_set as image_sets
from byol_jax.data.sampling import crops
from byol_jax.data.sources import lookup

CROP_RANGE = crops.CropRange((0.08, 1.0), (3 / 4, 4 / 3))
STANDARD = {
  'data_dir': None,
  'holdout': 'paper',
  'heldout_share': 0.2,
}

BATCHES = {
  'image_size': 16,
  'crop_ranges': (CROP_RANGE, CROP_RANGE),
  'eval_crop': 'resize',
  'transfer': 'float32',
  'max_bad_share': 0.001,
  'seed': 5,
  'num_threads': 2,
}


def opened(dataset, split='train', **options):
  """Opens a split with the paper's hold-out and a held-out share of 0.2."""
  return lookup.open_source(str(dataset), split, **{**STANDARD, **options})


def describe(dataset, **options):
  """Returns the line about a set that each run prints."""
  lines = []
  opened(dataset, 'all', log=lines.append, **options)
  (line,) = lines
  return line


def image_set(source, *, decoding='once', engine=None, **options):
  """Batches of a source at 16 pixels, with the paper's crops."""
  from byol_jax.data.loading import (
    tf_engine,  # TensorFlow, which some tests miss
  )

  engine = engine or functools.partial(tf_engine.decode_into, decoding=decoding)
  return image_sets.ImageSet(source, engine=engine, **(BATCHES | options))


def digests(batches):
  """SHA-256 of names and bytes of each batch."""
  return [
    hashlib.sha256(
      b''.join(
        name.encode() + np.ascontiguousarray(batch[name]).tobytes()
        for name in sorted(batch)
      )
    ).hexdigest()
    for batch in batches
  ]


def names(source):
  return [source.file_name(i) for i in range(len(source))]


def refused(dataset, split='train', error=errors.DataError, **options):
  """Returns the one line of the error that opening a set raises."""
  with pytest.raises(error) as info:
    opened(dataset, split, **options)
  assert '\n' not in str(info.value)
  return str(info.value)


def smooth(seed, height, width):
  """An image without sharp edges, uint8 [height, width, 3]."""
  rng = np.random.default_rng(seed)
  rows = np.linspace(0, 1, height)[:, None, None]
  columns = np.linspace(0, 1, width)[None, :, None]
  down, along, phase = rng.uniform(0, 1, (3, 3))
  waves = np.sin(5 * down * rows + phase) + np.cos(5 * along * columns)
  waves = 0.5 + 0.25 * waves
  return np.round(255 * waves).astype(np.uint8)


def encode(pixels, kind='JPEG', mode=None, **options):
  """Encodes pixels, converted to a mode of Pillow if one is given."""
  image = Image.fromarray(pixels)
  buffer = io.BytesIO()
  (image.convert(mode) if mode else image).save(buffer, kind, **options)
  return buffer.getvalue()


def claim_size(jpeg, height, width):
  """Returns a JPEG whose header gives another size."""
  data = bytearray(jpeg)
  frame = data.index(b'\xff\xc0')
  data[frame + 5 : frame + 9] = struct.pack('>HH', height, width)
  return bytes(data)


def prepare(folder, features, splits, *, called='toy', config=(), **options):
  """The builder of a set that TFDS wrote: splits {name: examples}."""
  import tensorflow_datasets as tfds

  version = tfds.core.Version('1.0.0')

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name, VERSION = called, version
    BUILDER_CONFIGS = (
      *(tfds.core.BuilderConfig(name=x, version=version) for x in config),
    )

    def _info(self):
      described = tfds.features.FeaturesDict(features)
      return tfds.core.DatasetInfo(builder=self, features=described)

    def _split_generators(self, _):
      return {split: enumerate(found) for split, found in splits.items()}

    _generate_examples = None

  builder = Builder(data_dir=str(folder), **options)
  builder.download_and_prepare()
  return builder


def list_examples(ids, classes='abc'):
  """(features, examples) of labelled images of different sizes."""
  import tensorflow_datasets as tfds

  features = {
    'image': tfds.features.Image(encoding_format='jpeg'),
    'label': tfds.features.ClassLabel(names=[*classes]),
    'file_name': tfds.features.Text(),
  }
  return features, [
    {
      'image': io.BytesIO(encode(smooth(i, 20 + i, 30))),
      **{'label': i % len(classes), 'file_name': f'image{i}.jpg'},
    }
    for i in ids
  ]
