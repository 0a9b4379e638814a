"""Trainings of an evaluation that stop and go on."""

import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import errors, parallel
from byol_jax.training import resumable, train

NUM_STEPS = 25


def update(state, batch):
  """A sum that remembers its rounding, and scalars without an equal."""
  mean = parallel.mean(jnp.mean(batch['x']))
  state = {'w': state['w'] * 1.01 + mean, 'step': state['step'] + 1}
  nan = jnp.where(state['step'] == 3, jnp.nan, mean)
  return state, {'loss': jnp.stack([mean, nan])[None], 'n': state['step'][None]}


class Training:
  """One training, which gets a signal before the batch of a step."""

  def __init__(self, stop_at=None, number=signal.SIGTERM):
    self.stop_at, self.number = stop_at, number
    self.first, self.seen = None, []

  def make_batches(self, batch_size, first, num_steps):
    self.first = first
    for step in range(first, first + num_steps):
      if step == self.stop_at:
        os.kill(os.getpid(), self.number)
      noise = np.random.default_rng(step).random((1, batch_size), np.float32)
      yield {'x': noise}

  def run(self, saves, name='only', num_steps=NUM_STEPS):
    state = {'w': np.zeros(3, np.float32), 'step': np.int32(0)}
    return train.train_in_memory(
      update, state, self.make_batches, 4, num_steps, self.seen.append,
      name=name, saves=saves,
    )  # fmt: skip

  def observed(self, key):
    return np.concatenate([values[key] for values in self.seen])


@pytest.fixture
def open_saves(tmp_path):
  """open_saves() opens the same folder; `said` are its lines."""
  said = []

  def call(folder=None):
    folder = folder or tmp_path / 'evaluations' / 'x'
    return resumable.open_saves(folder, said.append)

  call.said = said
  return call


@pytest.fixture(scope='module')
def unbroken():
  training = Training()
  return training.run(None), training


def check(found, training, unbroken):
  """Bit for bit, the scalars too."""
  expected, whole = unbroken
  for key in ('w', 'step'):
    np.testing.assert_array_equal(found[key], expected[key])
  for key in ('loss', 'n'):
    assert training.observed(key).dtype == whole.observed(key).dtype
    np.testing.assert_array_equal(training.observed(key), whole.observed(key))


@pytest.mark.parametrize(
  'stop_at, number', ((6, signal.SIGTERM), (13, signal.SIGINT))
)
def test_a_stopped_training_goes_on_bit_for_bit(
  open_saves, unbroken, tmp_path, stop_at, number
):
  handlers = signal.getsignal(signal.SIGTERM)
  stopped = Training(stop_at, number)
  pattern = r'saved step \d+ of 25 in .*/x'
  with pytest.raises(errors.Preempted, match=pattern), open_saves() as saves:
    stopped.run(saves)
  assert signal.getsignal(signal.SIGTERM) == handlers
  training = Training()
  with open_saves() as saves:
    check(training.run(saves), training, unbroken)
  # Batches are made a few steps ahead.
  assert stop_at - 4 < training.first <= stop_at
  assert open_saves.said == [f'only: resumed after step {training.first} of 25']
  assert not [*tmp_path.iterdir()]  # done


def test_of_several_trainings_those_that_are_done_stay_done(
  open_saves, unbroken
):

  def stop():
    with open_saves() as saves:
      found = Training().run(saves, 'rate 0.1', 12)
      with pytest.raises(errors.Preempted) as caught:
        Training(7).run(saves, 'rate 0.2')
      results.append(found)
      raise caught.value

  results = []
  with pytest.raises(errors.Preempted):
    stop()
  (first,) = results
  again, second, third = Training(), Training(), Training()
  with open_saves() as saves:
    found = again.run(saves, 'rate 0.1', 12)
    np.testing.assert_array_equal(found['w'], first['w'])
    assert again.first is None and len(again.observed('n')) == 12
    check(second.run(saves, 'rate 0.2'), second, unbroken)
    check(third.run(saves, 'rate 0.3'), third, unbroken)
    assert (second.first > 0, third.first) == (True, 0)
    with pytest.raises(ValueError, match='two trainings have the name'):
      Training().run(saves, 'rate 0.3')


def test_a_damaged_checkpoint_is_no_obstacle(
  open_saves, unbroken, tmp_path, caplog
):
  with pytest.raises(errors.Preempted), open_saves() as saves:
    Training(7).run(saves)
  for path in (tmp_path / 'evaluations/x/only').rglob('*'):
    if path.is_file() and path.stat().st_size:
      path.write_bytes(b'\0' * path.stat().st_size)
  training = Training()
  with open_saves() as saves:
    check(training.run(saves), training, unbroken)
  assert training.first == 0
  assert 'the training starts afresh' in caplog.text


def test_one_process_at_a_time_and_a_divergence_is_not_repeated(
  open_saves, tmp_path
):
  with open_saves() as saves:
    with pytest.raises(errors.DataError, match='in use by'), open_saves():
      pass
    assert saves.folder.is_dir()
  with pytest.raises(errors.DivergedError), open_saves():
    raise errors.DivergedError('all rates')
  assert not [*tmp_path.iterdir()]


def test_an_error_before_the_first_save_leaves_nothing(open_saves, tmp_path):
  with pytest.raises(errors.DataError), open_saves():
    raise errors.DataError('no labels')

  def fail(*steps):
    raise errors.DataError('no such image')

  training = Training()
  training.make_batches = fail
  with pytest.raises(errors.DataError), open_saves() as saves:
    training.run(saves)
  assert not [*tmp_path.iterdir()]


def test_a_folder_that_cannot_be_written_saves_nothing(
  open_saves, unbroken, tmp_path
):
  (tmp_path / 'file').touch()
  training = Training()
  with open_saves(tmp_path / 'file' / 'x') as saves:
    assert saves is None
    check(training.run(saves), training, unbroken)
  assert 'not saved meanwhile' in open_saves.said[0]
