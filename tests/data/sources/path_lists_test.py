"""Sets of several folders, and of paths in a text file."""

import os

import pytest

from tests.helpers.made import describe, names, opened, refused


def test_several_folders_are_one_set_with_the_classes_of_all(write, tmp_path):
  write(*(f'one/{c}/{i}.jpg' for c in ('ant', 'bee') for i in range(9)))
  write('two/train/bee/1.jpg', 'two/train/wasp/1.jpg', 'two/val/wasp/2.jpg')
  dataset = f'{tmp_path}/one,{tmp_path}/two'
  parts = {split: opened(dataset, split) for split in ('train', 'test', 'all')}
  every = names(parts['all'])
  assert len(every) == len(set(every)) == 21
  assert sorted(names(parts['train']) + names(parts['test'])) == sorted(every)
  for source in parts.values():
    assert source.class_names == ('ant', 'bee', 'wasp')
    for i, name in enumerate(names(source)):
      assert source.class_names[source.read(i)[1]] == name.split('/')[-2]
      assert source.labels[i] == source.read(i)[1]
  assert 'two/val/wasp/2.jpg' in names(parts['test'])
  valid = names(opened(dataset, 'valid'))
  fit = names(opened(dataset, 'fit'))
  assert valid and sorted(fit + valid) == sorted(names(parts['train']))
  assert 'held out, val/, ' in describe(dataset)
  assert {source.name for source in parts.values()} == {'one and 1 more'}


def test_a_folder_without_classes_leaves_none_to_the_others(write, tmp_path):
  write('one/a/1.jpg', 'one/b/2.jpg', 'flat/3.jpg')
  dataset = f'{tmp_path}/one, {tmp_path}/flat'
  line = describe(dataset)
  assert line.startswith('images: 3 for training; classes: none, ')
  assert 'flat' in line and opened(dataset).num_classes is None
  labelled = opened(dataset, labels='folders')
  found = {name: labelled.read(i)[1] for i, name in enumerate(names(labelled))}
  assert found['flat/3.jpg'] == -1 and {*found.values()} <= {-1, 0, 1}


def test_a_path_with_commas_is_one_path(write, tmp_path):
  write('a, b/1.jpg', 'a, b/2.jpg', 'a/3.jpg', 'a/4.jpg')
  inside = f'{tmp_path}/a, b'
  assert names(opened(inside)) == ['1.jpg', '2.jpg']
  assert len(opened(f'{inside},{tmp_path}/a')) == 4
  assert f'{tmp_path}/c: no such folder' in refused(f'{inside},{tmp_path}/c')


@pytest.mark.parametrize('inner', ['', '/b', '/../set'])
def test_a_folder_twice_is_refused(write, tmp_path, inner):
  write('set/a/1.jpg', 'set/b/2.jpg')
  text = refused(f'{tmp_path}/set,{tmp_path}/set{inner}')
  assert 'its images would count twice' in text


def test_a_set_that_is_no_folder_is_given_alone(write, prepared):
  root = write('a/1.jpg', 'b/2.jpg')
  assert 'give it alone' in refused(f'{root},{prepared["tfrecord"][1]}')


def test_a_text_file_lists_folders_and_files(write, tmp_path):
  """Of files the folders below the innermost common one are the classes."""
  write('in/cat/1.jpg', 'in/cat/2.jpg', 'in/dog/ 3 é.jpg', 'in/dog/4.jpg')
  (tmp_path / 'lists').mkdir()
  path = tmp_path / 'lists' / 'mine.txt'
  lines = [
    '../in/cat/1.jpg',
    '',
    f'{tmp_path}/in/dog/ 3 é.jpg',
    '../in/cat/1.jpg',
  ]
  path.write_bytes('\r\n'.join(['\ufeff' + lines[0], *lines[1:]]).encode())
  source = opened(path, 'all')
  assert names(source) == ['cat/1.jpg', 'dog/ 3 é.jpg']
  assert source.class_names == ('cat', 'dog')
  assert source.read(1) == ((tmp_path / 'in/dog/ 3 é.jpg').read_bytes(), 1)
  folder = opened(tmp_path / 'in', 'all')
  assert source.read(0) == folder.read(0)
  # A file of a listed folder counts once.
  write('else/x/5.jpg', 'else/6.jpg')
  path.write_text('../in\n../in/cat/1.jpg\n../else/6.jpg\n')
  assert len(opened(path, 'all')) == 5


@pytest.mark.parametrize(
  'text, words',
  [
    ('', 'expected a path a line, found none'),
    ('1.jpg\nno\x1b.jpg\n', "line 2: expected .* found 'no\\x1b.jpg': No such"),
    ('a\x00b\n', 'line 1: expected'),
    ('1.jpg\n', '1 image file found, expected at least 2'),
  ],
)
def test_a_list_that_names_no_images_is_refused(write, tmp_path, text, words):
  write('1.jpg')
  (tmp_path / 'list.txt').write_text(text)
  found = refused(tmp_path / 'list.txt')
  assert all(part in found for part in words.split(' .* '))


def test_a_broken_link_in_a_list_is_named(write, tmp_path):
  write('1.jpg')
  os.symlink('nothing', tmp_path / '2.jpg')
  (tmp_path / 'list.txt').write_text('1.jpg\n2.jpg\n')
  assert 'line 2: expected' in refused(tmp_path / 'list.txt')
