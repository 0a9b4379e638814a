import json
import os

import pyarrow as pa
from pyarrow import parquet
import pytest

from tests.helpers.made import names, opened, refused

ALL = {'split': 'all', 'heldout_share': 0}


def make_table(labels, first=0, names=None, struct=True):
  """Rows of a picture and a label, as `datasets` writes them."""
  rows = [b'image %d' % (first + i) for i in range(len(labels))]
  images = [{'bytes': x, 'path': None} for x in rows] if struct else rows
  table = pa.table({'label': labels, 'image': images, 'age': labels})
  if names is None:
    return table
  label = {'names': names, '_type': 'ClassLabel'}
  features = {'image': {'_type': 'Image'}, 'label': label}
  metadata = json.dumps({'info': {'features': features}})
  return table.replace_schema_metadata({'huggingface': metadata})


@pytest.mark.parametrize('struct', [True, False])
def test_a_file_has_images_and_labels(tmp_path, struct):
  path = tmp_path / 'x.parquet'
  table = make_table([2, 10, -1, None] * 60, struct=struct)
  parquet.write_table(table, path, row_group_size=37)
  for _ in range(2):  # the second time from the copy
    source = opened(path, **ALL)
    assert source.class_names == ('2', '10')
    assert list(source.labels) == [0, 1, -1, -1] * 60
    assert source.read(239) == (b'image 239', -1)
    assert names(source)[5] == 'x.parquet/00000005'
  assert opened(path, labels='none', **ALL).labels is None
  parquet.write_table(make_table(['a', 'b'], 7), path)
  os.utime(path, ns=(0, 0))
  source = opened(path, **ALL)
  assert [source.read(i) for i in range(2)] == [
    (b'image 7', 0),
    (b'image 8', 1),
  ]


def test_a_folder_has_splits_and_names_of_classes(tmp_path):
  (tmp_path / 'data').mkdir()
  of_split = {'train-00000-of-00002': [1, 0], 'train-00001-of-00002': [2, 1]}
  of_split |= {'validation-00000-of-00001': [0], 'test-0': [2, 1, 0]}
  for i, (name, labels) in enumerate(of_split.items()):
    table = make_table(labels, 10 * i, names=['z', 'y', 'x'])
    parquet.write_table(table, tmp_path / f'data/{name}.parquet')
  source = opened(tmp_path)
  assert source.class_names == ('z', 'y', 'x')
  assert list(source.labels) == [1, 0, 2, 1]
  assert list(opened(tmp_path, 'valid').labels) == [0]
  assert opened(tmp_path, 'test').read(2) == (b'image 32', 0)
  other = make_table([0], names=['x', 'y', 'z'])
  parquet.write_table(other, tmp_path / 'data/test-1.parquet')
  assert 'expected the names of classes of' in refused(tmp_path)


def test_what_datasets_saves_is_read_where_it_is(tmp_path):
  for split, labels in {'train': [0, 1, 1], 'test': [1, 0]}.items():
    folder = tmp_path / split
    folder.mkdir()
    for name in ('dataset_info.json', 'state.json'):
      (folder / name).write_text('{}')
    table = make_table(labels, names=['a', 'b'])
    with pa.ipc.new_stream(
      folder / 'data-00000-of-00001.arrow', table.schema
    ) as file:
      file.write_table(table)
  (tmp_path / 'dataset_dict.json').write_text('{}')
  assert list(opened(tmp_path).labels) == [0, 1, 1]
  assert list(opened(tmp_path, 'test').labels) == [1, 0]
  source = opened(tmp_path / 'test', **ALL)
  assert source.read(1) == (b'image 1', 0)


def test_what_is_no_table_of_images_is_refused(tmp_path):
  path = tmp_path / 'x.parquet'
  parquet.write_table(make_table([0, 1]), path)
  whole = path.read_bytes()
  for data in (b'', b'no parquet', whole[: len(whole) // 2], whole[:-4] * 2):
    path.write_bytes(data)
    assert 'no readable table of images' in refused(path)
  for columns, expected in [
    (
      {'x': [1]},
      "expected a column image of bytes or {bytes, path}, found ['x'",
    ),
    ({'a': [b''], 'b': [b'']}, "found ['a', 'b']; name it `image`"),
    ({'image': [b''], 'label': [[1, 2]]}, 'one class an image, found [1, 2]'),
    ({'image': [b''], 'label': [0.5]}, 'a number or a name as label'),
  ]:
    parquet.write_table(pa.table(columns), path)
    assert expected in refused(path)
  parquet.write_table(pa.table({'image': pa.array([], pa.binary())}), path)
  assert "no image for 'train'" in refused(path)
  parquet.write_table(make_table([0, 2], names=['a', 'b']), path)
  assert 'row 1: expected a label below 2, found 2' in refused(path)
  path.unlink()
  os.mkfifo(path)
  assert 'expected a regular file' in refused(path)


def test_a_row_may_name_a_file_instead(tmp_path):
  found = [(b'x', 'a'), (None, 'b.png'), (None, str(tmp_path / 'b.png'))]
  found += [(None, None), (None, 'missing.png')]
  images = [dict(zip(('bytes', 'path'), x)) for x in found]
  path = tmp_path / 'x.parquet'
  parquet.write_table(pa.table({'image': [*images, None]}), path)
  (tmp_path / 'b.png').write_bytes(b'file')
  source = opened(path, **ALL)
  read = [source.read(row)[0] for row in range(3)]
  assert read == [b'x', b'file', b'file']
  for row in range(3, 6):  # named and replaced in a run
    with pytest.raises(OSError, match=r'no bytes of an image|No such file'):
      source.read(row)
