"""Weights from elsewhere become a workdir like our own, or nothing is left."""

import json
import re
import shutil
import types

import jax
import numpy as np
import pytest

import byol_jax
from byol_jax import __main__ as command, errors
from byol_jax.checkpoints import checkpointer
from byol_jax.convert import npz, safetensors
from byol_jax.evaluation import pretrained
from byol_jax.tools import import_weights
from tests.helpers import official, tiny_config

# Nothing of a published file says these.
VALUES = {'image_size': 32, 'batch_size': 8}


@pytest.fixture(scope='module')
def vectors():
  return official.read_vectors()


@pytest.fixture(scope='module')
def published(vectors, tmp_path_factory):
  folder = tmp_path_factory.mktemp('published')
  return official.write_file(folder / 'whole.pkl', vectors)


@pytest.fixture(scope='module')
def imported(published):
  """A workdir of the whole checkpoint."""
  workdir, said = published.with_name('run'), []
  step = byol_jax.import_weights(
    published, workdir, overrides=VALUES, log=said.append
  )
  assert step == 4 and re.search('CC BY-NC 4.0', ' '.join(said))
  return workdir


def flat(encoder):
  """Path -> array of an encoder's parameters and averages."""
  leaves = jax.tree_util.tree_leaves_with_path((encoder.params, encoder.state))
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


@pytest.mark.parametrize('weights', ('online', 'target'))
def test_an_imported_run_has_the_bits_of_the_file(published, imported, weights):
  expected, found = (
    byol_jax.load(path, weights) for path in (published, imported)
  )
  assert flat(found).keys() == flat(expected).keys()
  for path, leaf in flat(expected).items():
    np.testing.assert_array_equal(flat(found)[path], leaf)
  image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
  first, second = (
    json.loads(x.config.network.to_json()) for x in (found, expected)
  )
  assert first == second
  crops = found.preprocess(image)
  assert crops.shape == (1, 32, 32, 3)  # the file says no image size
  assert found.card['licence'] == expected.card['licence']


def test_a_copy_of_the_checkpoints_alone_has_the_licence(imported, tmp_path):
  """As it comes from a bucket."""
  shutil.copytree(imported / 'checkpoints', tmp_path / 'checkpoints')
  card = byol_jax.load(tmp_path).card
  assert card['licence'] == byol_jax.load(imported).card['licence']
  assert card['licence'].startswith('CC BY-NC 4.0')


@pytest.mark.parametrize('to', (npz, safetensors))
def test_an_exported_encoder_is_the_same_object(imported, tmp_path, to):
  expected = byol_jax.load(imported)
  to.write_encoder(pretrained.read_weights(imported), tmp_path)
  for path in (tmp_path, next(tmp_path.iterdir())):
    found = byol_jax.load(path)
    assert flat(found).keys() == flat(expected).keys()
    for name, leaf in flat(expected).items():
      np.testing.assert_array_equal(flat(found)[name], leaf)
    assert repr(found) == repr(expected) and found.card == expected.card
    assert found.config.to_json() == expected.config.to_json()


def test_the_size_of_an_export_is_that_of_its_images(imported, tmp_path):
  (tmp_path / 'export').mkdir()
  npz.write_encoder(pretrained.read_weights(imported), tmp_path / 'export')
  byol_jax.import_weights(tmp_path / 'export', tmp_path / 'run')
  assert byol_jax.load(tmp_path / 'run').image_size == 32  # the preset's: 224


def make_images(folder):
  """A labelled set of 60 images in 10 classes, and its test set."""
  generator = np.random.default_rng(0)
  arrays = {
    f'{prefix}{name}': array
    for prefix in ('', 'test_')
    for name, array in (
      ('images', generator.integers(0, 256, (60, 32, 32, 3), np.uint8)),
      ('labels', np.arange(60) % 10),
    )
  }
  np.savez(folder / 'images.npz', **arrays)
  return folder / 'images.npz'


def go_on(workdir, images):
  """The step after training goes on, with any other rate."""
  config = byol_jax.load(workdir).config.unlock()
  config.update_from_flattened_dict(
    tiny_config.FLIP_ONLY
    | {'dataset': str(images), 'epochs': 0.8, 'schedule.base_rate': 0.1}
    | {'log.tensorboard': False}
  )
  return byol_jax.pretrain(config, workdir)['step']


