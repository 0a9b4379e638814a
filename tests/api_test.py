"""The Python interface: pretraining, and encoders of images in memory."""

import json

import jax
import numpy as np
from PIL import Image
import pytest

import byol_jax
from byol_jax import api, errors, pretrained
from tests.helpers import tiny_folder

# One image through batches of other sizes: XLA sums in another order.
SAME = {'rtol': 1e-4, 'atol': 1e-5}


@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
  """(folder, workdir) of a run on a labelled folder."""
  return tiny_folder.pretrained(tmp_path_factory.getbasetemp())


@pytest.fixture(scope='module')
def encode(labelled):
  """The run's encoder."""
  return byol_jax.load_encoder(labelled[1])


def images(count, height=21, width=34):
  """Noise, uint8."""
  generator = np.random.default_rng(height)
  shape = (count, height, width, 3)
  return generator.integers(0, 256, shape).astype(np.uint8)


def test_pretrain_takes_a_preset_and_overrides_and_resumes(labelled):
  folder, workdir = labelled
  saved_config = json.loads((workdir / 'config.json').read_text())
  assert saved_config['batch_size'] == 8
  assert saved_config['dataset'] == str(folder)
  values = tiny_folder.VALUES | {'dataset': folder}
  assert byol_jax.pretrain('shapes', workdir, values)['step'] == 2
  with pytest.raises(errors.DataError, match='batch_size: saved 8, now 11'):
    byol_jax.pretrain('shapes', workdir, values | {'batch_size': 11})


def test_pretrain_takes_a_configuration_and_leaves_it_as_it_is(labelled):
  config = pretrained.read_config(labelled[1])
  with config.unlocked():
    del config.training_set
  before = config.to_dict()
  assert byol_jax.pretrain(config, labelled[1])['step'] == 2
  assert config.to_dict() == before
  with pytest.raises(errors.ConfigError, match='a preset by name'):
    byol_jax.pretrain(config, labelled[1], {'seed': 1})


def test_a_relative_folder_is_the_same_from_anywhere(
  labelled, monkeypatch, tmp_path
):
  folder, workdir = labelled
  monkeypatch.chdir(folder.parent)
  values = tiny_folder.VALUES | {'dataset': folder.name}
  assert byol_jax.pretrain('shapes', workdir, values)['step'] == 2
  monkeypatch.chdir(tmp_path)
  run = pretrained.open_run(workdir)
  assert run.config.dataset == str(folder)


def test_representations_are_float32_one_a_row(encode):
  single, several = encode(images(1)[0]), encode(images(5))
  assert single.dtype == several.dtype == np.float32
  assert single.ndim == 2
  assert single.shape[0] == 1 and several.shape == (5, single.shape[1])
  assert np.isfinite(several).all() and several.std(axis=0).max() > 0


def test_bytes_and_shares_are_the_same_image(encode):
  found = encode(images(3))
  for dtype, tolerance in ((np.float32, SAME), (np.float64, SAME)):
    shares = images(3).astype(dtype) / 255
    np.testing.assert_allclose(encode(shares), found, **tolerance)
  # Half precision has 11 bits: each pixel is off by up to 2.5e-4.
  halves = (images(3) / 255).astype(np.float16)
  np.testing.assert_allclose(encode(halves), found, rtol=0.02, atol=0.02)
  np.testing.assert_allclose(
    encode(jax.numpy.asarray(images(3))), found, **SAME
  )


def test_neither_the_batch_nor_its_size_changes_a_row(encode):
  batch = images(70)  # more than go at once
  together = encode(batch)
  assert together.shape[0] == 70
  for i in (0, 63, 64, 69):
    np.testing.assert_allclose(encode(batch[i]), together[i : i + 1], **SAME)
  np.testing.assert_allclose(encode(list(batch[:3])), together[:3], **SAME)


def test_a_list_may_hold_any_sizes(encode):
  mixed = [images(1)[0], images(1, 50, 20)[0], images(1, 1, 9)[0] / 255]
  found = encode(mixed)
  for row, image in zip(found, mixed):
    np.testing.assert_allclose(row, encode(image)[0], **SAME)


def test_it_agrees_with_the_verb_embed(labelled, encode, tmp_path):
  """TensorFlow crops for the verb, numpy here, from the same decoder's pixels.

  Lossless files only: Pillow and TensorFlow decode WebP and JPEG apart by up
  to one part in 255.
  """
  folder, workdir = labelled
  output = tmp_path / 'all.npz'
  count = api.embed(workdir, str(folder), output)
  with np.load(output) as file:
    names, expected = file['names'], file['representations']
  assert count == len(names) == 36
  rows = [i for i, name in enumerate(names) if name.endswith('.png')]
  pictures = [np.asarray(Image.open(folder / names[i])) for i in rows]
  found = encode([picture[..., :3] for picture in pictures])
  assert len(rows) >= 6
  np.testing.assert_allclose(found, expected[rows], **SAME)


def test_weights_differ(labelled, encode):
  found = {'online': encode(images(4))}
  for weights in ('target', 'random', 'random_calibrated'):
    found[weights] = byol_jax.load_encoder(labelled[1], weights)(images(4))
  names = list(found)
  for i, first in enumerate(names):
    for second in names[i + 1 :]:
      assert np.abs(found[first] - found[second]).max() > 1e-6, (first, second)


@pytest.mark.parametrize(
  'found, words',
  (
    ([], 'at least one, found none'),
    (np.zeros((0, 8, 8, 3), np.uint8), 'at least one, found none'),
    (np.zeros((8, 8), np.uint8), r'or a list, found \[8, 8\]'),
    (np.zeros((8, 8, 4), np.uint8), r'expected \[H, W, 3\], found \[8, 8, 4\]'),
    (np.zeros((2, 3, 8, 8), np.uint8), r'found \[3, 8, 8\]'),
    (np.zeros((8, 8, 3), np.int32), 'uint8 or floats .* found int32'),
    (np.full((8, 8, 3), 200.0), r'floats in \[0, 1\], found \[200, 200\]'),
    ([np.full((8, 8, 3), np.nan)], r'floats in \[0, 1\], found \[nan, nan\]'),
    (['cat.jpg'], r'expected \[H, W, 3\], found \[\]'),
    ('cat.jpg', r'or a list, found \[\]'),
  ),
)
def test_what_is_no_image_is_refused(encode, found, words):
  with pytest.raises(errors.DataError, match=words):
    encode(found)


def test_a_workdir_that_holds_no_run(tmp_path):
  with pytest.raises(errors.DataError, match='holds no byol_jax run'):
    byol_jax.load_encoder(tmp_path)
  (tmp_path / 'config.json').write_text('{"seed": 0}')
  with pytest.raises(errors.DataError, match='holds no pretraining run'):
    byol_jax.load_encoder(tmp_path)


def test_unknown_weights_are_refused(labelled):
  with pytest.raises(errors.ConfigError, match=r"weights: .* found 'best'"):
    byol_jax.load_encoder(labelled[1], 'best')


def test_importing_the_package_imports_nothing_heavy():
  assert set(byol_jax.__all__) == {'errors', 'load_encoder', 'pretrain'}
  with pytest.raises(AttributeError, match='no_such'):
    _ = byol_jax.no_such
