"""The loop: resumed runs, refusals, signals and divergence."""

import functools
import itertools
import json
import os
import shutil
import signal
import threading
import time

import jax
import numpy as np
import pytest

from byol_jax import errors, experiment
from byol_jax.checkpoints import checkpointer
from byol_jax.data.loading import image_set, resident, tf_engine
from byol_jax.data.sampling import crops, order
from byol_jax.data.sources import arrays
from byol_jax.training import logs, train
from tests.helpers.tiny_config import ArraySet, tiny

pytestmark = pytest.mark.usefixtures('compiled_once')

NUM_STEPS = 10  # 2.5 epochs of 32 images in batches of 8


def saved(path, step=None):
  """{leaf path: array} of a run's checkpoint."""
  return checkpointer.read_arrays(path / 'checkpoints', step)[0]


def lines(path):
  """The logged records."""
  return [
    json.loads(line) for line in (path / 'scalars.jsonl').open().readlines()
  ]


class Interrupted(ArraySet):
  """Sends this process a signal when a step's batch is made."""

  def __init__(self, at_step, number=signal.SIGTERM, **options):
    super().__init__(**options)
    self.at_step, self.number = at_step, number

  def view_batches(self, batch_size, start_step, num_steps):
    batches = super().view_batches(batch_size, start_step, num_steps)
    for step, batch in enumerate(batches, start=start_step):
      if step == self.at_step:
        os.kill(os.getpid(), self.number)
      yield batch


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
  """A run from start to end."""
  path = tmp_path_factory.mktemp('unbroken')
  train.run(tiny(), str(path), ArraySet())
  return path


@pytest.mark.parametrize('number', (signal.SIGTERM, signal.SIGINT))
def test_a_stopped_run_resumes_bit_for_bit(
  unbroken, tmp_path, number, monkeypatch
):
  with pytest.raises(errors.Preempted, match=r'saved step \d of 10') as caught:
    train.run(tiny(), str(tmp_path), Interrupted(5, number))
  assert caught.value.exit_code == 42
  stopped = checkpointer.latest_step(tmp_path / 'checkpoints')
  assert 1 <= stopped <= 6
  rest = ArraySet()
  # Nor is a state drawn that nobody needs: at scale that takes minutes.
  monkeypatch.delattr(experiment.Experiment, 'init')
  train.run(tiny(), str(tmp_path), rest)
  # No step is repeated, none is left out.
  assert rest.asked == list(range(stopped, NUM_STEPS))
  expected, found = saved(unbroken), saved(tmp_path)
  assert expected.keys() == found.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(array, found[name], err_msg=name)


def test_a_signal_late_in_a_step_loses_nothing(tmp_path, monkeypatch):
  """It comes after the step was to be saved or not: the next one is."""
  write = logs.Logs.write

  def interrupt(self, step, scalars):
    os.kill(os.getpid(), signal.SIGTERM)
    write(self, step, scalars)

  monkeypatch.setattr(logs.Logs, 'write', interrupt)
  with pytest.raises(errors.Preempted) as caught:
    train.run(tiny(), str(tmp_path), ArraySet())
  step = checkpointer.latest_step(tmp_path / 'checkpoints')
  assert f'saved step {step} of' in str(caught.value)


def test_before_a_first_step_what_was_saved_stands(tmp_path):
  """Its batches are made before the devices have begun."""
  with pytest.raises(errors.Preempted, match='nothing is saved yet') as caught:
    train.run(tiny(), str(tmp_path), Interrupted(0))
  assert caught.value.exit_code == 42
  assert checkpointer.latest_step(tmp_path / 'checkpoints') is None
  stop_after(4, tmp_path)
  with pytest.raises(errors.Preempted, match='step 4, saved before, stays'):
    train.run(tiny(), str(tmp_path), Interrupted(4))
  assert checkpointer.latest_step(tmp_path / 'checkpoints') == 4


def stop_after(step, path):
  """A run that is told to stop at a log line."""
  write = logs.Logs.write

  def interrupt(self, at, scalars):
    write(self, at, scalars)
    if at == step:
      os.kill(os.getpid(), signal.SIGTERM)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(logs.Logs, 'write', interrupt)
    with pytest.raises(errors.Preempted):
      train.run(tiny(checkpoint__every_steps=step), str(path), ArraySet())


