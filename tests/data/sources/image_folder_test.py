import errno
import os
import pathlib

import numpy as np
import pytest

from byol_jax.data.sources import layouts
from tests.helpers.made import (
  describe,
  encode,
  names,
  opened,
  refused,
  smooth,
)

SPLITS = ('train', 'fit', 'valid', 'test', 'all')


def split_names(root):
  return {split: names(opened(root, split)) for split in SPLITS}


@pytest.mark.parametrize('base', ['', 'train/'])
def test_folders_are_classes_and_a_hash_holds_out_a_test_set(write, base):
  files = [f'{base}{c}/{i}.jpg' for c in ('cat', 'dog') for i in range(40)]
  root = write(*files)
  found = split_names(root)
  assert found['all'] == sorted(files) and found['train']
  assert sorted(found['train'] + found['test']) == sorted(files)
  assert 6 <= len(found['test']) <= 26  # 16 +- 3 standard deviations
  assert sorted(found['fit'] + found['valid']) == found['train']
  assert found['valid']
  for split in ('train', 'test'):
    source = opened(root, split)
    assert source.class_names == ('cat', 'dog')
    for i, name in enumerate(found[split]):
      label = source.class_names[source.read(i)[1]]
      assert label == name.removeprefix(base).split('/')[0]
  # A new file moves no other one between the splits.
  added = {f'{base}cat/new.jpg', f'{base}bird/another.jpg'}
  write(*added)
  for split, expected in found.items():
    assert set(names(opened(root, split))) - added == set(expected)


def test_the_share_held_out_is_the_share_asked_for():
  files = [f'class/{i}.jpg' for i in range(20_000)]
  for share in (0.0, 0.1, 0.5):
    found = [layouts.is_heldout(file, share, 'test') for file in files]
    # 4 standard deviations of a binomial distribution
    bound = 4 * np.sqrt(share * (1 - share) / 20_000)
    assert abs(np.mean(found) - share) <= bound


def test_what_is_held_out_never_changes():
  """Or images of a test set would enter the training of the next version."""
  files = [f'class/{i}.jpg' for i in range(40)]
  found = [
    [i for i, x in enumerate(files) if layouts.is_heldout(x, 0.2, salt)]
    for salt in ('test', 'valid')
  ]
  assert found == [
    [1, 22, 27, 28, 35],
    [1, 8, 10, 14, 15, 17, 23, 33, 34, 37],
  ]


def test_train_and_val_folders_are_the_splits(write):
  files = [f'train/{c}/{i}.jpg' for c in 'abc' for i in range(20)]
  root = write(*files, 'val/b/x.jpg', 'val/c/deep/er/y.jpg')
  found = split_names(root)
  assert found['train'] == sorted(files) and len(found['all']) == 62
  assert found['test'] == ['val/b/x.jpg', 'val/c/deep/er/y.jpg']
  source = opened(root, 'test')
  assert [source.read(i)[1] for i in range(2)] == [1, 2]
  assert sorted(found['fit'] + found['valid']) == sorted(files)
  assert found['valid']


def test_every_visible_image_file_is_a_record_whatever_it_holds(write):
  write('a/1.jpg', 'b/2.JPG', '.c/3.jpg', 'a/._4.jpg', 'a/notes.txt')
  write('a/empty.jpeg', data=b'')
  root = write('b/page.png', 'c/x.webp', 'c/x.bmp', 'c/x.gif', data=b'<html>')
  source = opened(root, 'all')
  assert names(source) == [
    *('a/1.jpg', 'a/empty.jpeg', 'b/2.JPG', 'b/page.png'),
    *('c/x.bmp', 'c/x.gif', 'c/x.webp'),
  ]
  assert source.read(1) == (b'', 0) and source.read(3) == (b'<html>', 1)


def test_links_are_followed_and_circles_end(write, tmp_path):
  write('set/a/1.jpg', 'set/b/with space é.jpg', 'else/where/2.jpg')
  root = tmp_path / 'set'
  (root / 'a' / 'broken.jpg').symlink_to('nothing')
  (root / 'b' / 'link.jpg').symlink_to(root / 'a' / '1.jpg')
  (root / 'b' / 'circle').symlink_to(root)
  (root / 'c').symlink_to(tmp_path / 'else')
  source = opened(root, 'all')
  assert names(source) == [
    *('a/1.jpg', 'a/broken.jpg', 'b/link.jpg', 'b/with space é.jpg'),
    'c/where/2.jpg',
  ]
  with pytest.raises(OSError):
    source.read(1)


