"""Small sets of images, made here."""

import io
import pathlib

from made import encode, smooth
import pytest


@pytest.fixture
def write(tmp_path):
  """write('a/b.jpg', ...) puts an image, or given bytes, below tmp_path."""

  def call(*names, data=None):
    for i, name in enumerate(names):
      path = pathlib.Path(tmp_path, name)
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(encode(smooth(i, 20, 24)) if data is None else data)
    return str(tmp_path)

  return call


@pytest.fixture(scope='session')
def prepared(tmp_path_factory):
  """(builder, folder) of what TFDS itself has written, by file format.

  30 images in train, 10 in validation: sizes, labels and names all differ.
  """
  import tensorflow_datasets as tfds

  class Toy(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {
            'image': tfds.features.Image(encoding_format='jpeg'),
            'label': tfds.features.ClassLabel(names=['a', 'b', 'c']),
            'file_name': tfds.features.Text(),
          }
        ),
      )

    def _split_generators(self, _):
      return {'train': self._generate(30), 'validation': self._generate(10)}

    def _generate(self, count):
      for i in range(count):
        image = io.BytesIO(encode(smooth(i, 20 + i, 30)))
        yield i, {'image': image, 'label': i % 3, 'file_name': f'image{i}.jpg'}

    _generate_examples = _generate

  builders = {}
  for file_format in ('tfrecord', 'array_record'):
    folder = tmp_path_factory.mktemp(file_format)
    builder = Toy(data_dir=str(folder), file_format=file_format)
    builder.download_and_prepare()
    builders[file_format] = builder, pathlib.Path(builder.data_dir)
  return builders
