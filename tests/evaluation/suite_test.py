"""A suite measures each evaluation once, whatever happens to the others."""

import json
import shutil

import pytest

from byol_jax import __main__ as command, api, configuration, errors
from byol_jax.convert import parity
from byol_jax.evals import features
from byol_jax.evaluation import protocols, suite as suite_lib
from byol_jax.tools import export
from tests.helpers import tiny_folder

FAST = {
  'protocols': 'knn,linear',
  'knn.ks': (1, 3),
  'knn.temperatures': (0.1,),
  'linear.epochs': 2.0,
  'linear.batch_size': 16,
}
NAMES = ['knn k=1, T=0.1', 'knn k=3, T=0.1', 'linear top-1']


@pytest.fixture
def measure(labelled, tmp_path):
  """Returns what a suite of the run gives, and the lines of its log."""

  def call(workdir=labelled[1], output=tmp_path / 'out', **changes):
    lines = []
    overrides = FAST | {k.replace('__', '.'): v for k, v in changes.items()}
    found = api.suite(
      workdir, 'evals/suite:cpu', overrides, lines.append, output=output
    )
    return found, lines

  return call


def started(lines):
  """What was measured and encoded, in order."""
  return [
    line.removeprefix('suite: ').partition(',')[0]
    for line in lines
    if line.startswith(('suite: ', 'encoding')) and 'before' not in line
  ]


def test_images_are_encoded_once_and_done_evaluations_are_not_repeated(
  measure, tmp_path, monkeypatch
):
  encoded = []  # images of each pass
  extract = features.extract_features

  def count(*arguments):
    result = extract(*arguments)
    encoded.append(len(result.ids))
    return result

  monkeypatch.setattr(features, 'extract_features', count)
  found, lines = measure()
  assert sum(encoded) == 3 * tiny_folder.PER_CLASS
  assert [row['name'] for row in found['rows']] == NAMES
  assert not found['failed'] and not found['missing']
  assert started(lines) == ['knn', 'encoding train', 'encoding test', 'linear']
  again, lines = measure()
  assert again == found and started(lines) == [] and len(encoded) == 2
  other, lines = measure(linear__epochs=3.0)
  assert started(lines)[0] == 'linear' and 'knn' not in started(lines)
  assert other['rows'][:2] == found['rows'][:2]
  names = {path.name for path in (tmp_path / 'out').iterdir()}
  assert names == {'suite.json', 'suite.md', 'evaluations.jsonl'}
  record = json.loads((tmp_path / 'out/suite.json').read_text())
  assert record['rows'] == other['rows'] and record['step'] > 0
  assert len(record['entries']) == 3
  text = (tmp_path / 'out/suite.md').read_text()
  for line in other['table']:
    assert line in text
  # Both files are made anew of what is there.
  (tmp_path / 'out/suite.json').write_text('{"entries"')
  assert measure(protocols='knn')[0]['rows'] == found['rows'][:2]


def test_images_that_changed_are_measured_again(measure, tmp_path):
  folder = tiny_folder.write(tmp_path / 'images')
  options = {'protocols': 'knn', 'dataset': str(folder)}
  assert started(measure(**options)[1])[0] == 'knn'
  assert started(measure(**options)[1]) == []
  shutil.copy(folder / 'bee/00.jpg', folder / 'ant/00.jpg')
  assert started(measure(**options)[1])[0] == 'knn'


def test_the_random_encoder_and_chance_stand_beside(measure):
  found, lines = measure(beside_random=True, protocols='knn,online')
  assert started(lines).count('encoding train') == 2
  rows = {row['name']: row for row in found['rows']}
  assert rows['knn k=1, T=0.1']['chance'] == pytest.approx(100 / 3)
  assert 0 <= rows['knn k=1, T=0.1']['random'] <= 100
  assert rows['online top-1']['random'] is None  # it was not trained
  assert 'random encoder' in found['table'][0]


def test_one_that_fails_is_named_and_the_next_follow(
  measure, labelled, tmp_path, monkeypatch, capsys
):
  evaluate = protocols.evaluate

  def fail(name, *arguments):
    if name == 'knn':
      raise errors.DivergedError('all is | lost')
    return evaluate(name, *arguments)

  monkeypatch.setattr(protocols, 'evaluate', fail)
  output = tmp_path / 'out'
  values = [f'--config.{key}={value}' for key, value in FAST.items()]
  arguments = ['--config=evals/suite:cpu', *values, f'--output={output}']
  words = ['suite', f'--workdir={labelled[1]}', *arguments]
  assert command.main(words) == 1
  printed = capsys.readouterr()
  assert '1 evaluation failed: knn' in printed.err
  assert '| all is / lost |' in printed.out
  rows = json.loads((output / 'suite.json').read_text())['rows']
  assert rows[0] == {'name': 'knn', 'error': 'all is | lost'}
  assert rows[1]['name'] == 'linear top-1'
  monkeypatch.setattr(protocols, 'evaluate', evaluate)
  found, lines = measure()
  assert started(lines) == ['knn', 'encoding train', 'encoding test']
  assert not found['failed'] and found['rows'][2] == rows[1]


@pytest.mark.parametrize(
  'changes, words',
  (
    ({'protocols': 'knn,knm'}, 'protocols: expected different ones of knn, '),
    ({'protocols': 'knn,knn'}, 'protocols: expected different ones'),
    ({'protocols': ','}, 'protocols: expected different ones'),
    ({'pretrained_on': 'imagenet'}, 'pretrained_on: expected a set that'),
    ({'knn__ks': (0,)}, 'knn.ks'),
  ),
)
def test_bad_values_are_refused_before_any_work(
  measure, tmp_path, changes, words
):
  with pytest.raises(errors.ConfigError, match=words):
    measure(**changes)
  assert not (tmp_path / 'out').exists()


def test_an_exported_encoder_needs_a_folder_and_has_no_random_one(
  measure, labelled, tmp_path, monkeypatch
):
  monkeypatch.setattr(parity.compare_encoders, '__defaults__', ([(33, 46)],))
  file = tmp_path / 'exported'
  export.export_encoder(labelled[1], 'safetensors', file)
  with pytest.raises(errors.ConfigError, match=r'output: .* is no workdir'):
    measure(file, None)
  with pytest.raises(errors.ConfigError, match=r'beside_random: .* no workdir'):
    measure(file, beside_random=True)
  found, _ = measure(file, protocols='knn')
  assert [row['name'] for row in found['rows']] == NAMES[:2]


@pytest.mark.parametrize('preset', ('evals/suite', 'evals/suite:cpu'))
def test_a_suite_has_every_protocol(preset):
  tasks = suite_lib.list_tasks(configuration.load(preset))
  assert {task.protocol for task in tasks} == {*protocols.PROTOCOLS}


def test_a_missing_set_of_transfer_is_named_and_is_no_failure(
  measure, tmp_path
):
  found, _ = measure(
    protocols='transfer', transfer__datasets='dtd,pets', data_dir=str(tmp_path)
  )
  assert not found['failed']
  assert [*found['missing']] == ['transfer dtd', 'transfer pets']
  assert 'tfds build dtd' in found['rows'][0]['error']
  assert 'tfds build oxford_iiit_pet' in found['table'][3]


def test_transfer_is_one_evaluation_for_each_set():
  config = configuration.load('evals/suite', {'protocols': 'transfer'})
  tasks = suite_lib.list_tasks(config)
  assert len(tasks) == 12 and tasks[1].title == 'transfer cifar10'
  assert tasks[1].config.datasets == 'cifar10'
