import numpy as np
from PIL import Image
import pytest

from byol_jax import errors
from byol_jax.data.sources import layouts
from tests.helpers.made import encode, names, opened, refused, smooth


def test_sub_folders_are_classes_and_splits_are_kept_apart(write):
  files = [f'{c}/{i}.jpg' for c in ('cat', 'dog') for i in range(40)]
  root = write(*files)
  train, test = opened(root), opened(root, 'test')
  assert sorted(names(train) + names(test)) == sorted(files)
  assert 6 <= len(test) <= 26  # a fifth of 80, at 3 standard deviations
  assert names(train) == sorted(names(train))
  fit, valid = opened(root, 'fit'), opened(root, 'valid')
  assert sorted(names(fit) + names(valid)) == names(train)
  assert names(valid)
  for source in (train, test):
    assert source.class_names == ('cat', 'dog')
    for i, name in enumerate(names(source)):
      assert source.class_names[source.read(i)[1]] == name.split('/')[0]


def test_a_new_file_moves_no_other_between_the_splits(write):
  files = [f'{c}/{i}.jpg' for c in ('cat', 'dog') for i in range(40)]
  root = write(*files)
  before = set(names(opened(root, 'test'))), set(names(opened(root, 'valid')))
  write('cat/new.jpg', 'bird/another.jpg')
  after = set(names(opened(root, 'test'))), set(names(opened(root, 'valid')))
  added = {'cat/new.jpg', 'bird/another.jpg'}
  assert before[0] == after[0] - added and before[1] == after[1] - added


def test_the_share_held_out_is_the_share_asked_for():
  files = [f'class/{i}.jpg' for i in range(20_000)]
  for share in (0.0, 0.1, 0.5):
    held = sum(layouts.is_heldout(f, share, 'test') for f in files) / 20_000
    assert abs(held - share) < 4 * np.sqrt(share * (1 - share) / 20_000) + 1e-9
  both = [
    layouts.is_heldout(f, 0.5, 'a') and layouts.is_heldout(f, 0.5, 'b')
    for f in files
  ]
  assert abs(np.mean(both) - 0.25) < 0.013  # independent salts, 4 deviations


@pytest.mark.parametrize('test', ['val', 'valid', 'validation', 'test'])
def test_train_and_val_folders_are_the_splits(write, test):
  files = [f'train/{c}/{i}.jpg' for c in 'abc' for i in range(20)]
  root = write(*files, f'{test}/b/x.jpg', f'{test}/c/deep/er/y.jpg')
  assert names(opened(root)) == sorted(files)
  found = opened(root, 'test')
  assert names(found) == [f'{test}/b/x.jpg', f'{test}/c/deep/er/y.jpg']
  assert [found.read(i)[1] for i in range(2)] == [1, 2]
  fit, valid = names(opened(root, 'fit')), names(opened(root, 'valid'))
  assert sorted(fit + valid) == sorted(files) and valid
  assert len(opened(root, 'all')) == 62


def test_with_val_and_test_choices_are_made_on_val(write):
  root = write('train/a/1.jpg', 'train/b/2.jpg', 'val/a/3.jpg', 'test/b/4.jpg')
  assert names(opened(root, 'valid')) == ['val/a/3.jpg']
  assert names(opened(root, 'test')) == ['test/b/4.jpg']
  assert names(opened(root, 'fit')) == names(opened(root))


def test_a_test_folder_without_labels_is_not_the_test_set(write):
  root = write('train/a/1.jpg', 'train/b/2.jpg', 'val/a/3.jpg', 'test/4.jpg')
  assert names(opened(root, 'test')) == ['val/a/3.jpg']


def test_train_without_val_is_divided_by_the_hash(write):
  files = [f'train/{c}/{i}.jpg' for c in 'ab' for i in range(30)]
  root = write(*files)
  both = names(opened(root)) + names(opened(root, 'test'))
  assert sorted(both) == sorted(files)


def test_a_class_may_be_called_train(write):
  files = [f'{c}/{i}.jpg' for c in ('bus', 'train') for i in range(20)]
  assert opened(write(*files)).class_names == ('bus', 'train')


def test_a_class_of_val_that_train_lacks_is_refused(write):
  root = write('train/a/1.jpg', 'train/b/2.jpg', 'val/a/3.jpg', 'val/z/4.jpg')
  assert 'z' in refused(root, 'test') and 'val' in refused(root, 'train')


def test_a_flat_folder_has_no_labels(write):
  root = write('1.jpg', '2.jpg', '3.png')
  source = opened(root)
  assert source.num_classes is None and source.class_names is None
  assert len(source) == len(opened(root, 'all')) == 3
  assert source.read(1)[1] == -1
  assert 'no labels' in refused(root, 'test')


