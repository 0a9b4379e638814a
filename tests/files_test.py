"""Files that are whole or absent, whatever fails."""

import json
import os
import pwd

import pytest

from byol_jax import errors, files
from byol_jax.data.sources import paths
from byol_jax.training import workdir
from tests.helpers import full_disk


def test_a_failed_write_keeps_the_old_file(tmp_path):
  file = tmp_path / 'config.json'
  files.write_json(file, {'seed': 0})
  with open(file) as reader:
    files.write_json(file, {'seed': 1})
    assert json.load(reader) == {'seed': 0}  # never half of a file
  with (
    full_disk.limit_files(50_000),
    pytest.raises(errors.DataError, match=r"config\.json' cannot be"),
  ):
    files.write_json(file, {'text': 'x' * 100_000})
  assert os.listdir(tmp_path) == ['config.json']
  assert json.loads(file.read_text()) == {'seed': 1}


@pytest.mark.parametrize('exists', (False, True))
def test_a_folder_is_filled_whole_or_left_as_it_was(tmp_path, exists):
  folder = tmp_path / 'new' / 'folder'
  if exists:
    folder.mkdir(parents=True)
  before = folder.stat().st_ino if exists else None

  def fail(change):
    with files.fill_folder(folder) as inside:
      (inside / 'x').touch()
      change()

  def fill():
    folder.mkdir(exist_ok=True)
    (folder / 'of another process').touch()

  with pytest.raises(ZeroDivisionError):
    fail(lambda: 1 / 0)
  assert files.find_free_folder('goal', folder) == folder.resolve()
  assert folder.exists() is exists
  with pytest.raises(OSError, match='not empty'):
    fail(fill)
  assert os.listdir(folder) == ['of another process']
  assert os.listdir(folder.parent) == ['folder']
  (folder / 'of another process').unlink()
  if not exists:
    folder.rmdir()
  with files.fill_folder(folder, last='a') as inside:
    (inside / 'a').touch()
    (inside / 'b').mkdir()
    assert not {'a', 'b'} & {path.name for path in folder.glob('*')}
  assert sorted(os.listdir(folder)) == ['a', 'b']
  # The current folder, or where a disk is mounted, stays itself.
  assert not exists or folder.stat().st_ino == before


def test_a_folder_that_cannot_be_made_is_refused_before_it_is_filled(tmp_path):
  (tmp_path / 'file').touch()
  folders = [tmp_path / 'file/folder', '/dev/null/folder']
  if os.path.isdir('/proc/self'):
    folders.append('/proc/folder')  # where root has all permissions
  for folder in folders:
    with pytest.raises(errors.DataError, match='be written'):
      files.find_free_folder('goal', folder)
  new = tmp_path / 'new/folder'
  assert files.find_free_folder('goal', new) == new.resolve()
  assert os.listdir(tmp_path) == ['file']


def test_lines_are_added_and_a_folder_in_the_way_is_named(tmp_path):
  file = tmp_path / 'log.jsonl'
  files.append_json(file, {'a': 1})
  files.append_json(file, {'a': 2})
  lines = file.read_text().splitlines()
  assert [json.loads(line)['a'] for line in lines] == [1, 2]
  with pytest.raises(errors.DataError, match='cannot be written'):
    files.append_json(tmp_path, {})
  os.mkfifo(tmp_path / 'pipe')  # without a reader
  with pytest.raises(errors.DataError, match='pipe is a symbolic link, a pipe'):
    files.append_json(tmp_path / 'pipe', {})


def test_a_part_of_a_line_neither_stays_nor_spoils_the_next(tmp_path):
  file = tmp_path / 'log.jsonl'
  file.write_text('{"a": 0}\n{"a"')  # of a killed process
  files.append_json(file, {'a': 1})
  before = file.read_bytes()
  assert before == b'{"a": 0}\n{"a"\n{"a": 1}\n'
  with (
    full_disk.limit_files(len(before) + 5),
    pytest.raises(errors.DataError, match='cannot be written'),
  ):
    files.append_json(file, {'a': 'x' * 100})
  assert file.read_bytes() == before


def test_a_user_without_a_home_folder_is_told_so(monkeypatch, tmp_path):
  """As in a container: no HOME, and no entry in the list of users."""
  monkeypatch.delenv('HOME')
  monkeypatch.delenv('BYOL_JAX_CACHE')
  monkeypatch.setattr(pwd, 'getpwuid', {}.__getitem__)
  assert files.expand_home(tmp_path) == tmp_path
  for find in (
    lambda: paths.parse_path('~/tensorflow_datasets'),
    files.find_cache_folder,
    lambda: workdir.local_folder('gs://bucket/run'),
  ):
    with pytest.raises(errors.ConfigError, match='home folder, found none'):
      find()


@pytest.mark.parametrize('is_durable', [True, False])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, is_durable):
  (tmp_path / 'far/run').mkdir(parents=True)
  (tmp_path / 'link').symlink_to(tmp_path / 'far/run')
  path = tmp_path / 'link/../run/file'  # normalised: run/file
  with files.replace_file(path, is_durable) as file:
    file.write(b'first')
  writer = files.replace_file(path, is_durable)
  writer.__enter__().write(b'second')
  assert not writer.__exit__(ValueError, ValueError(), None)
  assert (tmp_path / 'far/run/file').read_bytes() == b'first'
  assert os.listdir(tmp_path / 'far/run') == ['file']