def test_a_signal_while_a_step_is_saved_loses_nothing(
  unbroken, tmp_path, monkeypatch
):
  """The save under way is finished; it is the one that the run goes on from."""
  save, asked = checkpointer.Checkpointer.save, []

  def interrupted(self, step, tree, meta):
    found = save(self, step, tree, meta)
    asked.append(step)
    if step == 3:
      os.kill(os.getpid(), signal.SIGTERM)  # written meanwhile, by a thread
    return found

  monkeypatch.setattr(checkpointer.Checkpointer, 'save', interrupted)
  config = tiny(checkpoint__every_steps=3)
  with pytest.raises(errors.Preempted, match='saved step 3 of 10'):
    train.run(config, str(tmp_path), ArraySet())
  assert asked == [3, 3]
  assert saved(tmp_path)['step'] == 3
  train.run(config, str(tmp_path), ArraySet())
  assert_same_end(unbroken, tmp_path)


def test_a_clock_that_goes_back_changes_no_order(
  unbroken, tmp_path, monkeypatch
):
  """Steps are in order by their number, not by a time."""
  clock = itertools.count(10**9, -60)
  monkeypatch.setattr(time, 'time', lambda: next(clock))
  config = tiny(checkpoint__every_steps=2, checkpoint__keep=9)
  stop_after(4, tmp_path)
  for step in (tmp_path / 'checkpoints').glob('[0-9]*'):
    os.utime(step, (10**9 - int(step.name),) * 2)  # the newest looks oldest
  train.run(config, str(tmp_path), ArraySet())
  assert [line['step'] for line in lines(tmp_path)] == [2, 4, 6, 8, 10]
  assert_same_end(unbroken, tmp_path)


class Stuck(ArraySet):
  """Its third batch never comes."""

  def __init__(self, signal_after=None):
    super().__init__()
    self.signal_after = signal_after

  def view_batches(self, batch_size, start_step, num_steps):
    batches = super().view_batches(batch_size, start_step, num_steps)
    for step, batch in enumerate(batches, start=start_step):
      if step == start_step + 3:
        time.sleep(1)
        if self.signal_after is not None:
          os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait()
      yield batch


def test_a_signal_while_images_are_waited_for_saves_at_once(unbroken, tmp_path):
  with pytest.raises(errors.Preempted, match='saved step 1 of 10'):
    train.run(tiny(), str(tmp_path), Stuck(signal_after=1))
  train.run(tiny(), str(tmp_path), ArraySet())
  assert_same_end(unbroken, tmp_path)


def test_a_source_that_no_longer_answers_ends_the_run(tmp_path, capsys):
  config = tiny(faults__stall_seconds=5.0, checkpoint__every_steps=1)
  with pytest.raises(errors.DataError, match='no images for 5 s') as caught:
    train.run(config, str(tmp_path), Stuck())
  assert caught.value.exit_code == 3
  assert 'waiting for images for 0.5 s' in capsys.readouterr().out
  assert checkpointer.latest_step(tmp_path / 'checkpoints') == 1


def test_the_state_counts_completed_steps(unbroken):
  assert saved(unbroken)['step'] == NUM_STEPS
  assert checkpointer.latest_step(unbroken / 'checkpoints') == NUM_STEPS


def test_a_finished_run_is_left_alone(unbroken):
  before = saved(unbroken)
  again = ArraySet()
  result = train.run(tiny(), str(unbroken), again)
  assert again.asked == []
  assert result['step'] == NUM_STEPS
  for name, array in saved(unbroken).items():
    np.testing.assert_array_equal(array, before[name])


def test_every_scalar_of_the_issue_is_logged(unbroken):
  record = lines(unbroken)[-1]
  assert record.keys() >= {
    'loss',
    'repr_loss',
    'classif_loss',
    'top1_accuracy',
    'top5_accuracy',
    'tau',
    'learning_rate',
    'images_per_second',
    'data_wait',
    'projection_std',
    'step',
  }
  assert record['loss'] == pytest.approx(
    record['repr_loss'] + record['classif_loss'], rel=1e-5
  )
  assert [line['step'] for line in lines(unbroken)] == [2, 4, 6, 8, 10]


def test_config_and_versions_are_saved_beside(unbroken):
  config = json.loads((unbroken / 'config.json').read_text())
  assert config['batch_size'] == 8
  assert config['training_set']['fingerprint'] == ArraySet.fingerprint
  versions = json.loads((unbroken / 'versions.json').read_text())
  assert versions['jax'] == jax.__version__


