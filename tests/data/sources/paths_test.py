import os
import pathlib
import threading

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


def test_a_directory_lists_its_files_and_skips_hidden_folders(write, tmp_path):
  root = write('top.txt', 'a/1.jpg', 'a/b/2.jpg', '.git/3.jpg', data=b'four')
  (tmp_path / 'link.jpg').symlink_to('nothing')
  directory = paths.Directory(pathlib.Path(root))
  found = sorted(directory.names)
  assert found == ['.git/', 'a/1.jpg', 'a/b/2.jpg', 'link.jpg', 'top.txt']
  assert directory.read('a/b/2.jpg') == b'four'
  assert [directory.size(name) for name in found[1:]] == [4, 4, -1, 4]


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / 'pipe.jpg')
  (tmp_path / 'endless.jpg').symlink_to('/dev/zero')
  with (tmp_path / 'long.jpg').open('wb') as file:
    file.truncate(2**40)  # takes no room on the disk
  folder = paths.Directory(tmp_path)
  for name in folder.names:
    reason = 'more than' if name == 'long.jpg' else 'regular file'
    with pytest.raises(OSError, match=reason):
      folder.read(name)


def test_the_first_answer_of_a_bucket_has_a_timeout(monkeypatch):
  def fail(error):
    raise error

  local, bucket = pathlib.Path('x'), epath.Path('gs://b/x')
  for path in (local, bucket):
    assert paths.call_with_timeout(path, 'looking', lambda: None) is None
    with pytest.raises(FileNotFoundError):
      paths.call_with_timeout(path, '', lambda: fail(FileNotFoundError('x')))
  refuse = lambda: fail(PermissionError('no access\nsecond line'))
  with pytest.raises(PermissionError):
    paths.call_with_timeout(local, 'looking', refuse)
  with pytest.raises(errors.DataError, match='PermissionError: no access;'):
    paths.call_with_timeout(bucket, 'looking', refuse)
  monkeypatch.setattr(paths, 'BUCKET_TIMEOUT', 0.1)
  release = threading.Event()
  with pytest.raises(errors.DataError) as info:
    paths.call_with_timeout(bucket, 'looking', lambda: release.wait(10))
  release.set()
  text = str(info.value)
  assert text.startswith('gs://b/x: looking: no answer within 0.1 s')
  assert 'credentials' in text and '\n' not in text
