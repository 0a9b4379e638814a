import shutil
import struct

import numpy as np
import pytest

from byol_jax.data.preparation import survey
from byol_jax.data.sources import arrays
from tests.helpers.made import STANDARD, encode, opened, smooth


def looked(dataset, split='train', **options):
  source = opened(dataset, split, **options)
  return source, survey.read(source, 2)


def exif(orientation):
  from PIL import Image

  tags = Image.Exif()
  tags[0x0112] = orientation
  return tags


@pytest.fixture
def pictures(tmp_path):
  """Two classes and a test folder, with one of everything."""
  root = tmp_path / 'pictures'
  jpeg = encode(smooth(0, 10, 30))
  files = {
    'train/ant/a.jpg': jpeg,
    'train/ant/b.png': encode(smooth(1, 20, 10), 'PNG'),
    'train/ant/again.jpg': jpeg,
    'train/bee/c.jpg': encode(smooth(2, 40, 16), exif=exif(6)),
    'train/bee/d.jpg': encode(smooth(3, 40, 17), exif=exif(1)),
    'train/bee/e.jpg': b'no image',
    'train/bee/empty.jpg': b'',
    'train/bee/f.jpg': encode(smooth(5, 40, 18))[:-30],
    'val/ant/seen.jpg': jpeg,
    'val/bee/empty.jpg': b'',
    'val/bee/new.jpg': encode(smooth(7, 12, 12)),
  }
  for name, data in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  return root, files


def test_a_summary_says_what_the_files_say(pictures):
  root, files = pictures
  source, seen = looked(root)
  found = survey.summary(source, seen)
  ours = {name: data for name, data in files.items() if 'train/' in name}
  assert found['fingerprint'] == source.fingerprint
  assert found['num_images'] == 8
  assert found['encoded_bytes'] == sum(map(len, ours.values()))
  sides = ((10, 30), (20, 10), (10, 30), (40, 16), (40, 17))
  assert found['decoded_bytes'] == sum(3 * h * w for h, w in sides)
  assert found['shorter_side'] == {'smallest': 10, 'median': 10, 'largest': 17}
  assert found['longer_side'] == {'smallest': 20, 'median': 30, 'largest': 40}
  assert found['kinds'] == {'JPEG': 4, 'PNG': 1}
  assert found['rotated_by_exif'] == 1
  assert found['classes'] == {
    'number': 2,
    'empty': 0,
    'fewest': {'name': 'ant', 'num_images': 3},
    'most': {'name': 'bee', 'num_images': 5},
  }


def test_broken_images_are_named_with_a_reason(pictures):
  source, seen = looked(pictures[0])
  broken = survey.summary(source, seen)['broken']
  assert [(b['name'], b['index']) for b in broken] == [
    (source.file_name(b['index']), b['index']) for b in broken
  ]
  reasons = {b['name']: b['reason'] for b in broken}
  assert list(reasons) == [f'train/bee/{n}.jpg' for n in ('e', 'empty', 'f')]
  assert 'is none of' in reasons['train/bee/e.jpg']
  assert reasons['train/bee/empty.jpg'] == 'is empty'
  assert 'truncated' in reasons['train/bee/f.jpg']


def test_the_same_bytes_are_found_within_and_across_splits(pictures):
  found = survey.splits(str(pictures[0]), **STANDARD)
  seen = {split: survey.read(source, 2) for split, source in found.items()}
  # The two empty files are broken, but no duplicates.
  assert survey.duplicates(found, seen) == [
    [
      {'split': 'train', 'name': 'train/ant/a.jpg'},
      {'split': 'train', 'name': 'train/ant/again.jpg'},
      {'split': 'test', 'name': 'val/ant/seen.jpg'},
    ]
  ]


def test_splits_share_no_image_and_make_the_whole(write, prepared):
  write('a/1.jpg', 'a/2.jpg', 'a/3.jpg', 'b/4.jpg', 'b/5.jpg', 'b/6.jpg')
  folder = write('b/7.jpg')
  for dataset in ('shapes', folder, str(prepared['tfrecord'][1])):
    found = survey.splits(dataset, **STANDARD)
    assert 'train' in found and set(found) <= {'train', 'test'}
    whole = opened(dataset, 'all')
    assert sum(map(len, found.values())) == len(whole)


def test_a_split_of_its_own_for_choices_is_one_of_them(write):
  folder = write(*(f'{s}/a/{i}.jpg' for s in ('train', 'val', 'test')
                   for i in range(3)))  # fmt: skip
  found = survey.splits(folder, **STANDARD)
  assert set(found) == {'train', 'valid', 'test'}
  assert found['valid'].file_name(0) == 'val/a/0.jpg'


@pytest.fixture
def copy(prepared, tmp_path):
  """copy(file format): a set that may be damaged, and its training shard."""

  def call(file_format):
    folder = tmp_path / file_format
    shutil.copytree(prepared[file_format][1], folder)
    (shard,) = folder.glob(f'*train.{file_format}*')
    return folder, shard

  return call


@pytest.mark.parametrize('file_format', ['tfrecord', 'array_record'])
def test_what_tfds_has_written_is_whole(copy, file_format):
  folder, _ = copy(file_format)
  source, seen = looked(folder)
  assert not survey.summary(source, seen)['broken']
  assert len(seen) == 30


@pytest.mark.parametrize('where', ['length', 'content', 'image'])
def test_a_record_that_is_not_its_checksum_is_broken(copy, where):
  folder, shard = copy('tfrecord')
  data = bytearray(shard.read_bytes())
  (length,) = struct.unpack('<Q', data[:8])
  image = bytes(data).index(b'\xff\xd8\xff')
  # Checksums, or a byte of the picture, which decodes all the same.
  data[
    {'length': 9, 'content': 12 + length + 1, 'image': image + 300}[where]
  ] ^= 1
  shard.write_bytes(data)
  source, seen = looked(folder)
  (broken,) = survey.summary(source, seen)['broken']
  assert broken['index'] == 0 and broken['name'].startswith('image')
  assert 'checksum of the' in broken['reason']
  assert ('length' in broken['reason']) == (where == 'length')
  assert shard.name in broken['reason']


def test_a_damaged_arrayrecord_file_has_broken_records(copy):
  folder, shard = copy('array_record')
  data = bytearray(shard.read_bytes())
  assert any(data[2000:2100])  # and not of what fills up the file
  data[2050] ^= 1
  shard.write_bytes(data)
  source, seen = looked(folder)
  broken = survey.summary(source, seen)['broken']
  assert len(broken) == 1


def test_pixels_are_counted_as_they_are():
  images = np.zeros([3, 4, 5, 3], np.uint8)
  images[1] = 1
  source = arrays.ArraySource(images, np.array([0, 1, 1]))
  found = survey.summary(source, survey.read(source, 1))
  assert found['decoded_bytes'] == found['encoded_bytes'] == images.nbytes
  assert found['kinds'] == {'pixels': 3} and not found['broken']
