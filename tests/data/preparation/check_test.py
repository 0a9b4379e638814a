"""`data check`: what it finds in a set, prints and returns."""

import json
import shutil
import struct

import numpy as np
from PIL import Image
import pytest

from byol_jax.data.preparation import check
from byol_jax.data.sources import arrays
from tests.helpers.made import STANDARD, encode, opened, smooth


def summarize(dataset, split='train'):
  source = opened(dataset, split)
  return check.summarize_split(source, check.inspect_images(source, split, 2))


def exif(orientation):
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
  found = summarize(root)
  ours = {name: data for name, data in files.items() if 'train/' in name}
  assert found['num_images'] == 8
  assert found['encoded_bytes'] == sum(map(len, ours.values()))
  sides = ((10, 30), (20, 10), (10, 30), (40, 16), (40, 17))
  assert found['decoded_bytes'] == sum(3 * h * w for h, w in sides)
  assert found['shorter_side'] == {'smallest': 10, 'median': 10, 'largest': 17}
  assert found['longer_side'] == {'smallest': 20, 'median': 30, 'largest': 40}
  assert found['kinds'] == {'JPEG': 4, 'PNG': 1}
  assert found['rotated_by_exif'] == 1
  assert found['classes'] == {'ant': 3, 'bee': 5}
  reasons = {one['name']: one['reason'] for one in found['broken']}
  assert list(reasons) == [f'train/bee/{n}.jpg' for n in ('e', 'empty', 'f')]
  assert 'is none of' in reasons['train/bee/e.jpg']
  assert reasons['train/bee/empty.jpg'] == 'is empty'
  assert 'truncated' in reasons['train/bee/f.jpg']


def test_the_report_is_printed_written_and_ends_with_one(
  run, pictures, tmp_path
):
  output = tmp_path / 'report.json'
  code, text, error = run(pictures[0], f'--output={output}', '--threads=1')
  assert code == 1 and error.count('\n') == 1
  assert '4 of 11 images are broken' in error and str(output) in error
  assert "train: 8 images of 2 classes, 3 ('ant') to 5 ('bee') each" in text
  assert "'train/bee/empty.jpg' is empty" in text
  assert '1 ask for a rotation, applied' in text
  assert 'duplicates: 1 image more than once, 1 of them in two splits' in text
  found = json.loads(output.read_text())
  assert list(found['splits']) == ['train', 'test']
  # The two empty files are broken, but not duplicates.
  assert found['duplicates'] == [
    ['train train/ant/a.jpg', 'train train/ant/again.jpg',
     'test val/ant/seen.jpg']
  ]  # fmt: skip


def test_a_sound_set_ends_with_zero_and_splits_are_chosen(run, tmp_path):
  code, text, error = run('shapes', '--split=test')
  assert (code, error) == (0, '') and 'train:' not in text
  assert 'test: 1,000 images of 10 classes, 100 ' in text
  assert 'JPEG 1,000' in text and 'duplicates: none' in text
  code, _, error = run('shapes', '--split=valid')
  assert code == 2 and 'expected one of all, train, test' in error
  code, text, error = run(tmp_path / 'nowhere')
  assert code == 3 and not text and error.count('\n') == 1
  (tmp_path / 'one').mkdir()
  (tmp_path / 'one/broken.jpg').touch()
  code, text, error = run(tmp_path / 'one')
  assert code == 1 and '1 of 1 images are broken' in error
  code, text, error = run('shapes', f'--output={tmp_path / "no" / "x"}')
  assert code == 3 and not text and 'can be written' in error


def test_splits_share_no_image_and_make_the_whole(write, prepared):
  folder = write(*(f'{c}/{i}.jpg' for c in 'ab' for i in range(4)))
  for dataset in ('shapes', folder, str(prepared['tfrecord'][1])):
    found = check.open_disjoint_splits(dataset, **STANDARD)
    assert 'train' in found and set(found) <= {'train', 'test'}
    assert sum(map(len, found.values())) == len(opened(dataset, 'all'))


@pytest.fixture
def copy(prepared, tmp_path):
  """copy(file format): a set that may be damaged, and its training shard."""

  def call(file_format):
    folder = tmp_path / file_format
    shutil.copytree(prepared[file_format][1], folder)
    (shard,) = folder.glob(f'*train.{file_format}*')
    return folder, shard

  return call


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
  (broken,) = summarize(folder)['broken']
  assert broken['index'] == 0 and broken['name'].startswith('image')
  assert 'checksum of the' in broken['reason']
  assert ('length' in broken['reason']) == (where == 'length')
  assert shard.name in broken['reason']


def test_a_damaged_arrayrecord_file_has_broken_records(copy):
  folder, shard = copy('array_record')
  found = summarize(folder)
  assert found['num_images'] == 30 and not found['broken']
  data = bytearray(shard.read_bytes())
  assert any(data[2000:2100])  # not padding
  data[2050] ^= 1
  shard.write_bytes(data)
  assert len(summarize(folder)['broken']) == 1


def test_pixels_are_counted_as_they_are():
  images = np.zeros([3, 4, 5, 3], np.uint8)
  images[1] = 1
  source = arrays.ArraySource(images, np.array([0, 1, 1]))
  reports = check.inspect_images(source, 'train', 1)
  found = check.summarize_split(source, reports)
  assert found['decoded_bytes'] == found['encoded_bytes'] == images.nbytes
  assert found['kinds'] == {'pixels': 3} and not found['broken']