def test_one_folder_around_the_set_is_looked_through(write, tmp_path):
  for around, *inner in (
    ('x', 'a/1.jpg', 'b/2.jpg', 'b/3.jpg'),
    ('y', 'train/a/1.jpg', 'train/b/2.jpg', 'val/a/3.jpg'),
    ('z', 'train/a/1.jpg', 'train/b/2.jpg'),
  ):
    write(*(f'{around}/out/{name}' for name in inner))
    outer = opened(tmp_path / around, 'all')
    expected = opened(tmp_path / around / 'out', 'all')
    assert names(outer) == names(expected) == sorted(inner)
    assert (outer.name, outer.fingerprint) == ('out', expected.fingerprint)
    assert outer.class_names == ('a', 'b')
    assert outer.read(1) == expected.read(1)
  # A class is no folder around the set.
  write('u/only/1.jpg', 'u/only/2.jpg', 'v/only/a/1.jpg', 'v/only/2.jpg')
  for folder in 'uv':
    found = [
      opened(tmp_path / folder, 'all', labels=labels).class_names
      for labels in ('auto', 'folders')
    ]
    assert found == [None, ('only',)]


@pytest.mark.parametrize(
  'files, options, words',
  [
    ((), {}, ': 0 image files found, expected at least 2'),
    (('a/1.jpg', 'b/2.txt'), {}, ': 1 image file found, expected at least 2'),
    (('b.npz', 'c.npz'), {}, 'read: 2 .npz; give one file, as ROOT/b.npz'),
    (
      ('val/a/1.jpg', 'val/b/1.jpg'),
      {},
      'expected train/ beside val/, found none; give the folder ROOT/val',
    ),
    (
      ('train/a/1.jpg', 'train/b/2.jpg', 'val/a/3.jpg', 'val/z/4.jpg'),
      {},
      "'ROOT': 1 class of val/ that no image for training has: z; expected",
    ),
    (
      ('a/1.jpg', 'b/2.jpg'),
      {'split': 'test', 'heldout_share': 0.0},
      'is none; add images, or val/ beside train/, or raise data.heldout_share',
    ),
    (('1.jpg', '2.jpg'), {'split': 'test'}, '; give a folder for each class'),
  ],
)
def test_a_folder_that_is_no_set_is_refused(write, files, options, words):
  root = write(*files)
  assert words.replace('ROOT', root) in refused(root, **options)


def test_a_test_folder_beside_val_is_the_test_set_if_it_has_labels(write):
  root = write('train/a/1.jpg', 'train/b/2.jpg', 'val/a/3.jpg', 'test/4.jpg')
  assert names(opened(root, 'test')) == ['val/a/3.jpg']
  assert describe(root).endswith(
    'test: val/, 1 image; not read: 1 image of test/ in no class folder'
  )
  found = split_names(write('test/b/5.jpg'))
  assert (found['valid'], found['test']) == (['val/a/3.jpg'], ['test/b/5.jpg'])
  assert found['fit'] == found['train']


def test_a_folder_called_train_is_a_split_or_a_class(write, tmp_path):
  write(*(f'class/{c}/{i}.jpg' for c in ('bus', 'train') for i in range(20)))
  assert opened(tmp_path / 'class').class_names == ('bus', 'train')
  write('split/train/a/1.jpg', 'split/train/b/2.jpg', 'split/other/3.jpg')
  source = opened(tmp_path / 'split', heldout_share=0.0)
  assert source.class_names == ('a', 'b')
  assert names(source) == ['train/a/1.jpg', 'train/b/2.jpg']


@pytest.mark.parametrize('base', ['', 'train/'])
def test_a_flat_folder_has_no_labels(write, base):
  root = write(*(f'{base}{i}.jpg' for i in range(3)))
  source = opened(root)
  assert source.num_classes is None and source.class_names is None
  assert len(source) == len(opened(root, 'all')) == 3
  assert source.read(1)[1] == -1
  assert 'no labels' in refused(root, 'test')


