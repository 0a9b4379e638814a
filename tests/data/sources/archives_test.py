import io
import os
import pathlib
import tarfile

import pytest

from byol_jax import errors
from byol_jax.data.sources import archives
from tests.helpers.made import names, opened, refused
from tests.helpers.tars import tar

FILES = {
  'a/1.jpg': b'one',
  'a/deep/2.txt': b'',
  'b/ü \udcff.png': b'x' * 5000,
  'c/' + 'long' * 60 + '.jpg': b'long',
}


def read_all(path):
  archive = archives.Archive(path)
  found = {name: archive.read(name) for name in archive.names}
  assert [archive.size(n) for n in found] == [len(d) for d in found.values()]
  return found


def refusal(path):
  """The one line of a refusal."""
  with pytest.raises(errors.DataError) as info:
    archives.Archive(path)
  assert '\n' not in str(info.value)
  return str(info.value)


@pytest.mark.parametrize('kind', [0, 1, 2], ids=['ustar', 'gnu', 'pax'])
def test_members_are_those_that_were_packed(tmp_path, kind):
  files = FILES if kind else {'a/1.jpg': b'one', 'a/2.tar': b'x' * 600}
  path = tar(tmp_path / 'x.tar', files, format=kind)
  assert read_all(path) == read_all(path) == files
  with pytest.raises(KeyError):
    archives.Archive(path).read('a/3.jpg')


def test_only_plain_files_below_the_root_are_listed(tmp_path):
  path = tmp_path / 'x.tar'
  with tarfile.open(path, 'w') as file:
    for name in ('/absolute', '../up', 'a/../../up', './a/./fine', 'twice'):
      member = tarfile.TarInfo(name)
      member.size = 4
      file.addfile(member, io.BytesIO(b'data'))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
                 tarfile.FIFOTYPE, tarfile.DIRTYPE):  # fmt: skip
      member = tarfile.TarInfo(f'special{kind}')
      member.type, member.linkname = kind, 'a/fine'
      file.addfile(member)
    member = tarfile.TarInfo('twice')
    member.size = 3
    file.addfile(member, io.BytesIO(b'new'))
  assert read_all(path) == {'a/fine': b'data', 'twice': b'new'}


def test_a_tar_that_is_cut_anywhere_is_refused(tmp_path, cache):
  path = tar(
    tmp_path / 'x.tar', {f'{i}.jpg': b'x' * (300 * i) for i in range(4)}
  )
  data = path.read_bytes()
  end = len(data.rstrip(b'\0'))
  end += -end % 512  # the end mark follows
  for size in [*range(0, end, 100), *range(0, end + 1, 512), end + 511]:
    path.write_bytes(data[:size])
    text = refusal(path)
    assert ('no tar file' if size < 512 else f'has {size:,}: ') in text, size
  path.write_bytes(data[: end + 1024])
  assert len(read_all(path)) == 4


def test_members_are_listed_once_until_the_file_changes(
  tmp_path, cache, monkeypatch
):
  path = tar(tmp_path / 'x.tar', FILES)
  before = read_all(path)
  with monkeypatch.context() as patch:
    patch.setattr(archives, '_list_members', None)
    assert read_all(path) == before
  tar(path, {'new.jpg': b'new', **FILES})
  assert 'new.jpg' in read_all(path)


@pytest.mark.parametrize('around', ['.', 'set-2.0'])
@pytest.mark.parametrize(
  'files',
  [
    [f'{c}/{i}.jpg' for c in 'ab' for i in range(9)] + ['.c/1.jpg', 'a/x.txt'],
    [f'train/{c}/{i}.jpg' for c in 'ab' for i in range(9)] + ['val/b/x.png'],
    [f'train/a/{i}.jpg' for i in range(9)] + ['val/a/x.png'],
  ],
)
def test_a_tar_is_the_folder_that_was_packed(write, tmp_path, files, around):
  folder = pathlib.Path(write(*(f'set/{file}' for file in files))) / 'set'
  path = tmp_path / 'set.tar'
  with tarfile.open(path, 'w') as archive:
    archive.add(folder, around)
  for split in ('train', 'test', 'all', 'fit'):
    source, other = opened(folder, split), opened(path, split)
    assert names(other) == names(source)
    assert other.fingerprint == source.fingerprint
    assert other.class_names == source.class_names
    for i in range(len(source)):
      assert other.read(i) == source.read(i)


def test_a_damaged_header_does_not_end_the_list(tmp_path):
  path = tar(tmp_path / 'x.tar', {f'{i}.jpg': b'1' for i in range(3)})
  data = bytearray(path.read_bytes())
  path.write_bytes(data[:1024] + bytes([data[1024] ^ 1]) + data[1025:])
  assert 'damaged: read to byte 1,024' in refusal(path)
  # The list would go back to an earlier member, without an end.
  member = tarfile.TarInfo('2.jpg')
  member.size = -1024
  data[1024:1536] = member.tobuf(tarfile.GNU_FORMAT)
  path.write_bytes(data)
  assert 'a member of -1024 bytes' in refusal(path)


def pax(**records):
  """A header of records for the next member."""
  member = tarfile.TarInfo('next.jpg')
  member.size, member.pax_headers = 4, records
  data = member.tobuf(tarfile.PAX_FORMAT, 'utf-8', 'surrogateescape')
  return data + b'data'.ljust(512, b'\0')


def claim(kind):
  """A header that says that 8 GiB of header follow."""
  member = tarfile.TarInfo('long')
  member.type, member.size = kind, 8**11 - 1
  return member.tobuf(tarfile.USTAR_FORMAT)


HOSTILE = {
  'a size that no file has': pax(size='9' * 40),
  'a size below zero': pax(size='-600'),
  'a size that is no number': pax(size='abc'),
  'a sparse file of text': pax(**{'GNU.sparse.map': '0,x,5'}),
  'a sparse file without a map': pax(
    **{'GNU.sparse.major': '1', 'GNU.sparse.minor': '0'}
  ),
  'a pax header of 8 GiB': claim(tarfile.XHDTYPE),
  'a name of 8 GiB': claim(tarfile.GNUTYPE_LONGNAME),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_a_hostile_member_ends_in_one_line(tmp_path, name):
  path = tar(tmp_path / 'x.tar', {'a.jpg': b'first'})
  data = path.read_bytes()[:1024]
  path.write_bytes(data + HOSTILE[name] + bytes(1024))
  with path.open('r+b') as file:  # sparse: as much as a header claims
    file.truncate(2**33 + 4096)
  text = refusal(path)
  assert 'truncated or damaged: read to byte' in text
  # Refused by its length, before 8 GiB are read.
  assert ('a header of 8' in text) == name.endswith('of 8 GiB')


def test_a_pipe_is_no_tar(tmp_path):
  os.mkfifo(tmp_path / 'x.tar')
  assert 'expected a regular file' in refusal(tmp_path / 'x.tar')


def test_what_is_no_plain_tar_is_refused(tmp_path):
  for kind in ('gz', 'bz2', 'xz'):
    path = tar(tmp_path / f'x.tar.{kind}', FILES, mode=f'w:{kind}')
    text = refusal(path)
    assert str(path) in text and 'compression' in text and 'unpack' in text
    assert refused(path) == text
  for name, data in (('x.tar', b'<html>' * 300), ('notes.txt', b'short')):
    (tmp_path / name).write_bytes(data)
    assert 'is a file, but no tar file' in refusal(tmp_path / name)
  assert 'No such file' in refusal(tmp_path / 'y.tar')
