"""What `data check` prints, writes and returns."""

import json
import shutil

import numpy as np
from PIL import Image
import pytest

from byol_jax import __main__ as command, errors
from byol_jax.data.preparation import check as data_check, manifest


@pytest.fixture
def check(capsys, tmp_path, monkeypatch):
  """check(*arguments) -> (exit code, standard output, standard error)."""
  monkeypatch.setenv('BYOL_JAX_CACHE', str(tmp_path / 'cache'))

  def call(*arguments):
    code = command.main(['data', 'check', *map(str, arguments)])
    return code, *capsys.readouterr()

  return call


@pytest.fixture
def folder(tmp_path):
  """Twelve images of two classes, one of them in train and in val."""
  root = tmp_path / 'folder'
  for i in range(12):
    split = 'train' if i < 8 else 'val'
    path = root / split / 'ab'[i % 2] / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full([10, 20 + i, 3], i, np.uint8)
    Image.fromarray(pixels).save(path)
  shutil.copy(root / 'train/a/2.png', root / 'val/a/copy.png')
  return root


def test_a_whole_set(check, folder, tmp_path):
  code, output, error = check(folder)
  assert (code, error) == (0, '')
  train, test = output.index('train: 8 images'), output.index('test: 5 images')
  assert train < test and '4 each' in output
  assert '2 (b) to 3 (a) each' in output
  assert 'shorter side  10 pixels, all of them' in output
  assert '20 to 27 pixels, median 23.5' in output
  assert 'PNG 8' in output and 'PNG 5' in output
  assert 'broken        none' in output and 'EXIF' not in output
  leak = 'in train and in test: train train/a/2.png = test val/a/copy.png'
  assert leak in output and 'within' not in output
  path = output.partition('manifest: ')[2].strip()
  assert path.startswith(str(tmp_path / 'cache'))
  with open(path) as file:
    found = json.load(file)
  assert found['dataset'] == str(folder)
  for split, count in (('train', 8), ('test', 5)):
    part = found['splits'][split]
    assert part['num_images'] == count and part['broken'] == []
    assert manifest.find(part['fingerprint']) == part
    assert len(part['duplicates']) == 1


def test_broken_images_end_with_one(check, folder, tmp_path):
  for i in range(7):
    (folder / 'train' / 'a' / f'broken{i}.png').write_bytes(b'x' * i)
  output = tmp_path / 'mine.json'
  code, text, error = check(folder, f'--output={output}', '--threads=1')
  assert code == 1 and error.count('\n') == 1
  assert '7 of 20 images are broken' in error and str(output) in error
  assert 'broken        7' in text and 'train/a/broken0.png is empty' in text
  assert 'and 2 more' in text
  found = json.loads(output.read_text())['splits']['train']
  assert [one['name'][-11:-4] for one in found['broken']] == [
    f'broken{i}' for i in range(7)
  ]
  assert not (tmp_path / 'cache' / 'manifests').exists()


def test_one_split(check, folder):
  code, output, _ = check(folder, '--split=test')
  assert code == 0 and 'test: 5' in output and 'train' not in output
  code, _, error = check(folder, '--split=valid')
  assert code == 2 and 'expected one of all, train, test' in error


def test_what_cannot_be_opened_ends_with_three(check, tmp_path):
  code, output, error = check(tmp_path / 'nowhere')
  assert code == 3 and not output and error.count('\n') == 1
  assert 'nowhere' in error


def test_a_set_by_its_name(check):
  code, output, _ = check('shapes')
  assert code == 0
  assert 'train: 4,000 images of 10 classes, 400 each' in output
  assert 'JPEG 1,000' in output


@pytest.mark.parametrize(
  'count, text',
  [(0, '0 B'), (999, '999 B'), (1000, '1 kB'), (38.8e6, '38.8 MB'),
   (999.9e6, '1.0 GB'), (1.5e12, '1,500.0 GB')],
)  # fmt: skip
def test_bytes_in_words(count, text):
  assert data_check.len_text(count) == text


def test_classes_without_images_are_counted():
  classes = {
    'number': 3,
    'empty': 2,
    'fewest': {'name': 'a', 'num_images': 0},
    'most': {'name': 'b', 'num_images': 9},
  }
  text = data_check.classes_text(classes)
  assert '2 of them without any' in text and '9 (b)' in text


def test_nothing_is_checked_where_the_manifest_cannot_go(check, folder):
  (folder.parent / 'file').write_text('mine')
  code, text, error = check(folder, f'--output={folder.parent / "file" / "x"}')
  assert (
    not text
    and code == errors.DataError.exit_code
    and 'cannot be written' in error
  )
