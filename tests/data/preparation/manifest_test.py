import json

import pytest

from byol_jax import errors
from byol_jax.data.preparation import manifest
from byol_jax.data.sources import index_cache


def made(fingerprint='whole', **splits):
  return {
    'dataset': 'toy',
    'fingerprint': fingerprint,
    'splits': {
      name: {'fingerprint': f'{fingerprint} {name}', 'num_images': count}
      for name, count in splits.items()
    },
  }


def write(made, output=None):
  path = manifest.place(made['fingerprint'], output)
  manifest.write(path, made)
  return path


@pytest.mark.usefixtures('cache')
def test_a_split_is_found_by_its_fingerprint():
  assert manifest.find('whole train') is None
  path = write(made(train=7, test=3))
  assert index_cache.cache_folder() in path.parents
  write(made('other', train=5))
  assert manifest.find('whole train')['num_images'] == 7
  assert manifest.find('whole test')['num_images'] == 3
  assert manifest.find('other train')['num_images'] == 5
  assert manifest.find('another') is None
  # A set that is checked again is one set.
  write(made(train=8))
  assert manifest.find('whole train')['num_images'] == 8
  assert len(list(path.parent.iterdir())) == 2


@pytest.mark.usefixtures('cache')
def test_a_part_that_is_checked_alone_forgets_no_other():
  write(made(train=7, test=3))
  write(made(test=4))
  assert manifest.find('whole train')['num_images'] == 7
  assert manifest.find('whole test')['num_images'] == 4


@pytest.mark.parametrize('text', ['', '{', '[]', '{"format": 0}', 'null'])
@pytest.mark.usefixtures('cache')
def test_a_damaged_manifest_is_none(text):
  path = write(made(train=7))
  path.write_text(text)
  assert manifest.find('whole train') is None


@pytest.mark.usefixtures('cache')
def test_an_output_is_written_where_it_was_asked_for(tmp_path):
  path = tmp_path / 'new' / 'toy.json'
  assert write(made(train=7), str(path)) == path
  found = json.loads(path.read_text())
  assert found['dataset'] == 'toy' and found['format'] == manifest.FORMAT
  assert not index_cache.cache_folder().exists()
  # Nothing of another set is mixed in.
  write(made('other', test=5), str(path))
  assert list(json.loads(path.read_text())['splits']) == ['test']


def test_an_output_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('mine')
  for path in (tmp_path / 'file' / 'x.json', tmp_path):
    with pytest.raises(errors.DataError, match='cannot be written') as caught:
      manifest.place('x', str(path))
    assert '\n' not in str(caught.value)
