from importlib import resources
import pathlib
import shutil
import sys

import pytest

from byol_jax import errors
from byol_jax.data.loading import decode
from byol_jax.data.preparation import imagenet, prepare, shrink, survey
from byol_jax.data.sources import arrays
from tests.helpers import tiny_run
from tests.helpers.made import STANDARD, encode, opened, smooth
from tests.helpers.tars import tar, train, validation

WHERE = STANDARD


def plan(folder, **changed):
  standard = prepare.Plan(
    folder=pathlib.Path(folder),
    name='toy_set',
    change=None,
    max_bad_share=0.0,
    num_threads=2,
  )
  return standard._replace(**changed)


def contents(source):
  """{name: (bytes, label)}."""
  return {source.file_name(i): source.read(i) for i in range(len(source))}


def picture(path, seed, size=(20, 24), kind='JPEG'):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(encode(smooth(seed, *size), kind))


@pytest.fixture
def images(tmp_path):
  """images(*folders): ten of several kinds and sizes in each of them."""

  def call(*folders):
    root = tmp_path / 'images'
    for i, folder in enumerate(folders):
      for j in range(10):
        kind = ('JPEG', 'PNG', 'BMP')[j % 3]
        path = root / folder / f'{i}{j}.{kind.lower().replace("jpeg", "jpg")}'
        picture(path, 10 * i + j, (10 + i, 20 + j), kind)
    return root

  return call


LAYOUTS = {
  'classes': ('ant', 'bee', 'cow'),
  'train and val': ('train/ant', 'train/bee', 'val/ant', 'val/bee'),
  'three splits': ('train/a', 'train/b', 'val/a', 'val/b', 'test/a', 'test/b'),
  'flat': ('',),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_what_is_prepared_is_what_the_folder_holds(images, tmp_path, layout):
  root = images(*LAYOUTS[layout])
  found = survey.splits(str(root), **WHERE)
  where = plan(tmp_path / 'out')
  names = {'valid': 'validation'}
  splits = {names.get(split, split): found[split] for split in found}
  written = prepare.write(splits, where)
  assert where.path == tmp_path / 'out/toy_set/1.0.0'
  for split, source in found.items():
    again = opened('toy_set', split, data_dir=str(tmp_path / 'out'))
    assert contents(again) == contents(source)
    assert again.class_names == source.class_names
    assert again.num_classes == source.num_classes
    result = written[names.get(split, split)]
    assert result.num_images == len(source)
  expected = {'flat': {'train'}, 'three splits': {'train', 'valid', 'test'}}
  assert set(found) == expected.get(layout, {'train', 'test'})
  # Nothing else was left behind.
  tops = {p.relative_to(where.folder).parts[0] for p in where.folder.iterdir()}
  assert tops == {'toy_set'} and list(where.path.parent.iterdir()) == [
    where.path
  ]


def test_a_tar_of_a_folder_gives_the_same(images, tmp_path):
  root = images(*LAYOUTS['train and val'])
  files = {
    f'images/{path.relative_to(root).as_posix()}': path.read_bytes()
    for path in sorted(root.rglob('*.*'))
  }
  packed = tar(tmp_path / 'packed.tar', files)
  for name, source in (('folder', root), ('tar', packed)):
    prepare.write(survey.splits(str(source), **WHERE), plan(tmp_path / name))
  for split in ('train', 'test', 'fit', 'valid'):
    folder, packed = (
      opened('toy_set', split, data_dir=str(tmp_path / name))
      for name in ('folder', 'tar')
    )
    assert contents(folder) == contents(packed)
    assert folder.fingerprint == packed.fingerprint


@pytest.fixture
def tars(tmp_path):
  folder = tmp_path / 'tars'
  folder.mkdir()
  tar(folder / 'ILSVRC2012_img_train.tar', train(9))
  tar(folder / 'ILSVRC2012_img_val.tar', validation(8))
  return folder


def in_order(source):
  return [(source.file_name(i), *source.read(i)) for i in range(len(source))]


def test_imagenet_is_what_tfds_makes_of_the_tars_in_its_order(
  tars, tmp_path, monkeypatch
):
  import tensorflow_datasets as tfds

  # TFDS asks for the package of Python 3.8 to find its own file.
  monkeypatch.setitem(sys.modules, 'importlib_resources', resources)
  builder = tfds.builder(
    'imagenet2012', data_dir=str(tmp_path / 'tfds'), file_format='array_record'
  )
  download = tfds.download.DownloadConfig(manual_dir=str(tars))
  builder.download_and_prepare(
    download_config=download, download_dir=str(tmp_path / 'downloads')
  )
  found = imagenet.splits(tars)
  where = plan(tmp_path / 'out', name='imagenet2012')
  prepare.write({'train': found['train'], 'validation': found['test']}, where)
  assert where.path == tmp_path / 'out/imagenet2012/5.1.0'
  for split, count in (('train', 27), ('test', 8)):
    theirs, ours = (
      opened('imagenet2012', split, data_dir=str(tmp_path / name))
      for name in ('tfds', 'out')
    )
    assert in_order(ours) == in_order(theirs)
    assert len(ours) == count and ours.class_names == theirs.class_names
    assert ours.name == theirs.name == 'imagenet2012'


def test_imagenet_unpacked_or_smaller_has_the_same_order(tars, tmp_path):
  found = imagenet.splits(tars)
  source = found['train']
  for i in range(len(source)):
    data, label = source.read(i)
    folder = tmp_path / 'unpacked' / 'train' / source.class_names[label]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / source.file_name(i)).write_bytes(data)
    # Without val/, a part of train/ would be the test set.
    picture(tmp_path / 'unpacked' / 'val' / folder.name / f'{i}.JPEG', i)
  unpacked = survey.splits(str(tmp_path / 'unpacked'), **WHERE)
  change = shrink.Change(shorter_side=12, quality=95)
  for name, splits, how in (
    ('tars', found, None),
    ('unpacked', unpacked, None),
    ('tars', found, change),
  ):
    where = plan(tmp_path / name, name='imagenet2012', change=how)
    prepare.write({'train': splits['train']}, where)
  first, second, third = (
    opened(dataset, data_dir=str(tmp_path / name))
    for dataset, name in (
      ('imagenet2012:5.1.0', 'tars'),
      ('imagenet2012', 'unpacked'),
      ('imagenet2012/shorter_12', 'tars'),
    )
  )
  names = [first.file_name(i) for i in range(27)]
  assert [second.file_name(i) for i in range(27)] == names
  assert [third.file_name(i) for i in range(27)] == names
  assert names != sorted(names)
  for i in range(27):
    assert second.read(i)[0] == first.read(i)[0]
    assert third.read(i)[1] == first.read(i)[1]
    _, *sides = decode.header(third.read(i)[0])
    assert min(sides) == 12


