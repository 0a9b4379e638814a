from concurrent import futures
import io
import pathlib
import tarfile

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.data.sources import archives
from tests.helpers.made import names, opened, refused

FILES = {
  'a/1.jpg': b'one',
  'a/deep/2.txt': b'',
  'b/ü \udcff.png': b'x' * 5000,
  'c/' + 'long' * 60 + '.jpg': b'long',
}


def pack(path, files, **options):
  """A tar of {name: bytes}."""
  with tarfile.open(path, options.pop('mode', 'w'), **options) as tar:
    for name, data in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return path


def packed(files, **options):
  buffer = io.BytesIO()
  pack(None, files, fileobj=buffer, **options)
  return buffer.getvalue()


def content(path):
  archive = archives.Archive(path)
  found = {name: archive.read(name) for name in archive.names}
  assert [archive.size(n) for n in found] == [len(d) for d in found.values()]
  return found


def line(path):
  """The one line of a refusal."""
  with pytest.raises(errors.DataError) as info:
    archives.Archive(path)
  assert '\n' not in str(info.value)
  return str(info.value)


@pytest.mark.parametrize('kind', [0, 1, 2], ids=['ustar', 'gnu', 'pax'])
def test_members_are_those_that_were_packed(tmp_path, kind):
  files = FILES if kind else {'a/1.jpg': b'one', 'a/2.jpg': b'x' * 600}
  path = pack(tmp_path / 'x.tar', files, format=kind)
  assert content(path) == content(path) == files
  with pytest.raises(KeyError):
    archives.Archive(path).read('a/3.jpg')


def test_members_are_those_that_tarfile_reads_in_any_order(tmp_path):
  rng = np.random.default_rng(0)
  files = {f'{i}.jpg': rng.bytes(int(rng.integers(0, 3000))) for i in range(60)}
  archive = archives.Archive(pack(tmp_path / 'x.tar', files))
  order = [f'{i}.jpg' for i in rng.integers(0, 60, 500)]
  with futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(archive.read, order))
  assert found == [files[name] for name in order]


def test_a_tar_inside_is_a_folder_and_is_entered_once(tmp_path):
  inner = packed({'x.jpg': b'x', 'sub/y.jpg': b'y', 'z.tar': b'not entered'})
  outer = {'n01.tar': inner, 'train/n02.tar': packed({}), 'top.jpg': b't'}
  assert content(pack(tmp_path / 'x.tar', outer)) == {
    'n01/x.jpg': b'x',
    'n01/sub/y.jpg': b'y',
    'n01/z.tar': b'not entered',
    'top.jpg': b't',
  }


def test_what_is_no_plain_file_below_the_root_is_left_out(tmp_path):
  path = tmp_path / 'x.tar'
  with tarfile.open(path, 'w') as tar:
    for name in ('/absolute', '../up', 'a/../../up', './a/./fine', 'twice'):
      member = tarfile.TarInfo(name)
      member.size = 4
      tar.addfile(member, io.BytesIO(b'data'))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
                 tarfile.FIFOTYPE, tarfile.DIRTYPE):  # fmt: skip
      member = tarfile.TarInfo(f'special{kind}')
      member.type, member.linkname = kind, 'a/fine'
      tar.addfile(member)
    member = tarfile.TarInfo('twice')
    member.size = 3
    tar.addfile(member, io.BytesIO(b'new'))
  assert content(path) == {'a/fine': b'data', 'twice': b'new'}


@pytest.mark.parametrize('mode', ['w:gz', 'w:bz2', 'w:xz'])
def test_a_compressed_tar_is_to_be_unpacked(tmp_path, mode):
  path = pack(tmp_path / 'x.tar.z', FILES, mode=mode)
  text = line(path)
  assert str(path) in text and 'compressed' in text and 'unpack it' in text
  assert refused(path) == text


def test_a_tar_that_is_cut_anywhere_is_refused(tmp_path, cache):
  data = packed({f'{i}.jpg': b'x' * (300 * i) for i in range(4)})
  end = len(data.rstrip(b'\0'))
  end += -end % 512  # the end mark follows
  path = tmp_path / 'x.tar'
  for size in [*range(0, end, 100), *range(0, end + 1, 512), end + 511]:
    path.write_bytes(data[:size])
    text = line(path)
    assert 'truncated' in text and f'found {size:,}' in text, size
  path.write_bytes(data[: end + 1024])
  assert len(content(path)) == 4


def test_an_inner_tar_that_is_cut_is_named(tmp_path):
  inner = packed({'x.jpg': b'x' * 2000})
  path = pack(tmp_path / 'x.tar', {'n01.tar': inner[:1500]})
  assert 'n01.tar: truncated' in line(path) and 'found 1,500' in line(path)


def test_a_damaged_header_does_not_end_the_list(tmp_path):
  data = bytearray(packed({'1.jpg': b'1', '2.jpg': b'2', '3.jpg': b'3'}))
  data[1024] ^= 1
  path = tmp_path / 'x.tar'
  path.write_bytes(data)
  assert 'damaged at byte 1,024' in line(path)


def test_no_file_and_another_file_are_refused(tmp_path):
  for name, data in (('x.tar', b'<html>' * 300), ('notes.txt', b'short')):
    (tmp_path / name).write_bytes(data)
    assert 'is a file, but no tar file' in line(tmp_path / name)
  assert 'No such file' in line(tmp_path / 'y.tar')


def test_the_members_are_listed_once(tmp_path, cache, monkeypatch):
  path = pack(tmp_path / 'x.tar', FILES)
  before = content(path)
  monkeypatch.setattr(archives, '_listed', None)
  assert content(path) == before
  monkeypatch.undo()
  monkeypatch.setenv('BYOL_JAX_CACHE', str(cache))
  pack(path, {'new.jpg': b'new', **FILES})
  assert 'new.jpg' in content(path)


@pytest.fixture
def twins(write, tmp_path):
  """Makes a folder of images and a tar of it, its root named or not."""

  def make(files, around):
    root = pathlib.Path(write(*(f'set/{file}' for file in files))) / 'set'
    path = tmp_path / 'set.tar'
    with tarfile.open(path, 'w') as tar:
      tar.add(root, around)
    return root, path

  return make


@pytest.mark.parametrize('around', ['.', 'set-2.0'])
@pytest.mark.parametrize(
  'files',
  [
    [f'{c}/{i}.jpg' for c in 'ab' for i in range(9)] + ['.c/1.jpg', 'a/x.txt'],
    [f'train/{c}/{i}.jpg' for c in 'ab' for i in range(9)] + ['val/b/x.png'],
    [f'train/a/{i}.jpg' for i in range(9)] + ['val/a/x.png'],
  ],
)
def test_a_tar_is_the_folder_that_was_packed(twins, files, around):
  folder, tar = (
    {split: opened(place, split) for split in ('train', 'test', 'all', 'fit')}
    for place in twins(files, around)
  )
  for split, source in folder.items():
    other = tar[split]
    assert names(other) == names(source)
    assert other.fingerprint == source.fingerprint
    assert other.class_names == source.class_names
    for i in range(len(source)):
      assert other.read(i) == source.read(i)


def test_a_tar_of_class_tars_has_these_classes(tmp_path):
  classes = {
    f'{name}.tar': packed({f'{name}_{i}.JPEG': b'x' for i in range(9)})
    for name in ('n01', 'n02')
  }
  source = opened(pack(tmp_path / 'train.tar', classes), 'all')
  assert source.class_names == ('n01', 'n02') and len(source) == 18
  assert source.file_name(9) == 'n02/n02_0.JPEG' and source.read(9) == (b'x', 1)
