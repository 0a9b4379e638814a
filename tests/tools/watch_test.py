"""A run is followed: each checkpoint is evaluated once."""

import json
import shutil

import numpy as np
import pytest

from byol_jax import configuration, errors, networks
from byol_jax.checkpoints import checkpointer
from byol_jax.evals import features, knn, online
from byol_jax.evaluation import pretrained
from byol_jax.tools import watch
from tests.helpers import tiny_checkpoint

CONFIG = configuration.load('evals/knn', {'batch_size': 8})


@pytest.fixture
def followed(labelled, tmp_path):
  """A copy of the run of two steps, with a checkpoint of each."""
  workdir = shutil.copytree(labelled[1], tmp_path / 'run')
  (workdir / 'evaluations.jsonl').unlink(missing_ok=True)
  folder = workdir / 'checkpoints'
  arrays, facts = checkpointer.read_arrays(folder, 2)
  first = {
    name: 1.5 * x if name.endswith('/w') else x for name, x in arrays.items()
  }
  record = {'record': facts['record'], 'keep': 9}
  tiny_checkpoint.save(folder, 1, first, facts['meta'], **record)
  config = json.loads((workdir / 'config.json').read_text())
  config['log']['tensorboard'] = True
  (workdir / 'config.json').write_text(json.dumps(config))
  return workdir


