"""`data prepare`: what it writes, refuses, prints and leaves behind."""

import io
import pathlib
import shlex

import numpy as np
from PIL import Image, JpegImagePlugin
import pytest
import tensorflow_datasets as tfds

from byol_jax import errors
from byol_jax.data.loading import decode
from byol_jax.data.preparation import check, prepare
from tests.helpers import full_disk
from tests.helpers.made import STANDARD, encode, opened, smooth

WHERE = {k: v for k, v in STANDARD.items() if k != 'data_dir'}
KINDS = {'jpg': 'JPEG', 'png': 'PNG', 'bmp': 'BMP'}
LAYOUTS = {
  'classes': ('ant', 'bee', 'cow'),
  'train and val': ('train/ant', 'train/bee', 'val/ant', 'val/bee'),
  'three splits': ('train/a', 'train/b', 'val/a', 'val/b', 'test/a', 'test/b'),
  'flat': ('',),
}


def write_images(root, *folders, count=10, bad=0):
  """Images of several kinds and sizes in each folder; the first are bad."""
  for i, folder in enumerate(folders):
    for j in range(count):
      ending = list(KINDS)[j % 3]
      path = pathlib.Path(root, folder, f'{i}{j:02d}.{ending}')
      path.parent.mkdir(parents=True, exist_ok=True)
      pixels = smooth(10 * i + j, 10 + i, 20 + j)
      data = b'bad' if j < bad else encode(pixels, KINDS[ending])
      path.write_bytes(data)
  return root


def prepared(source, output, **options):
  standard = {
    'name': 'toy',
    'shorter_side': None,
    'quality': 95,
    'max_bad_share': 0.0,
    'num_threads': 2,
  }
  return prepare.prepare_images(
    str(source), str(output), **standard | WHERE | options
  )


def contents(source):
  """{name: (bytes, label)}."""
  return {source.file_name(i): source.read(i) for i in range(len(source))}


def files_below(path):
  return {p: p.read_bytes() for p in path.rglob('*') if p.is_file()}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_prepared_set_is_what_the_folder_holds(tmp_path, layout):
  root = write_images(tmp_path / 'images', *LAYOUTS[layout])
  path = prepared(root, tmp_path / 'out')
  assert path == tmp_path / 'out/toy/1.0.0'
  splits = check.open_disjoint_splits(str(root), **STANDARD)
  expected = {'flat': {'train'}, 'three splits': {'train', 'valid', 'test'}}
  assert set(splits) == expected.get(layout, {'train', 'test'})
  theirs = tfds.builder_from_directory(path)
  for split, source in splits.items():
    found = opened('toy', split, data_dir=str(tmp_path / 'out'))
    assert contents(found) == contents(source)
    assert found.class_names == source.class_names
    name = {'valid': 'validation'}.get(split, split)
    assert theirs.info.splits[name].num_examples == len(source)
  # Nothing else is left behind.
  assert list((tmp_path / 'out').rglob('*.0.0')) == [path]
  assert all(path in file.parents for file in files_below(tmp_path / 'out'))


@pytest.mark.parametrize('shorter_side', [None, 4])
def test_ten_bad_images_are_left_out_and_named(tmp_path, caplog, shorter_side):
  root = write_images(tmp_path / 'a', 'train/a', 'val/a', count=20, bad=5)
  path = prepared(root, tmp_path / 'out', shorter_side=shorter_side)
  before = files_below(tmp_path)
  with pytest.raises(errors.DataError, match=r'1\.0\.0 exists'):
    prepared(root, tmp_path / 'out', shorter_side=shorter_side)
  assert files_below(tmp_path) == before
  kept = contents(opened(path, 'all'))
  assert len(kept) == 30 and caplog.text.count('cannot be used') == 10
  assert "'train: train/a/000.jpg' cannot be used" in caplog.text
  if shorter_side:
    assert path == tmp_path / 'out/toy/shorter_4/1.0.0'
    assert all(min(decode.read_sides(data)) == 4 for data, _ in kept.values())


@pytest.mark.parametrize('error', [KeyboardInterrupt, MemoryError])
def test_a_job_that_is_stopped_leaves_nothing(tmp_path, monkeypatch, error):
  root = write_images(tmp_path / 'images', 'a', count=40)
  add_examples = prepare._read_examples

  def stop_before_the_last(*arguments):
    examples = list(add_examples(*arguments))
    yield from examples[:-1]
    raise error

  monkeypatch.setattr(prepare, '_read_examples', stop_before_the_last)
  expected = errors.DataError if error is MemoryError else error
  with pytest.raises(expected):
    prepared(root, tmp_path / 'new' / 'out')
  assert not (tmp_path / 'new').exists()


def test_a_full_disk_and_a_file_in_the_way_are_named(tmp_path, monkeypatch):
  root = write_images(tmp_path / 'images', 'a', count=100)
  (tmp_path / 'file').write_text('mine')
  with pytest.raises(errors.DataError, match='cannot be written') as caught:
    prepared(root, tmp_path / 'file' / 'out')
  assert '\n' not in str(caught.value)
  with (
    full_disk.limit_files(20_000),
    pytest.raises(errors.DataError, match='cannot be written'),
  ):
    prepared(root, tmp_path / 'out')

  # A writer that loses bytes without an error.
  write = tfds.dataset_builders.AdhocBuilder.download_and_prepare

  def write_and_cut(builder, **options):
    write(builder, **options)
    for file in pathlib.Path(builder.data_dir).glob('*array_record*'):
      file.write_bytes(file.read_bytes()[:-1])

  monkeypatch.setattr(
    tfds.dataset_builders.AdhocBuilder, 'download_and_prepare', write_and_cut
  )
  with pytest.raises(errors.DataError, match='readable array_record file'):
    prepared(root, tmp_path / 'out')
  assert {path.name for path in tmp_path.iterdir()} == {'images', 'file'}


