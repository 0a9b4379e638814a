import io
import os
import tarfile

import numpy as np
import pytest

from tests.helpers.made import opened, refused
from tests.helpers.tars import tar

NAMES = [f'class_{i}' for i in range(10)]


def records(first, count, num_labels=1):
  """Records of the given classes; the red pixels have the number of each."""
  rows = np.zeros((count, num_labels + 3072), np.uint8)
  rows[:, num_labels - 1] = np.arange(first, first + count) % 10
  rows[:, num_labels : num_labels + 1024] = np.arange(count)[:, None]
  rows[:, num_labels + 1024 + 1] = 200  # green at row 0, column 1
  return rows.tobytes()


def make_files(kind):
  if kind == 10:
    return {
      'batches.meta.txt': '\n'.join([*NAMES, '', '']).encode(),
      **{f'data_batch_{i}.bin': records(i, 2) for i in range(1, 6)},
      'readme.html': b'<html>',
      'test_batch.bin': records(0, 4),
    }
  return {'train.bin': records(0, 10, 2), 'test.bin': records(0, 4, 2)}


def write(folder, files):
  folder.mkdir(parents=True, exist_ok=True)
  for name, data in files.items():
    (folder / name).write_bytes(data)
  return folder


@pytest.mark.parametrize(
  'kind, folder', [(10, 'cifar-10-batches-bin'), (100, 'cifar-100-binary')]
)
def test_archive_and_folder_are_the_same_set(tmp_path, kind, folder):
  files = make_files(kind)
  members = {f'{folder}/{name}': data for name, data in files.items()}
  write(tmp_path / 'around' / folder, files)
  found = [
    opened(path)
    for path in (
      tar(tmp_path / 'x.tar.gz', members, 'w:gz'),
      tar(tmp_path / 'x.tar', members),
      tmp_path / 'around',
      tmp_path / 'around' / folder,
    )
  ]
  assert len({source.fingerprint for source in found}) == 1
  source = found[0]
  assert source.num_classes == kind
  assert source.class_names == (tuple(NAMES) if kind == 10 else None)
  expected = [1, 2, 2, 3, 3, 4, 4, 5, 5, 6] if kind == 10 else range(10)
  assert list(source.labels) == list(expected)
  pixels, label = source.read(1)
  assert label == expected[1]
  assert pixels.shape == (32, 32, 3)
  assert (pixels[..., 0] == 1).all()
  assert pixels[0, 1, 1] == 200 and pixels[..., 1].sum() == 200
  assert len(opened(tmp_path / 'x.tar', 'test')) == 4


def test_a_broken_set_is_refused(tmp_path):
  files = make_files(10)
  folder = write(tmp_path / 'x', files)
  for name, data, expected in [
    ('data_batch_3.bin', b'\0' * 3074, 'records of 3,073 bytes, found 3,074'),
    ('data_batch_3.bin', b'', 'found 0 bytes'),
    ('test_batch.bin', b'\x0a' * 3073, 'classes below 10, found 10'),
    ('batches.meta.txt', b'a b', 'names of 10 classes, found 2'),
  ]:
    (folder / name).write_bytes(data)
    assert f"{name}': expected" in (found := refused(folder))
    assert expected in found
    (folder / name).write_bytes(files[name])
  (folder / 'data_batch_5.bin').unlink()
  assert 'found no such file' in refused(folder)
  os.mkfifo(folder / 'data_batch_5.bin')
  assert 'expected a regular file' in refused(folder)


def test_a_truncated_archive_is_refused(tmp_path):
  noise = np.random.default_rng(0).bytes
  folder = 'cifar-10-batches-bin'
  members = {f'{folder}/data_batch_{i}.bin': noise(30730) for i in (1, 2)}
  whole = tar(tmp_path / 'x.tar.gz', members, 'w:gz').read_bytes()
  for end, expected in (
    (len(whole) * 3 // 4, f"damaged, read to '{folder}/data_batch_2.bin'"),
    (100, 'no tar file without compression'),
  ):
    (tmp_path / 'x.tar.gz').write_bytes(whole[:end])
    assert expected in refused(tmp_path / 'x.tar.gz')


def test_pickles_are_refused(tmp_path):
  folder = write(tmp_path / 'cifar-10-batches-py', {'data_batch_1': b'pickle'})
  members = {'cifar-100-python/train': b'pickle'}
  path = tar(tmp_path / 'cifar-100-python.tar.gz', members, 'w:gz')
  for dataset in (folder, tmp_path, path):
    assert 'download the binary version' in refused(dataset)


def test_little_is_read_of_another_archive(tmp_path, monkeypatch):
  path = tmp_path / 'x.tar.gz'
  with tarfile.open(path, 'w:gz', compresslevel=1) as file:
    member = tarfile.TarInfo('a.jpg')
    member.size = 2**24
    file.addfile(member, io.BytesIO(bytes(member.size)))
  count = []
  monkeypatch.setattr(
    'byol_jax.data.sources.cifar_binary._Bounded.read',
    lambda self, size: count.append(size) or self._stream.read(size),
  )
  assert 'no tar file without compression' in refused(path)
  assert 0 < sum(count) < 2**20
