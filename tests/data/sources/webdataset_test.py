import io
import json
import os
import tarfile

from ml_collections import config_dict
import pytest

from byol_jax.data import from_config
from tests.helpers.made import names, opened, refused
from tests.helpers.tars import tar

ALL = {'split': 'all', 'heldout_share': 0}


def shard(path, labels, sidecar='cls'):
  """A shard of an image for each label; None has none."""
  path.parent.mkdir(exist_ok=True, parents=True)
  members = {}
  for i, label in enumerate(labels):
    members[f'{path.stem}{i}.png'] = b'image %d' % i
    if label is not None:
      members[f'{path.stem}{i}.{sidecar}'] = str(label).encode()
  return tar(path, members)


@pytest.fixture
def shards(tmp_path):
  """Ten images in two shards, of the classes 2 and 10; one has no label."""
  shard(tmp_path / 'x-000.tar', [2, 10, 2, '10\n', None])
  shard(tmp_path / 'x-001.tar', [2, 10, 2, 10, -1])
  return tmp_path


def test_shards_have_the_labels_beside_their_images(shards):
  expected = {'2': 0, '10': 1}  # by value, not by text
  for dataset in (shards, shards / 'x-{000..001}.tar'):
    source = opened(dataset, **ALL)
    assert source.class_names == tuple(expected)
    assert list(source.labels) == [0, 1, 0, 1, -1] * 2
    assert names(source)[5] == 'x-001.tar/x-0010.png'
    assert source.read(6) == (b'image 1', 1)
  one = opened(shards / 'x-001.tar', **ALL)
  assert list(one.labels) == [0, 1, 0, 1, -1]
  assert opened(shards, labels='none', **ALL).labels is None


def test_an_object_in_json_has_a_label(tmp_path):
  values = [{'label': 'dog'}, {'class': 'cat', 'x': []}, {'cls': 'dog'}, {}]
  shard(tmp_path / '0.tar', map(json.dumps, values), 'json')
  source = opened(tmp_path, **ALL)
  assert source.class_names == ('cat', 'dog')
  assert list(source.labels) == [1, 0, 1, -1]


def test_a_tar_of_folders_stays_one(tmp_path):
  members = {f'{x}/{i}.png': b'image %d' % i for x in 'ab' for i in range(2)}
  members |= {'a/0.json': b'{"boxes": []}', 'a/1.mask.png': b'mask'}
  source = opened(tar(tmp_path / 'x.tar', members), **ALL)
  assert source.class_names == ('a', 'b')
  (tmp_path / 'set').mkdir()
  tar(tmp_path / 'set/train.tar', members)
  by_folder = opened(tmp_path / 'set', labels='folders', **ALL)
  assert by_folder.class_names == ('a', 'b')
  assert len(by_folder) == 4  # the mask is no image of a sample


@pytest.mark.parametrize('name', ['set-{}-0.tar', '{}/0.tar'])
def test_splits_are_those_in_the_names(tmp_path, name):
  for split, count in {'train': 6, 'val': 4, 'test': 2}.items():
    shard(tmp_path / name.format(split), [0, 1] * (count // 2))
  lines = []
  assert len(opened(tmp_path, log=lines.append)) == 6
  assert len(opened(tmp_path, 'valid')) == 4
  assert len(opened(tmp_path, 'test')) == 2
  alone = tmp_path / name.format('val').replace('0.tar', '{0..0}.tar')
  assert len(opened(alone, heldout_share=0)) == 4
  assert lines == [
    'images: 6 for training; classes: 2 (0 ... 1); test: test, 2 images'
  ]


def test_a_folder_of_images_may_hold_its_tar(tmp_path):
  (tmp_path / '1.png').write_bytes(b'image 1')
  (tmp_path / '2.png').write_bytes(b'image 2')
  shard(tmp_path / 'all.tar', [0, 1])
  assert names(opened(tmp_path)) == ['1.png', '2.png']


def test_a_pattern_is_recorded_as_an_absolute_path(shards, monkeypatch):
  monkeypatch.chdir(shards)
  config = from_config.resolve_paths(
    config_dict.ConfigDict({'dataset': 'x-{000..001}.tar', 'data_dir': None})
  )
  assert config.dataset == str(shards.resolve() / 'x-{000..001}.tar')
  assert len(opened(config.dataset, **ALL)) == 10


def test_what_cannot_be_read_is_named(shards):
  assert '1 of 3 shards are missing' in refused(shards / 'x-{000..002}.tar')
  path = shards / 'x-002.tar'
  for label, expected in {
    '{"label": [1]}': "x-0020.json': expected a number or a name as label, one"
    ' class an image, found [1]; give the set without labels',
    '{"label"': 'expected JSON in UTF-8, found b\'{"label"\'',
    ' ' * 2**21: 'expected a label, found 2,097,152 bytes',
    '[' * 10**5: 'expected JSON in UTF-8',
  }.items():
    shard(path, [label], 'json')
    assert expected in refused(shards)
  whole = (shards / 'x-001.tar').read_bytes()
  path.write_bytes(whole[: len(whole) // 3])
  assert 'x-002.tar: truncated or damaged' in refused(shards)
  path.unlink()
  os.mkfifo(path)
  assert 'x-002.tar: cannot be read: expected a regular file' in refused(shards)


def test_links_and_pipes_in_a_shard_are_no_images(tmp_path):
  with tarfile.open(tmp_path / 'x.tar', 'w') as file:
    for i, kind in enumerate([tarfile.REGTYPE, tarfile.REGTYPE,
                              tarfile.FIFOTYPE, tarfile.SYMTYPE]):  # fmt: skip
      for ending, data in (('png', b'image %d' % i), ('cls', b'%d' % i)):
        member = tarfile.TarInfo(f'{i}.{ending}')
        member.type, member.linkname = kind, '0.png'
        member.size = len(data) if kind == tarfile.REGTYPE else 0
        file.addfile(member, io.BytesIO(data))
  assert names(opened(tmp_path, **ALL)) == ['x.tar/0.png', 'x.tar/1.png']
