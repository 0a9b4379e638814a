"""kNN between the steps of a training."""

import json
import os
import signal
import time

import numpy as np
import pytest

from byol_jax import api, errors
from byol_jax.evals import knn, while_training
from byol_jax.evaluation import pretrained
from byol_jax.training import scalars as scalars_lib
from tests.helpers import fakes
from tests.helpers.tiny_checkpoint import arrays_of, assert_same_arrays
from tests.helpers.tiny_config import ArraySet, tiny

pytestmark = pytest.mark.usefixtures('compiled_once')
# Of 10 steps: log lines and checkpoints where evaluations are, and elsewhere.
KEYS = {'log__every_steps': 3, 'checkpoint__every_steps': 4}
MEASURED = ('time', *scalars_lib.RATES)  # they differ


READS = []  # splits whose images were read for a whole evaluation


class Counted(fakes.ImageSet):
  """Counts the passes over its images."""

  def eval_batches(self, batch_size):
    if batch_size > 1:  # not a look at the first image
      READS.append(len(self.images))
    yield from super().eval_batches(batch_size)


def load(split, **changes):
  """24 images of 4 classes to train, 12 to test."""
  count = 24 if split == 'train' else 12
  images = np.random.default_rng(count).random((count, 16, 16, 3), np.float32)
  facts = {'labels': np.arange(count) % 4, 'num_classes': 4} | changes
  return Counted(images, **facts)


def read_lines(workdir):
  """Log lines without what is measured, and lines of evaluations."""
  lines = (workdir / 'scalars.jsonl').read_text().splitlines()
  found = [json.loads(line) for line in lines]
  kept = [{k: v for k, v in x.items() if k not in MEASURED} for x in found]
  is_log = ['byol_loss' in line for line in kept]
  return (
    [line for line, yes in zip(kept, is_log) if yes],
    [line for line, yes in zip(kept, is_log) if not yes],
  )


def test_the_training_is_the_same_bit_for_bit(tmp_path, capsys):
  without, found = tmp_path / 'without', tmp_path / 'with'
  last = api.pretrain_on(ArraySet(), tiny(**KEYS), without)
  config = tiny(**KEYS, eval__knn_every_steps=4)
  READS.clear()
  again = api.pretrain_on(ArraySet(), config, found, load)
  assert {**last, 'seconds': 0} == {**again, 'seconds': 0} | {
    key: last[key] for key in MEASURED if key in last
  }
  assert READS == [24, 12]  # once for three evaluations
  for step in (4, 8, 10):
    assert_same_arrays(arrays_of(without, step), arrays_of(found, step))
  (expected, none), (lines, evaluations) = map(read_lines, (without, found))
  assert lines == expected and not none
  # And the numbers are those of the verb.
  run = pretrained.open_run(found)
  encoder = pretrained.open_encoder(run)
  options = knn.Options(6, while_training.KS, (while_training.TEMPERATURE,))
  results = knn.measure_accuracy(options, encoder, load)
  scalars = {k: v for k, v in results.items() if k.startswith('knn_k')}
  assert evaluations[-1] == scalars | {'step': 10} and len(scalars) == 2
  assert [line['step'] for line in evaluations] == [4, 8, 10]
  shown = capsys.readouterr().out.splitlines()
  texts = [line for line in shown if ': knn k=20, T=0.1 ' in line]
  assert [line.split(':')[0] for line in texts] == [
    'step 4',
    'step 8',
    'step 10',
  ]
  assert all('% on 12 images (+-' in line for line in texts)


class Broken(fakes.ImageSet):
  """Its first images cannot be read."""

  def eval_batches(self, batch_size):
    raise errors.DataError('too many images cannot be used')
    yield


@pytest.mark.parametrize(
  'load_split, words',
  (
    (lambda split: load(split, num_classes=None), "'train' has no labels"),
    (
      lambda split: load(split, num_classes=4 + (split == 'test')),
      "'test' has 5 classes",
    ),
    (
      lambda split: Broken(np.zeros((4, 2, 2, 3)), num_classes=4),
      'too many images cannot be used',
    ),
  ),
)
def test_what_cannot_be_evaluated_ends_before_the_training(
  tmp_path, load_split, words
):
  config, dataset = tiny(eval__knn_every_steps=4), ArraySet()
  with pytest.raises(errors.DataError, match=words) as caught:
    api.pretrain_on(dataset, config, tmp_path / 'run', load_split)
  assert str(caught.value).startswith('eval.knn_every_steps: ')
  assert not dataset.asked and not (tmp_path / 'run').exists()
  with pytest.raises(errors.ConfigError, match=r'eval\.knn_every_steps'):
    api.pretrain_on(dataset, config, tmp_path / 'run')


def test_a_signal_ends_an_evaluation_and_its_step_is_saved(
  tmp_path, monkeypatch
):
  def evaluate(state):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

  monkeypatch.setattr(while_training, 'make_knn', lambda *a: evaluate)
  config = tiny(eval__knn_every_steps=3)
  with pytest.raises(errors.Preempted, match='SIGTERM: saved step 3 of 10'):
    api.pretrain_on(ArraySet(), config, tmp_path, load)
  assert not read_lines(tmp_path)[1]
