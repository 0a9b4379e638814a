"""The verb `conformance` on the vectors, and on folders that it refuses."""

import pathlib
import re
import shutil

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.conformance import run

VECTORS = pathlib.Path(__file__).parent
TAG = 'official_tiny'


def write(folder, **arrays):
  np.savez(folder / 'primitives.npz', **arrays)
  return str(folder)


def test_a_difference_fails_and_is_in_the_table(tmp_path, capsys):
  x = np.eye(3, dtype=np.float32)
  folder = write(tmp_path, loss_x=x, loss_y=x, loss=np.float32([0, 0, 1]))
  with pytest.raises(
    errors.CheckFailed, match='1 of 1 comparisons above 1e-05'
  ):
    run.run(folder)
  assert re.search('primitives: loss .* NO ', capsys.readouterr().out)


def test_nothing_compared_is_a_failure(tmp_path):
  with pytest.raises(errors.CheckFailed, match='none of 1 keys'):
    run.run(write(tmp_path, unknown=np.zeros(3)))


@pytest.mark.parametrize('folder', ['.', 'absent'])
def test_a_folder_without_vectors(tmp_path, folder):
  (tmp_path / 'README.md').write_text('nothing here')
  with pytest.raises(errors.DataError, match='expected'):
    run.run(str(tmp_path / folder))


@pytest.mark.parametrize('ending', run.ENDINGS)
def test_a_missing_file_of_a_run_is_named(tmp_path, ending):
  for other in run.ENDINGS:
    if other != ending:
      shutil.copy(VECTORS / (TAG + other), tmp_path / ('a' + other))
  with pytest.raises(errors.DataError, match=f'expected a{ending}'):
    run.run(str(tmp_path))


@pytest.mark.parametrize(
  'content', [b'', b'not a zip', b'PK\x03\x04' + b'x' * 9, None]
)
def test_a_damaged_file_is_named(tmp_path, content):
  write(tmp_path, img=np.array([{}], dtype=object))  # a pickle in the npz
  if content is not None:
    (tmp_path / 'primitives.npz').write_bytes(content)
  with pytest.raises(errors.DataError, match=r'primitives\.npz: not an npz'):
    run.run(str(tmp_path))