def read_records(workdir):
  text = (workdir / 'evaluations.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def spy(patch):
  """The step of each pass, and the calls of the traced function."""
  passes, traced = [], []
  extract, represent = features.extract_features, networks.represent

  def extract_features(encoder, *arguments):
    passes.append(encoder.step)
    return extract(encoder, *arguments)

  patch.setattr(features, 'extract_features', extract_features)
  patch.setattr(
    networks, 'represent', lambda *x: traced.append(x) or represent(*x)
  )
  return passes, traced


def test_each_checkpoint_is_evaluated_once(followed):
  lines = []
  with pytest.MonkeyPatch.context() as patch:
    passes, traced = spy(patch)
    watch.run(followed, CONFIG, log=lines.append)
  records = read_records(followed)
  assert [(x['step'], x['protocol']) for x in records] == [
    (1, 'online'), (1, 'knn'), (2, 'online'), (2, 'knn')
  ]  # fmt: skip
  # Two splits, of which both protocols use one.
  assert passes == [1, 1, 2, 2]
  # One for the width of each encoder, and one for the program, which the second
  # checkpoint uses again.
  assert len(traced) == 3
  shown = [f'step {x["step"]}: {y}' for x in records for y in x['headlines']]
  facts = 'test has no image of 1 of 3 classes'  # once, not at each step
  last = 'step 2 is the last of this run: all is evaluated'
  assert lines[0].startswith('images: ') and 'classes: 3' in lines[0]
  assert lines.count(facts) == 1 and lines[-1] == last
  assert [line for line in lines if line.startswith('step ')] == [*shown, last]
  assert 'step 1: online top-1 ' in shown[0] and ' knn k=1, T=0.07 ' in shown[1]
  # They are what the verbs measure.
  run = pretrained.open_run(followed)
  encoder = pretrained.open_encoder(run, step=1)
  found = watch.Watcher(run, CONFIG, lines.append)
  load = found._splits.__getitem__
  options = knn.Options(8, CONFIG.ks, CONFIG.temperatures)
  assert records[1]['results'] == knn.measure_accuracy(options, encoder, load)
  expected = online.measure_accuracy(online.Options(8), encoder, load)
  assert records[0]['results'] == expected
  assert list((followed / 'tensorboard' / 'watch').glob('events*'))
  # The same command repeats nothing; another configuration does.
  watch.run(followed, CONFIG, log=lines.append)
  assert read_records(followed) == records
  assert found.done == {1, 2} and not found.list_new_steps()
  other = configuration.load('evals/knn', {'batch_size': 8, 'ks': (3,)})
  assert not watch.Watcher(run, other, lines.append).done


def test_a_deleted_checkpoint_is_skipped_and_a_damaged_one_is_not(
  followed, monkeypatch
):
  read, lines = checkpointer.read_arrays, []

  def delete_first(folder, step=None):
    if step == 1:
      shutil.rmtree(followed / 'checkpoints' / '1', ignore_errors=True)
    return read(folder, step)

  monkeypatch.setattr(checkpointer, 'read_arrays', delete_first)
  monkeypatch.setattr(watch.Watcher, '_measure', lambda self, encoder: {})
  watch.run(followed, CONFIG, log=lines.append)
  assert 'step 1 was deleted while it was read: skipped' in lines[1]
  manifest = followed / 'checkpoints' / '2' / 'manifest'
  shutil.rmtree(manifest)
  with pytest.raises(errors.DataError, match='damaged'):
    watch.run(followed, CONFIG, log=lines.append, seconds=0.01)


def test_it_waits_for_a_workdir_and_for_its_first_checkpoint(
  followed, tmp_path, monkeypatch
):
  late, lines = tmp_path / 'late', []
  with pytest.raises(errors.DataError, match='no byol_jax run'):
    watch.run(late, CONFIG, once=True)

  def sleep(seconds):
    if not late.exists():
      shutil.copytree(followed, late, ignore=lambda *_: ['checkpoints'])
    elif not (late / 'checkpoints').exists():
      shutil.copytree(followed / 'checkpoints', late / 'checkpoints')
      shutil.rmtree(late / 'checkpoints' / '2')
    else:  # the run goes on
      source = followed / 'checkpoints' / '2'
      shutil.copytree(source, late / 'checkpoints' / '2')

  monkeypatch.setattr(watch.time, 'sleep', sleep)
  monkeypatch.setattr(watch.Watcher, '_measure', lambda self, encoder: {})
  watch.run(late, CONFIG, log=lines.append)
  assert lines[0] == f"waiting for the pretraining in '{late}'"
  assert 'first checkpoint' in lines[1] and 'step 2' in lines[3]
  shutil.rmtree(late / 'checkpoints')
  with pytest.raises(errors.DataError, match='no checkpoint yet'):
    watch.run(late, CONFIG, once=True)


def test_it_ends_when_the_workdir_is_deleted(followed, monkeypatch):
  shutil.rmtree(followed / 'checkpoints' / '2')
  # Lines that are none of ours are no obstacle.
  lines = ['{"half": ', '[' * 100_000, '[1]', '{"protocol": ["knn"]}', '\xff']
  text = '\n'.join(lines)
  (followed / 'evaluations.jsonl').write_text(text, encoding='latin1')
  monkeypatch.setattr(watch.Watcher, '_measure', lambda self, encoder: {})
  sleeps = []

  def sleep(seconds):
    assert not sleeps
    sleeps.append(seconds)
    shutil.rmtree(followed)

  monkeypatch.setattr(watch.time, 'sleep', sleep)
  with pytest.raises(errors.DataError, match='all checkpoints were deleted'):
    watch.run(followed, CONFIG, log=lines.append)
  assert sleeps and not followed.exists()


def test_results_that_cannot_be_written_end_it_before_any_work(
  followed, monkeypatch
):
  (followed / 'evaluations.jsonl').mkdir()
  calls = []
  monkeypatch.setattr(watch.Watcher, '_measure', lambda *x: calls.append(x))
  with pytest.raises(errors.DataError, match=r"jsonl'?: cannot be written"):
    watch.run(followed, CONFIG, once=True)
  assert not calls


def test_random_weights_are_refused_and_another_set_has_no_online_classifier(
  followed, tmp_path
):
  config = configuration.load('evals/knn', {'weights': 'random'})
  with pytest.raises(errors.ConfigError, match="expected 'online' or 'target'"):
    watch.run(followed, config, once=True)
  images = np.zeros((8, 16, 16, 3), np.uint8)
  names = {'images': images, 'test_images': images}
  kinds = {key.replace('images', 'labels'): np.arange(8) % 2 for key in names}
  np.savez(tmp_path / 'two.npz', **names, **kinds)
  values = {'dataset': str(tmp_path / 'two.npz'), 'batch_size': 8}
  lines = []
  run = pretrained.open_run(followed)
  watcher = watch.Watcher(
    run, configuration.load('evals/knn', values), lines.append
  )
  assert list(watcher._configs) == ['knn']
  _, line = lines
  assert '3 classes, these images have 2: kNN only' in line