def test_the_fingerprint_covers_names_and_sizes(write):
  root = write('a/1.jpg', 'b/2.jpg')
  prints = [opened(root, 'all').fingerprint for _ in range(2)]
  for name in ('b/2.jpg', 'b/3.jpg'):
    write(name, data=encode(smooth(5, 40, 40)))
    prints.append(opened(root, 'all').fingerprint)
  assert prints[0] == prints[1] and len(set(prints)) == 3


def test_loose_images_pretrain_and_leave_no_classes(write):
  """Unless the folders are said to be classes."""
  albums = [f'{c}/{i}.jpg' for c in ('lake', 'sea') for i in range(9)]
  root = write(*albums, 'loose.jpg')
  everything = sorted([*albums, 'loose.jpg'])
  assert describe(root) == (
    'images: 19 for training; classes: none, 1 of 19 images lie in no folder'
    " ('loose.jpg'); data.labels=folders takes folders for classes; test: none"
  )
  for labels in ('auto', 'none'):
    source = opened(root, labels=labels)
    assert names(source) == everything and source.num_classes is None
    assert 'no labels' in refused(root, 'test', labels=labels)
  train, test = (opened(root, x, labels='folders') for x in ('train', 'test'))
  assert train.class_names == ('lake', 'sea')
  assert sorted(names(train) + names(test)) == everything
  assert train.labels[names(train).index('loose.jpg')] == -1
  assert test.labels.min() >= 0
  assert ', 1 image without; test: a share' in describe(root, labels='folders')


def test_what_is_not_read_is_counted_by_extension(write):
  root = write('a/1.jpg', 'a/2.JPE', 'b/3.jfif', 'b/c/4.png')
  write('a/x.mp4', 'b/y.MP4', 'a/.DS_Store', 'README', data=b'x')
  write('.thumbnails/5.jpg', 'b/.cache/6.jpg', 'b/._7.jpg', data=b'x')
  write('b/odd.\x1b[31m', 'b/new.\nline', data=b'x')
  line = describe(root, heldout_share=0.0)
  assert line == (
    'images: 4 for training; classes: 2 (a ... b); test: none; not read:'
    " 2 .mp4, 2 hidden files, 2 hidden folders, 1 '.\\nline',"
    " 1 '.\\x1b[31m', 1 without extension"
  )


def test_a_folder_that_cannot_be_read_is_counted(write, monkeypatch):
  root = write('a/1.jpg', 'a/2.jpg', 'b/3.jpg', 'b/deep/4.jpg')
  scandir = os.scandir

  def refuse(path):
    if os.path.basename(path) in refused_names:
      raise PermissionError(errno.EACCES, 'Permission denied', path)
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', refuse)
  refused_names = ['b', 'no']
  assert describe(root).endswith('test: none; not read: 1 unreadable folder')
  refused_names = [os.path.basename(root)]
  assert 'not read: 1 unreadable folder' in refused(root)

  def exists(path):
    raise PermissionError(errno.EACCES, 'Permission denied', str(path))

  monkeypatch.setattr(pathlib.Path, 'exists', exists)
  assert 'Permission denied' in refused(root)


def test_a_val_folder_without_classes_is_said(write):
  """As ImageNet's, before it is sorted: its images are not the test set."""
  files = [f'train/{c}/{i}.jpg' for c in 'ab' for i in range(9)]
  root = write(*files, *(f'val/{i}.jpg' for i in range(5)))
  held = len(opened(root, 'test'))
  assert names(opened(root, 'test')) == [
    file for file in files if layouts.is_heldout(file, 0.2, 'test')
  ]
  assert describe(root).endswith(
    f'test: a share of 0.2 held out, {held} images; not read: 5 images of val/'
    ' in no class folder'
  )


def test_a_share_of_few_images_that_is_none_is_said(write):
  line = describe(write('a/1.jpg', 'b/2.jpg'), heldout_share=1e-9)
  assert line.endswith('; test: a share of 1e-09 held out, 0 images')


def test_names_of_classes_cannot_write_to_a_terminal(write):
  root = write('\x1b[31mred/1.jpg', 'z\n/2.jpg')
  line = describe(root, heldout_share=0.0)
  assert "classes: 2 ('\\x1b[31mred' ... 'z\\n')" in line
  assert line.isprintable()
