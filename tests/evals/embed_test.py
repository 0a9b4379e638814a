"""The file of representations: complete, in order, without pickles."""

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.evals import embed
from tests.helpers import fakes

NAMES = ['b/été.jpg', 'a/2.png', 'a/10.png', 'c.webp', 'd.jpg']


def make_set():
  images = np.random.default_rng(0).random((5, 1, 4, 3), np.float32)
  return fakes.ImageSet(images)


@pytest.mark.parametrize(
  'name, rows', (('out.npz', [0, 1, 2, 3, 4]), ('plain_name', [0, 2, 3]))
)
def test_each_readable_image_has_a_row_in_order(tmp_path, name, rows):
  dataset, output = make_set(), tmp_path / 'new' / name
  dataset.unreadable = tuple({*range(5)} - {*rows})
  lines = []
  count = embed.write_embeddings(
    fakes.pixels(12), dataset, NAMES, output, lines.append
  )
  assert count == len(rows) and lines == ['encoding 5 images']
  with np.load(output, allow_pickle=False) as found:
    assert found['names'].tolist() == [NAMES[i] for i in rows]
    values = found['representations']
  assert values.dtype == np.float32
  np.testing.assert_array_equal(values, dataset.images[rows].reshape(count, -1))
  assert list(output.parent.iterdir()) == [output]


def test_a_failed_run_leaves_the_old_file_and_nothing_else(tmp_path):
  output = tmp_path / 'out.npz'
  output.write_bytes(b'old')
  dataset = make_set()
  dataset.images[2] = np.nan
  with pytest.raises(errors.DivergedError):
    embed.write_embeddings(fakes.pixels(12), dataset, NAMES, output)
  assert output.read_bytes() == b'old'
  assert list(tmp_path.iterdir()) == [output]


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
  file = tmp_path / 'file'
  file.touch()
  for output in (file / 'out.npz', tmp_path):
    dataset = make_set()
    with pytest.raises(errors.DataError, match=r"output '.*cannot be wri"):
      embed.write_embeddings(fakes.pixels(12), dataset, NAMES, output)
    assert dataset.reads == 0