@pytest.mark.parametrize(
  'change',
  (
    {'network__width': 1.0},
    {'dataset': 'other'},
    {'data__heldout_share': 0.2},
    {'augment__view2__solarize__probability': 0.3},
    {'optimizer__weight_decay': 1e-3},
    {'schedule__base_rate': 1.0},
    {'target__base_tau': 0.5},
    {'batch_size': 16},
    {'epochs': 5.0},
    {'seed': 1},
  ),
)
def test_another_run_is_refused_by_its_first_difference(unbroken, change):
  before = saved(unbroken)
  key = next(iter(change)).replace('__', '.')
  with pytest.raises(errors.DataError, match=f'{key}: saved') as caught:
    train.run(tiny(**change), str(unbroken), ArraySet())
  assert '\n' not in str(caught.value)
  np.testing.assert_array_equal(
    saved(unbroken)['online_params/projector/linear/w'],
    before['online_params/projector/linear/w'],
  )


def test_on_a_new_disk_the_checkpoints_say_what_the_run_is(unbroken, tmp_path):
  """A slice that is made again has an empty disk; the bucket is as it was."""
  elsewhere = str(unbroken / 'checkpoints')
  other = tiny(checkpoint__folder=elsewhere, seed=1)
  with pytest.raises(errors.DataError, match='seed: saved 0, now 1'):
    train.run(other, str(tmp_path / 'other'), ArraySet())
  config = tiny(checkpoint__folder=elsewhere)
  result = train.run(config, str(tmp_path / 'new'), ArraySet())
  assert result['step'] == NUM_STEPS
  assert not (tmp_path / 'new' / 'checkpoints').exists()
  assert (tmp_path / 'new' / 'config.json').exists()


def test_checkpoints_of_a_run_that_nobody_knows_are_refused(
  unbroken, tmp_path, monkeypatch
):
  """As those of the first format."""
  path = tmp_path / 'copy'
  shutil.copytree(unbroken, path)
  (path / 'config.json').unlink()
  monkeypatch.setattr(checkpointer, 'read_record', lambda folder: {})
  with pytest.raises(errors.DataError, match=r'no config\.json, so nobody'):
    train.run(tiny(), str(path), ArraySet())
  assert not (path / 'config.json').exists()


def test_another_data_set_under_the_same_name_is_refused(unbroken):
  other = ArraySet()
  other.fingerprint = 'f' * 64
  with pytest.raises(errors.DataError, match=r'training_set\.fingerprint'):
    train.run(tiny(), str(unbroken), other)


def test_logging_saving_and_reading_may_change(unbroken):
  config = tiny(
    log__every_steps=7,
    checkpoint__keep=1,
    checkpoint__every_minutes=1.0,
    input__threads=3,
    data_dir='elsewhere',
  )
  train.run(config, str(unbroken), ArraySet())


def test_a_step_that_is_not_finite_is_skipped_and_named(tmp_path, capsys):
  train.run(tiny(), str(tmp_path), ArraySet(poison={5}))
  assert 'warning: steps 5 were not finite' in capsys.readouterr().out
  assert [line.get('skipped', 0) for line in lines(tmp_path)] == [0, 0, 1, 0, 0]
  assert all(np.isfinite(line['loss']) for line in lines(tmp_path))
  assert all(np.isfinite(array).all() for array in saved(tmp_path).values())


def test_too_many_in_a_row_go_back_and_past_these_images(tmp_path, capsys):
  config = tiny(checkpoint__every_steps=4, faults__max_skips=1)
  dataset = ArraySet(poison={5, 6, 7})
  train.run(config, str(tmp_path), dataset)
  out = capsys.readouterr().out
  assert 'steps 5 to 6 were not finite' in out
  # Noticed at the log line of step 8; step 4 takes the images of step 8.
  assert 'back to step 4, with the images of step 8 on' in out
  assert dataset.asked[-6:] == [8, 9, 10, 11, 12, 13]
  steps = [line['step'] for line in lines(tmp_path)]
  assert steps == [2, 4, 6, 8, 10]
  assert 'skipped' not in lines(tmp_path)[-1]
  # The images' place is part of the state: a resumed run goes on with it.
  _, meta = checkpointer.read_arrays(tmp_path / 'checkpoints')
  assert meta == {'step': NUM_STEPS, 'data_offset': 4}


def test_a_run_that_was_rolled_back_resumes_bit_for_bit(tmp_path):
  config = tiny(checkpoint__every_steps=4, faults__max_skips=1)
  train.run(config, str(tmp_path / 'a'), ArraySet(poison={2, 3}))
  stopped = Interrupted(11, poison={2, 3})
  with pytest.raises(errors.Preempted):
    train.run(config, str(tmp_path / 'b'), stopped)
  rest = ArraySet(poison={2, 3})
  train.run(config, str(tmp_path / 'b'), rest)
  assert rest.asked[-1] == 13 and min(rest.asked) > 4
  assert_same_end(tmp_path / 'a', tmp_path / 'b')


