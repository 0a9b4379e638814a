"""Fixtures of small sets of images."""

import io
import pathlib

from etils import epath
import pytest

from tests.helpers.made import encode, smooth


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
  """(builder, folder) of a set written by TFDS, by file format.

  30 images in train and 10 in validation, of different sizes.
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


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """An empty cache of indexes."""
  folder = tmp_path / 'cache'
  monkeypatch.setenv('BYOL_JAX_CACHE', str(folder))
  return folder


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """A folder that etils reads as gs://bucket."""
  root = tmp_path / 'bucket'
  root.mkdir()
  os_backend = epath.backend.os_backend

  def local(path):
    return str(path).replace('gs://bucket', str(root), 1)

  class Fake(type(os_backend)):
    def open(self, path, mode):
      return super().open(local(path), mode)

    def exists(self, path):
      return super().exists(local(path))

    def isdir(self, path):
      return super().isdir(local(path))

    def listdir(self, path):
      return super().listdir(local(path))

    def stat(self, path):
      return super().stat(local(path))

    def glob(self, path):
      found = super().glob(local(path))
      return [name.replace(str(root), 'gs://bucket', 1) for name in found]

  fake = Fake()
  monkeypatch.setattr(
    epath.gpath._GPath,
    '_backend',
    property(lambda path: fake if path._uri_scheme else os_backend),
  )
  return root
