import pathlib
import threading
import time

from etils import epath
import pytest

from byol_jax import errors
from byol_jax.data.sources import storage

CONTENT = bytes(range(256)) * 40


@pytest.fixture(params=['disk', 'bucket'])
def path(request, bucket):
  (bucket / 'file').write_bytes(CONTENT)
  if request.param == 'disk':
    return storage.make_path(str(bucket / 'file'))
  return storage.make_path('gs://bucket/file')


def test_a_read_is_a_slice(path, monkeypatch):
  monkeypatch.setattr(storage, '_BLOCK', 100)
  places = [(0, 0), (5, 7), (99, 3), (100, 100), (10_200, 50), (20_000, 5)]
  for in_order in (False, True):
    with storage.reading(path, in_order=in_order) as read:
      for offset, length in [*places, *reversed(places), (0, 500)]:
        assert read(length, offset) == CONTENT[offset : offset + length]
  assert storage.read_at(path, 300, 77) == CONTENT[77:377]


def test_reads_in_order_ask_a_bucket_for_blocks():
  calls = []

  def read(length, offset):
    calls.append(offset)
    return CONTENT[offset : offset + length]

  blocks = storage._in_blocks(read)
  found = [blocks(16, offset) for offset in range(0, len(CONTENT), 16)]
  assert b''.join(found) == CONTENT and calls == [0]


def test_a_stamp_follows_the_file(path, bucket):
  first = storage.stamp(path)
  assert first.size == len(CONTENT)
  (bucket / 'file').write_bytes(CONTENT + b'x')
  assert storage.stamp(path).size == first.size + 1
  (bucket / 'file').unlink()
  with pytest.raises(FileNotFoundError):
    storage.stamp(path)


def test_only_gs_is_a_bucket(monkeypatch):
  monkeypatch.setenv('HOME', '/somewhere/else')
  assert storage.make_path('~/a') == pathlib.Path('/somewhere/else/a')
  assert str(storage.make_path('gs://b/a')) == 'gs://b/a'
  with pytest.raises(errors.DataError, match='expected gs:// or a local path'):
    storage.make_path('s3://b/a')


def test_contact_ends_at_the_deadline(monkeypatch):
  monkeypatch.setattr(storage, 'DEADLINE', 0.1)
  forever = threading.Event()
  wait = forever.wait
  with pytest.raises(errors.DataError) as info:
    storage.contact(epath.Path('gs://b/x'), 'looking', lambda: wait(10))
  forever.set()
  text = str(info.value)
  assert text.startswith('gs://b/x: looking: no answer within 0.1 s')
  assert 'credentials' in text and '\n' not in text


def test_contact_turns_what_a_bucket_says_into_one_line():
  def refuse():
    raise PermissionError('no access\nsecond line')

  def missing():
    raise FileNotFoundError('x')

  path = epath.Path('gs://b/x')
  with pytest.raises(errors.DataError) as info:
    storage.contact(path, 'looking', refuse)
  assert 'no success: no access;' in str(info.value)
  with pytest.raises(FileNotFoundError):
    storage.contact(path, 'looking', missing)
  with pytest.raises(PermissionError):  # on the disk, nothing is changed
    storage.contact(pathlib.Path('x'), 'looking', refuse)


def test_contact_gives_the_answer(monkeypatch):
  def late():
    time.sleep(0.05)
    return 3

  for path in (epath.Path('gs://b/x'), pathlib.Path('x')):
    assert storage.contact(path, 'looking', late) == 3
    assert storage.contact(path, 'looking', lambda: None) is None