def test_a_run_that_does_not_recover_ends_and_keeps_its_checkpoint(
  unbroken, tmp_path
):
  config = tiny(
    checkpoint__every_steps=4, faults__max_skips=1, faults__max_rollbacks=2
  )
  with pytest.raises(
    errors.DivergedError,
    match=r'not finite.*after 2 rollbacks.*; checkpoint 4 stays; lower',
  ) as caught:
    train.run(config, str(tmp_path), ArraySet(poison=range(5, 99)))
  assert caught.value.exit_code == 4
  assert checkpointer.latest_step(tmp_path / 'checkpoints') == 4
  assert all(np.isfinite(array).all() for array in saved(tmp_path).values())
  # Sound data heal it, from that checkpoint, to the same end.
  train.run(config, str(tmp_path), ArraySet())
  assert_same_end(unbroken, tmp_path)


def test_a_run_that_never_was_finite_starts_over_and_ends(tmp_path):
  with pytest.raises(errors.DivergedError, match='no checkpoint yet'):
    train.run(
      tiny(faults__max_skips=1), str(tmp_path), ArraySet(poison=range(99))
    )


def test_the_newest_checkpoints_are_kept(tmp_path):
  config = tiny(checkpoint__every_steps=2, checkpoint__keep=2)
  train.run(config, str(tmp_path), ArraySet())
  steps = sorted(
    int(p.name) for p in (tmp_path / 'checkpoints').iterdir() if p.is_dir()
  )
  assert steps == [8, 10]


def test_unlabelled_data_train_without_a_classifier(tmp_path):
  result = train.run(tiny(), str(tmp_path), ArraySet(num_classes=None))
  assert 'classif_loss' not in result
  assert not any('classifier' in name for name in saved(tmp_path))


def test_the_batch_must_divide_by_the_devices(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 3)
  with pytest.raises(errors.ConfigError, match='multiple of the 3 devices'):
    train.run(tiny(), str(tmp_path / 'new'), ArraySet())
  assert not (tmp_path / 'new').exists()


def test_signal_handlers_are_put_back(tmp_path):
  before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  train.run(tiny(), str(tmp_path), ArraySet())
  after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  assert before == after


class Slow(ArraySet):
  """Takes long for a batch, beside a step."""

  def view_batches(self, batch_size, start_step, num_steps):
    for batch in super().view_batches(batch_size, start_step, num_steps):
      time.sleep(0.4)
      yield batch


def test_promise_7_a_slow_source_is_named_as_the_bottleneck(tmp_path, capsys):
  config = tiny()
  config.log.every_steps = 2
  train.run(config, str(tmp_path), Slow())
  found = lines(tmp_path)
  assert all('images_per_second' in line for line in found)
  # The first line has the compilation in it, the last what was prefetched.
  assert all(line['data_wait'] > 0.8 for line in found[1:-1])
  assert capsys.readouterr().out.count('the input is the bottleneck') == 1


def test_a_fast_source_is_not(unbroken, tmp_path, capsys):
  train.run(tiny(), str(tmp_path), ArraySet())
  assert 'bottleneck' not in capsys.readouterr().out


CROP_RANGE = crops.CropRange((0.2, 1.0), (3 / 4, 4 / 3))
OPTIONS = {
  'image_size': 16,
  'crop_ranges': (CROP_RANGE, CROP_RANGE),
  'eval_crop': 'whole',
  'transfer': 'float32',
  'max_bad_share': 0.0,
  'seed': 0,
  'num_threads': 1,
}


def pictures(poisoned=None):
  """32 images in memory; one of them may be of no known class."""
  generator = np.random.default_rng(0)
  images = generator.integers(0, 256, (32, 20, 18, 3)).astype(np.uint8)
  labels = np.arange(32) % 4
  if poisoned is not None:
    labels[poisoned] = 10**6
  return arrays.ArraySource(images, labels, class_names='abcd')


def resident_run(path, *, poisoned=None, stop_at=None, **overrides):
  """Ten steps in calls of at most four; the result of `train.run`."""
  dataset = resident.ImageSet(pictures(poisoned), gib=1.0, **OPTIONS)
  plans = dataset.plans

  def interrupted(batch_size, start_step, num_steps):
    for step, plan in enumerate(plans(batch_size, start_step, num_steps)):
      if start_step + step == stop_at:
        os.kill(os.getpid(), signal.SIGTERM)
      yield plan

  dataset.plans = interrupted
  many = {'data__resident': True, 'input__steps_per_call': 4}
  return train.run(tiny(**(many | overrides)), str(path), dataset)