def test_an_imported_run_goes_on_and_is_evaluated(imported, tmp_path):
  """With other images, of which the file says nothing."""
  before = checkpointer.read_arrays(imported / 'checkpoints')[0]
  assert go_on(imported, make_images(tmp_path)) == 6
  after, facts = checkpointer.read_arrays(imported / 'checkpoints')
  assert facts['step'] == 6 and after.keys() == before.keys()
  assert int(after['online_state/' + NORM]) == 8 + 4  # two views a step
  origin = facts['record']['origin']
  assert origin['licence'].startswith('CC BY-NC')
  assert origin == json.loads((imported / 'origin.json').read_text())
  results = byol_jax.knn(imported, overrides={'ks': (1,), 'batch_size': 8})
  assert results['queries'] == 60 and 0 <= results['knn_k1_t0.1'] <= 1
  recorded = (imported / 'evaluations.jsonl').read_text()
  assert json.loads(recorded)['results'] == results


NORM = 'tiny_res_net/~/initial_batchnorm/~/mean_ema/counter'


def test_an_encoder_alone_starts_at_step_0(vectors, tmp_path, capsys):
  file = tmp_path / 'encoder.pkl'
  official.write_file(file, vectors, official.leave_encoder, step=None)
  workdir = tmp_path / 'new' / 'run'
  words = [f'--config.{key}={value}' for key, value in VALUES.items()]
  words += ['--config.network.projector=(64,32)']
  words += ['--config.network.predictor=(64,32)']
  words += [f'--config.dataset={make_images(tmp_path)}']
  assert (
    command.main(['import', str(file), f'--workdir={workdir}', *words]) == 0
  )
  output = capsys.readouterr().out
  assert 'step 0' in output and 'CC BY-NC 4.0' in output
  expected, found = flat(byol_jax.load(file)), flat(byol_jax.load(workdir))
  for path, leaf in expected.items():
    np.testing.assert_array_equal(found[path], leaf)
  network = pretrained.open_run(workdir).config.network
  assert [*network.projector] == [64, 32]
  # Its classifier is that of the images.
  assert go_on(workdir, make_images(tmp_path)) == 6


@pytest.mark.parametrize(
  'overrides, error, pattern',
  (
    ({'network.encoder': 'ResNet50'}, errors.ConfigError, 'the weights have'),
    ({'network.projector': (3, 32)}, errors.ConfigError, 'network.projector'),
    ({'network.stem': 'small'}, errors.DataError, r"initial_conv/w': expected"),
    ({'optimizer.name': 'adamw'}, errors.ConfigError, 'momentum of LARS'),
  ),
)
def test_values_that_contradict_the_weights_leave_nothing(
  published, tmp_path, overrides, error, pattern
):
  with pytest.raises(error, match=pattern):
    import_weights.import_weights(
      published, tmp_path / 'run', overrides=VALUES | overrides
    )
  assert not [*tmp_path.iterdir()]


def test_a_place_that_cannot_be_used_is_left_alone(published, tmp_path):
  (tmp_path / 'file').write_text('x')
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'x').write_text('x')
  for name, pattern in (
    ('file', 'missing or empty'),
    ('full', 'missing or empty'),
    ('file/run', 'cannot be written: (Not|File)'),
  ):
    with pytest.raises(errors.DataError, match=pattern):
      byol_jax.import_weights(published, tmp_path / name, overrides=VALUES)
  assert {path.name for path in tmp_path.rglob('*')} == {'file', 'full', 'x'}
  with pytest.raises(errors.ConfigError, match='on this machine'):
    byol_jax.import_weights(published, 'gs://bucket/run')


def test_a_write_that_fails_leaves_nothing(published, tmp_path, monkeypatch):
  def fail(*arguments, **options):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(checkpointer.Checkpointer, 'save', fail)
  for folder in (tmp_path / 'run', tmp_path):
    with pytest.raises(errors.DataError, match='No space left'):
      byol_jax.import_weights(published, folder, overrides=VALUES)
    assert not [*tmp_path.iterdir()]
  disk = types.SimpleNamespace(free=1000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: disk)
  with pytest.raises(errors.DataError, match=r'space left .*, 0\.0 MB for 0\.'):
    byol_jax.import_weights(published, tmp_path / 'run', overrides=VALUES)
  assert not [*tmp_path.iterdir()]