@pytest.mark.parametrize(
  'size, side, expected',
  [
    ((40, 60), 20, (20, 30)),
    ((60, 40), 20, (30, 20)),
    ((33, 100), 10, (10, 30)),
    ((400, 3), 1, (133, 1)),
  ],
)
def test_resizing_keeps_the_ratio_and_never_enlarges(size, side, expected):
  data = encode(smooth(0, *size), 'PNG')
  found = prepare.resize_encoded(data, side, 95)
  assert decode.read_header(found)[:3] == ('JPEG', *expected)
  for larger in (min(size), 500):
    assert prepare.resize_encoded(data, larger, 95) == data


def test_resized_pixels_are_averages_at_the_promised_quality():
  # A chequerboard of single pixels is grey; without antialiasing, black.
  board = np.indices((64, 64)).sum(0) % 2 * 255
  pixels = np.repeat(board[..., None], 3, axis=-1).astype(np.uint8)
  data = prepare.resize_encoded(encode(pixels, 'PNG'), 16, 95)
  # JPEG's rounding at quality 95.
  np.testing.assert_allclose(decode.decode_rgb(data)[2:-2, 2:-2], 127.5, atol=4)
  with Image.open(io.BytesIO(data)) as image:
    assert JpegImagePlugin.get_sampling(image) == 2  # 4:2:0
    plain = io.BytesIO()
    Image.new('RGB', (8, 8)).save(plain, 'JPEG', quality=95)
    with Image.open(plain) as other:
      assert image.quantization == other.quantization


def test_the_printed_command_names_the_set(run, tmp_path):
  root = write_images(tmp_path / 'My Pictures', 'a', 'b')
  code, text, error = run(root, tmp_path / 'out put')
  assert (code, error) == (0, '')
  assert 'train: ' in text and 'test: ' in text and ' in 1 file\n' in text
  words = shlex.split(text.splitlines()[-1])
  assert words[:2] == ['byol-jax', 'pretrain']
  values = dict(word.split('=') for word in words[2:])
  assert len(opened(values['--config.dataset'], 'all')) == 20
  assert 'my_pictures' in values['--config.dataset']
  code, text, _ = run(root, tmp_path / 'out\x1b[31m\nput')
  assert code == 0 and text.splitlines()[-1].startswith('byol-jax pretrain ')
  assert text.replace('\n', '').isprintable()


@pytest.mark.parametrize(
  'value, words',
  [
    ('shorter_side=0', "[1, 65535], found '0'"),
    ('quality=101', "found '101'"),
    ('max_bad_share=nan', "found 'nan'"),
    ('name=../x', "found '../x'"),
    ('name=imagenet2012', 'tfds build imagenet2012'),
  ],
)
def test_values_that_cannot_be_used(run, tmp_path, value, words):
  root = write_images(tmp_path / 'images', 'a')
  code, text, error = run(root, tmp_path / 'out', f'--{value}')
  assert code == 2 and words in error and error.count('\n') == 1
  assert not text and not (tmp_path / 'out').exists()


def test_sources_that_cannot_be_read(run, tmp_path):
  tars = tmp_path / 'tars'
  tars.mkdir()
  (tars / 'ILSVRC2012_img_train.tar').write_bytes(b'x')
  np.savez(tmp_path / 'pixels.npz', images=np.zeros([30, 4, 4, 3], np.uint8))
  (tmp_path / 'empty').mkdir()
  for name, words in (
    ('nowhere', 'nowhere'),
    ('empty', 'empty'),
    ('tars', 'tfds build imagenet2012 --file_format=array_record'),
    ('pixels.npz', 'expected encoded images'),
  ):
    code, _, error = run(tmp_path / name, tmp_path / 'out', '--name=x')
    assert code == 3 and words in error and error.count('\n') == 1, error


@pytest.mark.parametrize(
  'source, name',
  [('My Pictures', 'my_pictures'), ('imagenette2-160.tar', 'imagenette2_160'),
   ('imagenette/160px-v2', 'imagenette'), ('2020', None), ('写真', None)],
)  # fmt: skip
def test_the_name_follows_the_source(source, name):
  if name is None:
    with pytest.raises(errors.ConfigError, match='--name'):
      prepare._derive_name(source)
  else:
    assert prepare._derive_name(source) == name


def test_more_bad_images_are_an_error_unless_allowed(tmp_path):
  root = write_images(tmp_path / 'a', 'train/a', 'test/a', count=20, bad=6)
  with pytest.raises(
    errors.DataError, match=r'11 images .* allowed are 10.*--max_bad_share'
  ):
    prepared(root, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
  path = prepared(root, tmp_path / 'out', max_bad_share=0.3)
  assert len(opened(path)) == len(opened(path, 'test')) == 14