@pytest.fixture(scope='module')
def resident_unbroken(tmp_path_factory):
  """A run from start to end, in calls of four, four and two steps."""
  path = tmp_path_factory.mktemp('resident')
  resident_run(path, log__every_steps=100)
  return path


def assert_same_end(path, other):
  expected, found = saved(path), saved(other)
  assert expected.keys() == found.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(array, found[name], err_msg=name)


def test_calls_end_where_something_is_logged_or_saved(
  resident_unbroken, tmp_path
):
  """Whatever the calls, the end is the same, bit for bit."""
  result = resident_run(tmp_path, log__every_steps=3, checkpoint__every_steps=5)
  assert result['step'] == NUM_STEPS
  assert [line['step'] for line in lines(tmp_path)] == [3, 5, 6, 9, 10]
  steps = {int(p.name) for p in (tmp_path / 'checkpoints').glob('[0-9]*')}
  assert steps == {5, 10}
  assert_same_end(resident_unbroken, tmp_path)
  # Means over the interval of each line make up the mean of all.
  lengths = np.diff([0, *(line['step'] for line in lines(tmp_path))])
  (whole,) = lines(resident_unbroken)
  for key in ('loss', 'top1_accuracy'):
    found = np.average([line[key] for line in lines(tmp_path)], weights=lengths)
    assert found == pytest.approx(whole[key], rel=1e-5)
  for key in ('tau', 'learning_rate'):
    assert lines(tmp_path)[-1][key] == whole[key]


def test_a_stopped_resident_run_resumes_bit_for_bit(
  resident_unbroken, tmp_path
):
  with pytest.raises(errors.Preempted, match=r'saved step \d of 10'):
    resident_run(tmp_path, stop_at=9, log__every_steps=3)
  assert checkpointer.latest_step(tmp_path / 'checkpoints') in (3, 6, 9)
  resident_run(tmp_path, log__every_steps=100)
  assert_same_end(resident_unbroken, tmp_path)


def test_a_skipped_step_within_a_call_is_named(tmp_path, capsys):
  ids, _ = order.example_ids(0, np.arange(32), 32)
  poisoned = int(ids[22])  # in the batch of step 2, once in an epoch
  resident_run(tmp_path, poisoned=poisoned)
  assert 'warning: steps 2 were not finite' in capsys.readouterr().out
  assert all(np.isfinite(array).all() for array in saved(tmp_path).values())


def test_a_resident_set_trains_as_the_streamed_one(tmp_path):
  """To the last bits of a pixel, of a view or of a convolution in a loop.

  Ten steps at a rate of the demo make them larger, so the first two are
  compared.
  """
  for name, overrides in (('many', {}), ('one', {'input__steps_per_call': 1})):
    resident_run(tmp_path / name, **overrides)
  engine = functools.partial(tf_engine.decode_into, decoding='once')
  dataset = image_set.ImageSet(pictures(), engine=engine, **OPTIONS)
  train.run(tiny(), str(tmp_path / 'streamed'), dataset)
  expected, *rest = lines(tmp_path / 'streamed')
  assert expected['step'] == 2 and len(rest) == 4
  for name in ('many', 'one'):
    found = lines(tmp_path / name)[0]
    for key in ('loss', 'projection_std'):
      assert found[key] == pytest.approx(expected[key], rel=1e-5), (name, key)


def test_a_set_that_does_not_fit_leaves_the_workdir_alone(tmp_path):
  dataset = resident.ImageSet(pictures(), gib=1e-6, **OPTIONS)
  with pytest.raises(errors.ConfigError, match=r'input\.resident_gib'):
    train.run(tiny(data__resident=True), str(tmp_path / 'new'), dataset)
  assert not (tmp_path / 'new').exists()


def test_a_run_whose_newest_checkpoint_is_damaged_goes_back_one(
  unbroken, tmp_path, capsys
):
  config = tiny()
  config.checkpoint.every_steps = 4
  train.run(config, str(tmp_path), ArraySet())
  newest = tmp_path / 'checkpoints' / str(NUM_STEPS)
  files = [path for path in newest.rglob('*') if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 1
  largest.write_bytes(data)
  train.run(config, str(tmp_path), ArraySet())
  assert 'resumed after step 8 of 10' in capsys.readouterr().out
  expected, found = saved(unbroken), saved(tmp_path)
  assert expected.keys() == found.keys()
  for name in expected:
    np.testing.assert_array_equal(found[name], expected[name])
  steps = [line['step'] for line in lines(tmp_path)]
  assert steps == sorted(set(steps))
