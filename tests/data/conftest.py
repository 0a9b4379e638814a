"""Fixtures of small sets of images."""

import pathlib

from etils import epath
import pytest

from tests.helpers.made import encode, list_examples, prepare, smooth


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
  builders = {}
  for file_format in ('tfrecord', 'array_record'):
    folder = tmp_path_factory.mktemp(file_format)
    features, train = list_examples(range(30))
    splits = {'train': train, 'validation': list_examples(range(10))[1]}
    builder = prepare(folder, features, splits, file_format=file_format)
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
