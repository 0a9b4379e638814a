import os

import pytest

from tests.helpers.made import names, opened, refused
from tests.helpers.tars import tar

ALL = {'split': 'all', 'heldout_share': 0}
IMAGES = ['a, b.jpg', 'deep/1.jpg', 'deep/2.jpg', 'other/3.jpg', 'other/4.jpg']
TABLE = """Class;FILE;age
cat;a, b.jpg;3
"dog";1.jpg;4
cat;"deep/2.jpg";5
cat;deep/2.jpg;5

;other/3.jpg;6
cat;missing.jpg;6
"""


@pytest.fixture
def folder(tmp_path):
  """Five images in two folders and beside them; their labels in a table."""
  for name in [*IMAGES, 'notes.txt']:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(name.encode())
  write(tmp_path, TABLE)
  return tmp_path


def write(folder, text, name='labels.csv'):
  path = folder / name
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return path


def labels(source):
  return dict(zip(names(source), source.labels.tolist()))


def test_a_table_has_the_labels_instead_of_the_folders(folder):
  expected = dict(zip(IMAGES, [0, 1, 0, -1, -1]))
  lines = []
  source = opened(folder, log=lines.append, **ALL)
  assert source.class_names == ('cat', 'dog')
  assert labels(source) == expected
  assert source.read(1) == (b'deep/1.jpg', 1)
  assert lines == [
    'images: 5 for training; classes: 2 (cat ... dog), 2 images without; test:'
    ' none; not read: 1 missing file of labels.csv'
    " ('missing.jpg'), 1 other column of labels.csv, 1 repeated row of"
    ' labels.csv'
  ]
  assert opened(folder, labels='none', **ALL).labels is None
  for label in 'none', 'folders':  # without the table
    assert names(opened(folder, labels=label, **ALL)) == IMAGES
  members = {f'set/{x}': x.encode() for x in IMAGES}
  members['set/labels.csv'] = TABLE.encode()
  inside = opened(tar(folder / 'x.tar', members), **ALL)
  assert labels(inside) == {f'set/{x}': y for x, y in expected.items()}


def test_a_table_that_is_the_set_leaves_out_other_images(folder):
  path = write(folder, TABLE, 'some.csv')
  assert names(opened(path, **ALL)) == IMAGES[:4]
  assert opened(path, labels='none', **ALL).labels is None


def test_splits_are_those_of_the_column_or_of_the_folders(folder):
  rows = ['"a, b.jpg",0,train', '1.jpg,1,Training', '2.jpg,0,val']
  write(folder, '\ufefffilename,label,split\n' + '\n'.join(rows))
  assert names(opened(folder, 'test')) == ['deep/2.jpg']
  assert len(opened(folder)) == 4  # with those that are not in the table
  (folder / 'deep').rename(folder / 'train')
  (folder / 'other').rename(folder / 'test')
  write(folder, 'path,class\ntrain/1.jpg,a\ntrain/2.jpg,b\n3.jpg,b\n')
  assert labels(opened(folder, 'test')) == {
    'test/3.jpg': 1,
    'test/4.jpg': -1,
  }


@pytest.mark.parametrize(
  'text, expected',
  [
    ('', 'line 1: expected one column filename or file or'),
    ('1.jpg,cat\n', 'name the columns filename,label in its first line'),
    ('file,path,label\n', 'found 2 in'),
    ('file,label\n1.jpg,a,b\n', 'line 2: expected 2 columns, found 3'),
    ('file,label\n1.jpg,a\n1.jpg,b\n', "lines 2 and 3: 'deep/1.jpg' has the"),
    ('file,label\n"1.jpg,a\n', 'unexpected end of data'),
    ('file,label\n1.jpg,' + 'x' * 10**7, 'field larger than field limit'),
    ('file,label\n' + ',' * 10**6, 'line 2: expected'),
    ('file,label\n1\0.jpg,a\n', r"expected a file name, found '1\x00.jpg'"),
    ('file,label\n1.jpg,\0\n', r"one class an image, found '\x00'"),
    ('file,label\n/x/1.jpg,a\n', "none of 1 files is an image here, as '/x/1"),
    ('file,label,split\n1.jpg,a,no\n', "val or test as split, found 'no'"),
    (
      b'file,label\n1.jpg,\xe9\n',
      'line 2: expected text in UTF-8, found the byte 0xe9',
    ),
    (
      'file,label,split\n1.jpg,a,train\n2.jpg,b,train\n3.jpg,c,test\n',
      '1 class of test that no image for training has: c',
    ),
  ],
)
def test_a_table_that_cannot_be_read_is_refused(folder, text, expected):
  write(folder, text)
  found = refused(folder)
  assert expected in found
  assert len(found) < 600


def test_a_pipe_is_no_table(folder):
  (folder / 'labels.csv').unlink()
  os.mkfifo(folder / 'labels.csv')
  assert 'expected a regular file' in refused(folder)
