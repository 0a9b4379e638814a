import pathlib
import threading
import time

from etils import epath
import pytest

from byol_jax import errors
from byol_jax.data.sources import paths

CONTENT = bytes(range(256)) * 40


@pytest.fixture(params=['disk', 'bucket'])
def path(request, bucket):
  (bucket / 'file').write_bytes(CONTENT)
  if request.param == 'disk':
    return paths.parse_path(str(bucket / 'file'))
  return paths.parse_path('gs://bucket/file')


def test_a_read_is_a_slice(path, monkeypatch):
  monkeypatch.setattr(paths, '_BLOCK', 100)
  places = [(0, 0), (5, 7), (99, 3), (100, 100), (10_200, 50), (20_000, 5)]
  for sequential in (False, True):
    with paths.open_ranges(path, sequential=sequential) as read:
      for offset, length in [*places, *reversed(places), (0, 500)]:
        assert read(length, offset) == CONTENT[offset : offset + length]
  assert paths.read_range(path, 300, 77) == CONTENT[77:377]


def test_sequential_reads_of_a_bucket_are_few_requests():
  offsets = []

  def read(length, offset):
    offsets.append(offset)
    return CONTENT[offset : offset + length]

  buffered = paths._buffer_blocks(read)
  found = [buffered(16, offset) for offset in range(0, len(CONTENT), 16)]
  assert b''.join(found) == CONTENT and offsets == [0]


def test_a_stamp_follows_the_file(path, bucket):
  first = paths.stat_file(path)
  assert first.size == len(CONTENT)
  (bucket / 'file').write_bytes(CONTENT + b'x')
  assert paths.stat_file(path).size == first.size + 1
  (bucket / 'file').unlink()
  with pytest.raises(FileNotFoundError):
    paths.stat_file(path)


def test_home_is_expanded_and_only_gs_is_a_bucket(monkeypatch):
  monkeypatch.setenv('HOME', '/somewhere/else')
  assert paths.parse_path('~/a') == pathlib.Path('/somewhere/else/a')
  assert str(paths.parse_path('gs://b/a')) == 'gs://b/a'
  with pytest.raises(errors.DataError, match='expected gs:// or a local path'):
    paths.parse_path('s3://b/a')


def test_a_bucket_that_does_not_answer_is_a_data_error(monkeypatch):
  monkeypatch.setattr(paths, 'BUCKET_TIMEOUT', 0.1)
  release = threading.Event()
  with pytest.raises(errors.DataError) as info:
    paths.call_with_timeout(
      epath.Path('gs://b/x'), 'looking', lambda: release.wait(10)
    )
  release.set()
  text = str(info.value)
  assert text.startswith('gs://b/x: looking: no answer within 0.1 s')
  assert 'credentials' in text and '\n' not in text


def test_errors_of_a_bucket_become_one_line_and_those_of_the_disk_pass():
  def refuse():
    raise PermissionError('no access\nsecond line')

  def miss():
    raise FileNotFoundError('x')

  path = epath.Path('gs://b/x')
  with pytest.raises(errors.DataError, match='PermissionError: no access;'):
    paths.call_with_timeout(path, 'looking', refuse)
  with pytest.raises(FileNotFoundError):
    paths.call_with_timeout(path, 'looking', miss)
  with pytest.raises(PermissionError):
    paths.call_with_timeout(pathlib.Path('x'), 'looking', refuse)


def test_an_answer_in_time_is_returned():
  def answer_late():
    time.sleep(0.05)
    return 3

  for path in (epath.Path('gs://b/x'), pathlib.Path('x')):
    assert paths.call_with_timeout(path, 'looking', answer_late) == 3
    assert paths.call_with_timeout(path, 'looking', lambda: None) is None


def test_a_directory_lists_its_files_and_skips_hidden_folders(write, tmp_path):
  root = write('top.txt', 'a/1.jpg', 'a/b/2.jpg', '.git/3.jpg', data=b'four')
  (tmp_path / 'link.jpg').symlink_to('nothing')
  directory = paths.Directory(pathlib.Path(root))
  found = sorted(directory.names)
  assert found == ['a/1.jpg', 'a/b/2.jpg', 'link.jpg', 'top.txt']
  assert directory.read('a/b/2.jpg') == b'four'
  assert [directory.size(name) for name in found] == [4, 4, -1, 4]
