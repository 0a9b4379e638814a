import pathlib

from byol_jax.data.sources import paths


def test_a_directory_has_its_files_and_hides_hidden_folders(write, tmp_path):
  root = write('top.txt', 'a/1.jpg', 'a/b/2.jpg', '.git/3.jpg', data=b'four')
  (tmp_path / 'link.jpg').symlink_to('nothing')
  directory = paths.Directory(pathlib.Path(root))
  found = sorted(directory.names)
  assert found == ['a/1.jpg', 'a/b/2.jpg', 'link.jpg', 'top.txt']
  assert directory.read('a/b/2.jpg') == b'four'
  assert [directory.size(name) for name in found] == [4, 4, -1, 4]


def test_inside_is_the_directory_one_deeper(write):
  root = pathlib.Path(write('a/1.jpg', 'a/b/2.jpg', 'ab/3.jpg', 'a.jpg'))
  inside = paths.Inside(paths.Directory(root), 'a')
  below = paths.Directory(root / 'a')
  assert sorted(inside.names) == sorted(below.names) == ['1.jpg', 'b/2.jpg']
  assert inside.root == below.root
  for name in below.names:
    assert inside.read(name) == below.read(name)
    assert inside.size(name) == below.size(name)
