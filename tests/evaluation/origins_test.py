"""Evaluations of older checkpoints, and of weights without a run."""

import json
import shutil

import numpy as np
import pytest

import byol_jax
from byol_jax import (
  __main__ as command,
  api,
  configuration,
  errors,
)
from byol_jax.checkpoints import checkpointer
from byol_jax.convert import npz
from byol_jax.evaluation import origins, pretrained
from tests.helpers import tiny_folder

KNN = {'ks': (1, 20), 'batch_size': 8}
WORDS = ('--config.ks=(1,20)', '--config.batch_size=8')


@pytest.mark.parametrize('labels, other', [('none', 'auto'), ('folders',) * 2])
def test_another_set_has_labels_if_those_of_the_training_were_unused(
  labels, other
):
  """The run's own images stay divided as they were in its training."""
  config = configuration.load('shapes', {'data.labels': labels})
  origin = origins.Export('x', config, has_dataset=True)
  for dataset, expected in ((None, labels), ('images', other)):
    given = {} if dataset is None else {'dataset': dataset}
    knn = configuration.load('evals/knn', given)
    assert origins.make_data_config(origin, knn).data.labels == expected
    given['labels'] = 'folders'
    knn = configuration.load('evals/knn', given)
    assert origins.make_data_config(origin, knn).data.labels == 'folders'
  transfer = configuration.load('evals/transfer', {'datasets': 'images'})
  assert origins.make_data_config(origin, transfer).data.labels == other


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A workdir with the checkpoints 1 and 2."""
  base = tmp_path_factory.mktemp('run')
  values = tiny_folder.VALUES | {
    'dataset': str(tiny_folder.write(base / 'images')),
    'checkpoint.every_steps': 1,
    'checkpoint.keep': 2,
  }
  byol_jax.pretrain('shapes', base / 'run', values)
  return base / 'run'


@pytest.fixture
def export(run, tmp_path):
  """A function that writes the encoder and a card that was changed."""

  def write(**card):
    weights = pretrained.read_weights(run)
    weights = weights._replace(card=weights.card | card)
    (tmp_path / 'export').mkdir()
    npz.write_encoder(weights, tmp_path / 'export')
    return tmp_path / 'export'

  return write


def read_records(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder):
  return {
    path: path.read_bytes() for path in folder.rglob('*') if path.is_file()
  }


@pytest.mark.parametrize('step, weights', ((1, 'target'), (None, 'online')))
def test_a_step_is_that_checkpoint(run, weights, step):
  _, encoder = origins.open_origin(run, weights, step=step)
  arrays, facts = checkpointer.read_arrays(run / 'checkpoints', step)
  assert encoder.step == facts['step'] == (step or 2)
  read = pretrained.read_weights(run, weights, step)
  for module, leaves in encoder.params.items():
    for name, leaf in leaves.items():
      expected = arrays[f'{weights}_params/{module}/{name}']
      np.testing.assert_array_equal(leaf, expected)
      np.testing.assert_array_equal(read.params[module][name], expected)


@pytest.mark.parametrize(
  'weights, step, kind, pattern',
  (
    ('online', 3, errors.DataError, r'no checkpoint of step 3; .* \[1, 2\]'),
    ('random', 1, errors.ConfigError, '^step: random weights have none'),
  ),
)
def test_a_step_that_is_not_there_is_refused(run, weights, step, kind, pattern):
  with pytest.raises(kind, match=pattern):
    origins.open_origin(run, weights, step=step)


def test_every_verb_of_an_encoder_takes_a_step(run, tmp_path, capsys):
  step = ('--step=1', f'--workdir={run}')
  assert command.main(['knn', *step, *WORDS]) == 0
  assert '\nknn k=20, T=0.1 ' in capsys.readouterr().out
  record = read_records(run / 'evaluations.jsonl')[-1]
  assert record['step'] == 1 and record['origin'] == str(run)
  assert record['headlines'][2].startswith('knn k=20, T=0.07 ')
  rows = []
  for name, words in (('old', step), ('new', step[1:])):
    images = f'--images={run.parent / "images"}'
    output = tmp_path / f'{name}.npz'
    assert command.main(['embed', *words, images, f'--output={output}']) == 0
    rows.append(np.load(output)['representations'])
  assert np.abs(rows[0] - rows[1]).max() > 1e-6
  output = tmp_path / 'export'
  words = ('--to=npz', f'--output={output}')
  assert command.main(['export', *step, *words]) == 0
  expected = pretrained.read_weights(run, step=1).card['sha256']
  assert pretrained.read_weights(output).card['sha256'] == expected
  for verb in ('linear', 'report'):
    assert command.main([verb, '--step=9', f'--workdir={run}']) == 3
    assert 'it has the steps [1, 2]' in capsys.readouterr().err


def test_a_hint_names_the_argument_of_the_verb_and_it_helps(
  run, tmp_path, capsys
):
  """Folders called like folds are refused where nothing says what they are."""
  for old, new in zip(tiny_folder.CLASSES, ('fold0', 'fold1', 'fold2')):
    shutil.copytree(run.parent / 'images' / old, tmp_path / 'set' / new)
  folder = tmp_path / 'set'
  for argument, *words in (
    ('--config.labels', 'knn', f'--config.dataset={folder}', *WORDS),
    ('--labels', 'embed', f'--images={folder}'),
  ):
    words += [f'--workdir={run}', f'--output={tmp_path / words[0]}.npz']
    assert command.main(words) == 3
    assert f' {argument}=folders takes them ' in capsys.readouterr().err
    assert command.main([*words, f'{argument}=folders']) == 0
  assert command.main(['data', 'check', str(folder)]) == 3
  assert ' --labels=folders takes them ' in capsys.readouterr().err


def test_broken_images_have_no_row_however_many(run, tmp_path, capsys):
  folder, output = tmp_path / 'set', tmp_path / 'new.npz'
  shutil.copytree(run.parent / 'images' / 'ant', folder)
  for i in range(20):
    (folder / f'broken{i}.jpg').touch()
  words = ('embed', f'--workdir={run}', f'--images={folder}')
  assert command.main([*words, f'--output={output}']) == 0
  assert '20 images could not be used' in capsys.readouterr().out
  assert len(np.load(output)['names']) == tiny_folder.PER_CLASS


def test_an_export_has_the_results_of_its_run(run, export, tmp_path):
  folder, output = export(), tmp_path / 'new' / 'results.jsonl'
  before = contents(folder)
  expected = byol_jax.knn(run, overrides=KNN)
  assert byol_jax.knn(folder, overrides=KNN) == expected
  assert byol_jax.knn(folder, overrides=KNN, output=output) == expected
  (record,) = read_records(output)
  assert record['results'] == expected and record['origin'] == str(folder)
  assert contents(folder) == before
  images = str(run.parent / 'images')
  for name, origin in (('a.npz', run), ('b.npz', folder)):
    assert api.embed(origin, images, tmp_path / name) == 36
  first, second = (np.load(tmp_path / name) for name in ('a.npz', 'b.npz'))
  np.testing.assert_array_equal(
    *(x['representations'] for x in (first, second))
  )
  with pytest.raises(errors.ConfigError, match=r'^step: a file has none'):
    byol_jax.knn(folder, overrides=KNN, step=1)
  with pytest.raises(errors.ConfigError, match="found 'random'"):
    byol_jax.knn(folder, overrides=KNN | {'weights': 'random'})


def test_weights_without_a_run_need_a_dataset(run, export):
  folder = export(config=None)
  with pytest.raises(
    errors.ConfigError, match=r'^dataset: .*export.*give --config\.dataset'
  ):
    byol_jax.knn(folder, overrides=KNN)
  dataset = {'dataset': str(run.parent / 'images')}
  results = byol_jax.knn(folder, overrides=KNN | dataset)
  assert results['bank'] + results['queries'] == 36


def test_results_that_cannot_be_written_are_refused_before_the_work(
  run, tmp_path
):
  said = []
  (tmp_path / 'file').touch()
  for output in (tmp_path, tmp_path / 'file' / 'results.jsonl'):
    with pytest.raises(errors.DataError, match='results cannot be written'):
      byol_jax.knn(run, overrides=KNN, output=output, log=said.append)
  output = tmp_path / 'new' / 'folder' / 'results.jsonl'
  with pytest.raises(errors.ConfigError, match=r'^ks: '):
    byol_jax.knn(run, overrides=KNN | {'ks': (999,)}, output=output)
  assert said == [] and not (tmp_path / 'new').exists()