def tiny(count, broken=()):
  """Images in memory as a source; some are no images."""

  class Tiny:
    name, num_classes, class_names = 'tiny', 2, ('a', 'b')
    fingerprint = 'x'

    def __len__(self):
      return count

    def read(self, index):
      if index in broken:
        return b'no image', index % 2
      return encode(smooth(index, 8, 9)), index % 2

    def file_name(self, index):
      return f'{index}.jpg'

  return Tiny()


@pytest.mark.parametrize('change', [None, shrink.Change(4, 90)])
def test_ten_unusable_images_are_left_out_and_named(tmp_path, caplog, change):
  source = tiny(30, range(3, 13))
  where = plan(tmp_path, change=change)
  assert prepare.write({'train': source}, where)['train'].num_images == 20
  kept = opened(where.path)
  assert set(contents(kept)) == {f'{i}.jpg' for i in (0, 1, 2, *range(13, 30))}
  for i in range(3, 13):
    assert f'train: {i}.jpg' in caplog.text


def test_eleven_are_too_many_over_all_splits_unless_allowed(tmp_path):
  splits = {'train': tiny(30, range(6)), 'test': tiny(9, range(5))}
  with pytest.raises(errors.DataError, match='--max_bad_share') as caught:
    prepare.write(splits, plan(tmp_path))
  text = str(caught.value)
  assert '11 images' in text and 'allowed are 10' in text and '\n' not in text
  assert not list(tmp_path.iterdir())
  written = prepare.write(splits, plan(tmp_path, max_bad_share=0.3))
  assert {k: w.num_images for k, w in written.items()} == {
    'train': 24,
    'test': 4,
  }


def test_a_set_that_exists_is_left_alone(tmp_path):
  prepare.write({'train': tiny(4)}, plan(tmp_path))
  before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
  with pytest.raises(errors.DataError, match=r'toy_set/1\.0\.0 exists'):
    prepare.write({'train': tiny(9)}, plan(tmp_path))
  after = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
  assert after == before
  prepare.write({'train': tiny(4)}, plan(tmp_path, name='other'))


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit, MemoryError])
def test_nothing_remains_of_a_job_that_was_stopped(tmp_path, error):
  class Stopped(type(tiny(1))):
    def __len__(self):
      return 200

    def file_name(self, index):
      # The last one, when all others are on their way.
      if index == 199:
        raise error
      return super().file_name(index)

  expected = errors.DataError if error is MemoryError else error
  source = Stopped()
  if error is MemoryError:
    source.class_names = ('a',)  # the label 1 is no class: TFDS refuses
    source.file_name = lambda index: f'{index}.jpg'
  with pytest.raises(expected):
    prepare.write({'train': source}, plan(tmp_path / 'new' / 'out'))
  assert not list(tmp_path.iterdir())
  with pytest.raises(errors.DataError):
    opened('toy_set', data_dir=str(tmp_path))


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('mine')
  with pytest.raises(errors.DataError, match='cannot be written') as caught:
    prepare.write({'train': tiny(4)}, plan(tmp_path / 'file' / 'out'))
  assert '\n' not in str(caught.value)
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  with pytest.raises(errors.DataError, match='GB are free'):
    prepare.write({'train': tiny(40)}, plan(tmp_path / 'out'))
  assert not [p for p in tmp_path.rglob('*') if p.is_file()][1:]


def test_a_disk_that_fills_up_leaves_no_set(tmp_path):
  # A limit on the size of files stands in for a full disk.
  code = f"""
import resource
import sys
from tests.data.preparation import prepare_test
from byol_jax import errors
from byol_jax.data.preparation import prepare
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
  prepare.write(
    {{'train': prepare_test.tiny(100)}}, prepare_test.plan({str(tmp_path)!r}))
except errors.DataError as error:
  print('found', str(error).count('cannot be written'), *sys.modules)
"""
  output = tiny_run.finish(tiny_run.start_python('-c', code))
  count, *modules = output.partition('found ')[2].split()
  assert count == '1' and 'tensorflow_datasets' in modules
  assert 'tensorflow' not in modules
  assert not [path for path in tmp_path.rglob('*') if path.is_file()]


def test_pixels_without_files_are_refused(tmp_path):
  import numpy as np

  source = arrays.ArraySource(np.zeros([30, 4, 4, 3], np.uint8))
  with pytest.raises(errors.DataError, match='expected encoded images'):
    prepare.write({'train': source}, plan(tmp_path))