def test_hidden_files_and_other_files_are_ignored(write):
  root = write('a/1.jpg', 'b/2.JPG', '.c/3.jpg', 'a/._4.jpg', 'a/notes.txt')
  assert names(opened(root, 'all')) == ['a/1.jpg', 'b/2.JPG']


def test_links_are_followed_and_circles_end(write, tmp_path):
  write('set/a/1.jpg', 'set/b/with space é.jpg', 'else/where/2.jpg')
  root = tmp_path / 'set'
  (root / 'b' / 'link.jpg').symlink_to(root / 'a' / '1.jpg')
  (root / 'b' / 'circle').symlink_to(root)
  (root / 'c').symlink_to(tmp_path / 'else')
  found = names(opened(root, 'all'))
  expected = ['a/1.jpg', 'b/link.jpg', 'b/with space é.jpg', 'c/where/2.jpg']
  assert found == expected


def test_every_format_and_mode_is_an_image(write):
  pixels = smooth(0, 16, 16)
  alpha = np.concatenate([pixels, pixels[..., :1]], axis=-1)
  palette = Image.fromarray(pixels).quantize(16)
  palette.save(write('p/palette.png', data=b'') + '/p/palette.png')
  write('a/grey.jpg', data=encode(pixels[..., 0]))
  write('a/rgba.png', data=encode(alpha, 'PNG'))
  write('a/b.webp', data=encode(pixels, 'WEBP'))
  write('a/c.bmp', data=encode(pixels, 'BMP'))
  root = write('a/d.gif', data=encode(pixels, 'GIF'))
  assert len(opened(root, 'all')) == 6


def test_a_broken_file_is_a_record_all_the_same(write):
  root = write('a/1.jpg', 'b/2.jpg')
  write('a/empty.jpg', data=b'')
  write('b/page.png', data=b'<html>')
  source = opened(root, 'all')
  assert names(source) == ['a/1.jpg', 'a/empty.jpg', 'b/2.jpg', 'b/page.png']
  assert source.read(1) == (b'', 0) and source.read(3) == (b'<html>', 1)


def test_one_folder_around_the_set_is_looked_through(write, tmp_path):
  for around, *inner in (
    ('x', 'a/1.jpg', 'b/2.jpg', 'b/3.jpg'),
    ('y', 'train/a/1.jpg', 'train/b/2.jpg', 'val/a/3.jpg'),
    ('z', 'train/a/1.jpg', 'train/b/2.jpg'),
  ):
    write(*(f'{around}/out/{name}' for name in inner))
    outer = opened(tmp_path / around, 'all')
    expected = opened(tmp_path / around / 'out', 'all')
    assert names(outer) == names(expected)
    assert outer.fingerprint == expected.fingerprint
    assert outer.class_names == ('a', 'b')
    assert outer.read(1) == expected.read(1)


def test_a_folder_of_one_class_is_no_folder_around_a_set(write, tmp_path):
  write('x/only/1.jpg', 'x/only/2.jpg', 'y/only/a/1.jpg', 'y/only/2.jpg')
  for folder in ('x', 'y'):
    assert opened(tmp_path / folder, 'all').class_names == ('only',)


def test_a_link_to_nothing_is_a_broken_file(write, tmp_path):
  root = write('a/1.jpg', 'b/2.jpg')
  (tmp_path / 'a' / 'x.jpg').symlink_to('nothing')
  source = opened(root, 'all')
  assert source.file_name(1) == 'a/x.jpg'
  with pytest.raises(OSError):
    source.read(1)


@pytest.mark.parametrize('files', [(), ('a/1.jpg',), ('a/1.txt', 'b/2.txt')])
def test_a_folder_without_enough_images_is_refused(write, files):
  text = refused(write(*files))
  assert 'at least 2' in text and '.jpg' in text


def test_val_without_train_and_an_empty_share_are_refused(write):
  assert 'without train/' in refused(write('val/a/1.jpg', 'val/b/1.jpg'))


def test_a_share_in_which_no_image_falls_is_refused(write):
  root = write('a/1.jpg', 'b/2.jpg')
  assert 'heldout_share' in refused(root, 'test', heldout_share=0.0)


def test_a_file_is_not_a_folder(write):
  root = write('a/1.jpg')
  assert 'is a file' in refused(f'{root}/a/1.jpg')


def test_the_fingerprint_follows_names_and_sizes(write):
  root = write('a/1.jpg', 'b/2.jpg')
  first = opened(root, 'all').fingerprint
  assert opened(root, 'all').fingerprint == first
  write('b/2.jpg', data=encode(smooth(5, 40, 40)))
  second = opened(root, 'all').fingerprint
  write('b/3.jpg')
  assert len({first, second, opened(root, 'all').fingerprint}) == 3


def test_errors_are_user_errors():
  assert errors.DataError.exit_code == 3
