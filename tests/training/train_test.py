"""Training runs: resumed, refused, stopped by signals, rolled back."""

import contextlib
import functools
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import threading
import time
import traceback
import types

import jax
import numpy as np
import pytest

import byol_jax
from byol_jax import __main__ as command, api, errors, experiment, losses
from byol_jax.checkpoints import checkpointer
from byol_jax.data.loading import image_set, resident, tf_engine
from byol_jax.data.sampling import crops, order
from byol_jax.data.sources import arrays
from byol_jax.training import (
  logs,
  loop,
  monitor,
  multi_step,
  recovery,
  scalars,
  train as train_lib,
  watchdog,
)
from tests.helpers import wiring
from tests.helpers.tiny_checkpoint import (
  arrays_of,
  assert_same_arrays,
  latest_step,
)
from tests.helpers.tiny_config import SMALL, ArraySet, tiny

pytestmark = pytest.mark.usefixtures('compiled_once')

NUM_STEPS = 10  # 2.5 epochs of 32 images in batches of 8
HANDLED = (signal.SIGTERM, signal.SIGINT)
MONITORED = (
  *('effective_rank', 'target_cosine', 'target_margin', 'prediction_norm'),
  'dead_units',
)


def train(path, dataset=None, **overrides):
  """A run of ten steps; its result."""
  dataset = ArraySet() if dataset is None else dataset
  return api.pretrain_on(dataset, tiny(**overrides), path)


def saved_steps(path):
  return {int(p.name) for p in (path / 'checkpoints').glob('[0-9]*')}


def lines(path):
  """The logged records."""
  return list(map(json.loads, (path / 'scalars.jsonl').open()))


def logged_steps(path):
  return [line['step'] for line in lines(path)]


def assert_same_end(path, other):
  assert_same_arrays(arrays_of(path), arrays_of(other))


def assert_same_monitored(path, other):
  last, expected = lines(path)[-1], lines(other)[-1]
  assert [last[x] for x in MONITORED] == [expected[x] for x in MONITORED]


def assert_finite(path):
  assert all(np.isfinite(array).all() for array in arrays_of(path).values())


def stop():
  os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
  """A run from start to end, and what it printed."""
  path = tmp_path_factory.mktemp('unbroken')
  handlers = [signal.getsignal(number) for number in HANDLED]
  with contextlib.redirect_stdout(io.StringIO()) as output:
    train(path)
  assert [signal.getsignal(number) for number in HANDLED] == handlers
  (path / 'output').write_text(output.getvalue())
  return path


def test_a_run_leaves_its_state_scalars_config_and_versions(unbroken):
  assert arrays_of(unbroken)['step'] == NUM_STEPS
  assert saved_steps(unbroken) == {NUM_STEPS}
  assert logged_steps(unbroken) == [2, 4, 6, 8, 10]
  record = lines(unbroken)[-1]
  assert record.keys() >= {
    *('total_loss', 'byol_loss', 'classifier_loss', 'top1_accuracy'),
    'top5_accuracy',
    *('tau', 'learning_rate', 'projection_std', *MONITORED),
    *('images_per_second', 'images_per_second_per_device', 'data_wait'),
  }
  for name in record.keys() - {'step', 'time'}:
    assert scalars.describe(name), name
  assert record['total_loss'] == pytest.approx(
    record['byol_loss'] + record['classifier_loss'], rel=1e-5
  )
  config = json.loads((unbroken / 'config.json').read_text())
  assert config['batch_size'] == 8
  assert config['training_set']['fingerprint'] == ArraySet.fingerprint
  versions = json.loads((unbroken / 'versions.json').read_text())
  assert versions['jax'] == jax.__version__


class Acting(ArraySet):
  """Does something before the batch of one step is made."""

  def __init__(self, at_step, action, **options):
    super().__init__(**options)
    self.at_step, self.action = at_step, action

  def view_batches(self, batch_size, start_step, num_steps):
    batches = super().view_batches(batch_size, start_step, num_steps)
    for step, batch in enumerate(batches, start=start_step):
      if step == self.at_step:
        self.action()
      yield batch


class Described(ArraySet):
  """Says what its batches look like before it makes one."""

  def __init__(self):
    super().__init__()
    self.has_loaded = threading.Event()

  def make_blank_views(self, batch_size):
    assert not self.asked
    self.asked.append('blank')
    (batch,) = ArraySet().view_batches(batch_size, 0, 1)
    return jax.tree.map(np.zeros_like, batch)

  def load_code(self):
    self.has_loaded.set()


def test_a_step_that_is_compiled_ahead_is_the_same(unbroken, tmp_path):
  dataset = Described()
  train(tmp_path, dataset)
  assert dataset.asked == ['blank', *range(NUM_STEPS)]
  assert dataset.has_loaded.wait(60)
  assert_same_end(tmp_path, unbroken)
  train(tmp_path, dataset)  # asks for nothing: it was done before


def test_an_error_of_the_first_state_is_that_of_the_run(tmp_path, monkeypatch):
  def fail(method):
    raise errors.DataError('weights: broken')

  monkeypatch.setattr(experiment.Experiment, 'init_on_host', fail)
  for dataset in (Described(), ArraySet()):
    with pytest.raises(errors.DataError, match='weights: broken'):
      train(tmp_path, dataset)
    assert dataset.asked in ([], ['blank'])  # for no batch


def stop_and_hang():
  time.sleep(1)
  stop()
  threading.Event().wait()


def after(function, condition):
  """Sends SIGTERM when `function` was called with a step."""

  def call(self, step, *rest):
    found = function(self, step, *rest)
    if condition(step):
      stop()
    return found

  return call


@pytest.mark.parametrize('moment', ('step', 'images', 'log line', 'saving'))
def test_a_stopped_run_resumes_bit_for_bit(
  unbroken, tmp_path, monkeypatch, moment
):
  """Whatever the run does when the signal arrives: no step is lost."""
  dataset, every, expected = ArraySet(), 0, range(1, 8)
  if moment == 'step':
    dataset = Acting(5, stop)
  elif moment == 'images':  # which never arrive
    dataset, expected = Acting(3, stop_and_hang), [1]
  elif moment == 'log line':
    at_four = after(logs.Logs.write, lambda step: step == 4)
    monkeypatch.setattr(logs.Logs, 'write', at_four)
    expected = [4]
  else:  # a thread writes step 3 meanwhile, which is not saved again
    kind = checkpointer.Checkpointer
    at_three = after(kind.save, lambda step: step == 3)
    monkeypatch.setattr(kind, 'save', at_three)
    every, expected = 3, [3]
  with pytest.raises(errors.Preempted) as caught:
    train(tmp_path, dataset, checkpoint__every_steps=every)
  monkeypatch.undo()
  assert caught.value.exit_code == 42
  stopped = latest_step(tmp_path)
  assert stopped in expected
  assert f'saved step {stopped} of 10' in str(caught.value)
  # Nor is an initial state drawn that is not used: at scale it takes minutes.
  monkeypatch.setattr(experiment.Experiment, 'init_on_host', None)
  rest = ArraySet()
  train(tmp_path, rest, checkpoint__every_steps=every)
  assert rest.asked == list(range(stopped, NUM_STEPS))
  assert_same_end(unbroken, tmp_path)
  assert_same_monitored(unbroken, tmp_path)


@pytest.mark.parametrize('name', ('', 'checkpoints'))
def test_a_folder_that_is_removed_during_a_run_is_named(tmp_path, name):
  remove = functools.partial(shutil.rmtree, tmp_path / 'run' / name)
  with pytest.raises(errors.DataError, match="checkpoints' was removed"):
    train(tmp_path / 'run', Acting(5, remove))
  # Not what is left of the first one binds the next run.
  assert train(tmp_path / 'run', seed=1)['step'] == NUM_STEPS


def test_what_fails_before_its_first_checkpoint_binds_no_workdir(tmp_path):
  def fail():
    raise errors.DataError('a.jpg: broken')

  with pytest.raises(errors.DataError, match='broken'):
    train(tmp_path, Acting(3, fail), seed=1)
  assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 1
  (tmp_path / 'config.json').write_text('[' * 200_000)  # or broken: not read
  train(tmp_path)
  assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 0
  assert logged_steps(tmp_path) == [2, 4, 6, 8, 10]


def refused_step(path, pattern):
  """Neither resumed nor evaluated, nor is anything changed."""
  before = {p: p.read_bytes() for p in path.rglob('*') if p.is_file()}
  with pytest.raises(errors.DataError, match=pattern):
    train(path)
  with pytest.raises(errors.DataError, match=pattern):
    byol_jax.load_encoder(path)
  assert {p: p.read_bytes() for p in path.rglob('*') if p.is_file()} == before


def test_a_step_folder_that_was_renamed_is_refused(unbroken, tmp_path):
  shutil.copytree(unbroken, tmp_path / 'run')
  steps = tmp_path / 'run' / 'checkpoints'
  (steps / '10').rename(steps / '9999')
  refused_step(tmp_path / 'run', "checkpoints/9999' holds step 10: the folder")


def test_a_step_of_another_run_is_refused(unbroken, tmp_path):
  """Also beside steps of this run."""
  train(tmp_path / 'run', checkpoint__every_steps=4)
  train(tmp_path / 'other', seed=1)
  place = pathlib.Path('checkpoints/10')
  shutil.rmtree(tmp_path / 'run' / place)
  shutil.copytree(tmp_path / 'other' / place, tmp_path / 'run' / place)
  pattern = r"checkpoints/10' is of another run: seed: saved 1, now 0"
  refused_step(tmp_path / 'run', pattern)


def test_a_clock_that_goes_back_changes_no_order(
  unbroken, tmp_path, monkeypatch
):
  """Steps are in order by their number, not by a time."""
  clock = itertools.count(10**9, -60)
  monkeypatch.setattr(time, 'time', lambda: next(clock))
  overrides = {'checkpoint__every_steps': 2, 'checkpoint__keep': 9}
  with pytest.raises(errors.Preempted):
    train(tmp_path, Acting(7, stop), **overrides)
  for step in saved_steps(tmp_path):  # the newest looks oldest
    os.utime(tmp_path / 'checkpoints' / str(step), (10**9 - step,) * 2)
  train(tmp_path, **overrides)
  logged = logged_steps(tmp_path)
  assert logged == sorted({*logged, 2, 4, 6, 8, 10})
  assert_same_end(unbroken, tmp_path)


def test_a_source_that_no_longer_answers_ends_the_run(
  tmp_path, capsys, monkeypatch
):
  # The watchdog would end this process half a second later, which a busy
  # machine may need.
  no_watchdog = watchdog.Watchdog(0)
  monkeypatch.setattr(watchdog, 'Watchdog', lambda seconds: no_watchdog)
  dataset = Acting(3, threading.Event().wait)
  with pytest.raises(errors.DataError, match='no images for 2 s') as caught:
    train(
      tmp_path, dataset, faults__stall_seconds=2.0, checkpoint__every_steps=1
    )
  assert caught.value.exit_code == 3
  assert 'waiting for images for 0.2 s' in capsys.readouterr().out
  assert latest_step(tmp_path) == 1


def test_a_finished_run_is_left_alone(unbroken, capsys):
  """Logging, saving and reading may change."""
  before, again = arrays_of(unbroken), ArraySet()
  result = train(
    unbroken,
    again,
    log__every_steps=7,
    checkpoint__keep=1,
    checkpoint__every_minutes=1.0,
    input__threads=3,
    data_dir='elsewhere',
  )
  assert again.asked == [] and result['step'] == NUM_STEPS
  assert f'done before: step {NUM_STEPS}' in capsys.readouterr().out
  assert_same_arrays(before, arrays_of(unbroken))


@pytest.mark.parametrize(
  'change', ({'seed': 1}, {'training_set__fingerprint': 'f' * 64})
)
def test_another_run_is_refused_by_its_first_difference(unbroken, change):
  before, dataset = arrays_of(unbroken), ArraySet()
  ((name, value),) = change.items()
  if name == 'training_set__fingerprint':  # another set of the same name
    dataset.fingerprint, change = value, {}
  key = name.replace('__', '.')
  words = rf'{key}: saved .* --config\.init\.checkpoint'
  with pytest.raises(errors.DataError, match=words) as caught:
    train(unbroken, dataset, **change)
  assert '\n' not in str(caught.value)
  assert_same_arrays(before, arrays_of(unbroken))


def test_on_a_new_disk_the_checkpoints_say_what_the_run_is(unbroken, tmp_path):
  """A slice that is made again has an empty disk; the bucket is as it was."""
  bucket = str(unbroken / 'checkpoints')
  with pytest.raises(errors.DataError, match='seed: saved 0, now 1'):
    train(tmp_path / 'other', checkpoint__folder=bucket, seed=1)
  result = train(tmp_path / 'new', checkpoint__folder=bucket)
  assert result['step'] == NUM_STEPS
  assert not (tmp_path / 'new' / 'checkpoints').exists()
  assert (tmp_path / 'new' / 'config.json').exists()
  assert not (tmp_path / 'other' / 'config.json').exists()


def test_a_step_that_is_not_finite_is_skipped_and_named(tmp_path, capsys):
  train(tmp_path, ArraySet(poison={5}))
  out = capsys.readouterr().out
  assert 'warning: not finite, the state unchanged: step 6\n' in out
  assert [line.get('skipped', 0) for line in lines(tmp_path)] == [0, 0, 1, 0, 0]
  assert all(np.isfinite(line['total_loss']) for line in lines(tmp_path))
  assert_finite(tmp_path)


def test_too_many_skips_roll_back_past_these_images(tmp_path, capsys):
  overrides = {
    'checkpoint__every_steps': 4,
    'checkpoint__keep': 2,
    'faults__max_skips': 1,
  }
  dataset = ArraySet(poison={5, 6, 7})
  train(tmp_path / 'whole', dataset, **overrides)
  out = capsys.readouterr().out
  assert 'not finite: steps 6 to 7 (faults.max_skips)' in out
  # Noticed at the log line of step 8; step 5 takes the images of step 9.
  assert 'back to step 4, with the images of step 9 on' in out
  assert dataset.asked[-6:] == [8, 9, 10, 11, 12, 13]
  assert logged_steps(tmp_path / 'whole') == [2, 4, 6, 8, 10]
  assert 'skipped' not in lines(tmp_path / 'whole')[-1]
  assert saved_steps(tmp_path / 'whole') == {8, 10}  # the newest two
  # The offset is part of the checkpoint: a resumed run continues with it.
  _, facts = checkpointer.read_arrays(tmp_path / 'whole' / 'checkpoints')
  assert facts['meta'] == {'data_offset': 4}
  with pytest.raises(errors.Preempted):
    train(tmp_path / 'b', Acting(11, stop, poison={5, 6, 7}), **overrides)
  rest = ArraySet(poison={5, 6, 7})
  train(tmp_path / 'b', rest, **overrides)
  assert rest.asked[-1] == 13 and min(rest.asked) > 8
  assert_same_end(tmp_path / 'whole', tmp_path / 'b')


def test_a_run_that_does_not_recover_ends_and_keeps_its_checkpoint(
  unbroken, tmp_path
):
  overrides = {'faults__max_skips': 1, 'faults__max_rollbacks': 2}
  with pytest.raises(
    errors.DivergedError,
    match=r'not finite.*after 2 rollbacks.*; checkpoint 4 stays; lower',
  ) as caught:
    train(
      tmp_path / 'a',
      ArraySet(poison=range(5, 99)),
      checkpoint__every_steps=4,
      **overrides,
    )
  assert caught.value.exit_code == 4
  assert saved_steps(tmp_path / 'a') == {4}
  assert_finite(tmp_path / 'a')
  # With sound data it continues from there to the same end.
  train(tmp_path / 'a', checkpoint__every_steps=4, **overrides)
  assert_same_end(unbroken, tmp_path / 'a')
  with pytest.raises(errors.DivergedError, match='no checkpoint yet'):
    train(tmp_path / 'b', ArraySet(poison=range(99)), **overrides)


def test_a_collapse_is_told_with_its_cause_or_ends_the_run(
  tmp_path, capsys, monkeypatch
):
  # As if all were collapsed.
  signs = [monitor.SIGNS[0]._replace(limit=1.0), *monitor.SIGNS[1:]]
  monkeypatch.setattr(monitor, 'SIGNS', signs)
  monkeypatch.setattr(sys, 'orig_argv', ['python', '-m', 'byol_jax', 'a b'])
  seen = []
  api.pretrain_on(
    ArraySet(),
    tiny(),
    tmp_path / 'warned',
    on_log=lambda step, scalars: seen.append((step, scalars['byol_loss'])),
  )
  output = capsys.readouterr().out
  warning = r'warning: the projections have collapsed.*schedule\.base_rate'
  assert len(re.findall(warning, output)) == 1
  assert re.search(
    r'^done: step 10, .*collapsed: see the warning', output, re.M
  )
  logged = [(x['step'], x['byol_loss']) for x in lines(tmp_path / 'warned')]
  assert seen == logged and len(seen) == 5
  command = (tmp_path / 'warned' / 'command.txt').read_text()
  assert command.startswith('cd /') and "-m byol_jax 'a b'" in command
  with pytest.raises(errors.DivergedError, match='have collapsed') as caught:
    train(tmp_path / 'ended', faults__collapse='stop')
  assert caught.value.exit_code == 4
  assert str(caught.value).endswith('(faults.collapse); no checkpoint yet')
  assert logged_steps(tmp_path / 'ended') == [2, 4, 6]
  text = (tmp_path / 'ended' / 'run.log').read_text().splitlines()[-1]
  assert text[21:] == str(caught.value)


def test_unlabelled_data_train_without_a_classifier(tmp_path):
  result = train(tmp_path, ArraySet(num_classes=None))
  assert 'classifier_loss' not in result
  assert not any('classifier' in name for name in arrays_of(tmp_path))


def test_the_batch_must_divide_by_the_devices(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 3)
  with pytest.raises(errors.ConfigError, match='multiple of the 3 devices'):
    train(tmp_path / 'new')
  assert not (tmp_path / 'new').exists()


class Slow(ArraySet):
  """Takes nine times as long for a batch as the last step took."""

  def view_batches(self, batch_size, start_step, num_steps):
    given = time.perf_counter()
    for batch in super().view_batches(batch_size, start_step, num_steps):
      # Others may have the cores; the first step compiles.
      step_seconds = time.perf_counter() - given
      time.sleep(min(max(0.4, 9 * step_seconds), 3))
      given = time.perf_counter()
      yield batch


def test_promise_7_a_slow_source_is_named_as_the_bottleneck(
  unbroken, tmp_path, capsys
):
  train(tmp_path, Slow())
  # The first line has the compilation in it, the last what was prefetched.
  assert all(line['data_wait'] > 0.8 for line in lines(tmp_path)[1:-1])
  assert capsys.readouterr().out.count('the input is the bottleneck') == 1
  assert 'bottleneck' not in (unbroken / 'output').read_text()


def test_an_error_in_the_loss_shows_at_most_ten_frames_of_the_package(
  tmp_path, monkeypatch
):
  def broken(online, target):
    raise ZeroDivisionError

  make_broken = lambda devices, **settings: broken
  monkeypatch.setitem(losses.OBJECTIVES, 'regression', make_broken)
  values = (f'--config.{k}={v}' for k, v in (SMALL | {'seed': 9}).items())
  with pytest.raises(ZeroDivisionError) as caught:
    command.main(
      ['pretrain', '--config=shapes', f'--workdir={tmp_path}', *values]
    )
  root = pathlib.Path(byol_jax.__file__).parent
  frames = [
    f'{frame.filename}:{frame.lineno}'
    for frame in traceback.extract_tb(caught.tb)
    if root in pathlib.Path(frame.filename).parents
  ]
  # `python -m` adds the frame of the module itself.
  assert 5 < len(frames) < 10, frames
  assert any('train.py' in frame for frame in frames)


# A set in the memory of the devices, with calls of several steps.

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
RESIDENT = {'data__resident': True, 'input__steps_per_call': 4}


def pictures():
  """32 images in memory."""
  generator = np.random.default_rng(0)
  images = generator.integers(0, 256, (32, 20, 18, 3)).astype(np.uint8)
  return arrays.ArraySource(images, np.arange(32) % 4, class_names='abcd')


def train_resident(path, *, poisoned=None, stop_at=None, **overrides):
  """Ten steps in calls of at most four; an image may have a wrong class."""
  dataset = resident.ResidentImageSet(pictures(), gib=1.0, **OPTIONS)
  if poisoned is not None:
    # Past the check of labels: its classifier loss is not finite.
    dataset.decoded.labels[poisoned] = 10**6
  plans = dataset.plans

  def interrupted(batch_size, start_step, num_steps):
    for step, plan in enumerate(plans(batch_size, start_step, num_steps)):
      if start_step + step == stop_at:
        stop()
      yield plan

  dataset.plans = interrupted
  return train(path, dataset, **(RESIDENT | overrides))


@pytest.fixture(scope='module')
def resident_unbroken(tmp_path_factory):
  """A run from start to end, in calls of four, four and two steps."""
  path = tmp_path_factory.mktemp('resident')
  train_resident(path, log__every_steps=100)
  return path


def test_calls_end_where_something_is_logged_or_saved(
  resident_unbroken, tmp_path
):
  """However steps are divided into calls, the end is the same."""
  result = train_resident(
    tmp_path, log__every_steps=3, checkpoint__every_steps=5
  )
  assert result['step'] == NUM_STEPS
  assert logged_steps(tmp_path) == [3, 5, 6, 9, 10]
  assert saved_steps(tmp_path) == {5, 10}
  assert_same_end(resident_unbroken, tmp_path)
  # Means over the interval of each line make up the mean of all.
  lengths = np.diff([0, *logged_steps(tmp_path)])
  (whole,) = lines(resident_unbroken)
  for key in ('total_loss', 'top1_accuracy'):
    found = np.average([line[key] for line in lines(tmp_path)], weights=lengths)
    assert found == pytest.approx(whole[key], rel=1e-5)
  for key in ('tau', 'learning_rate'):
    assert lines(tmp_path)[-1][key] == whole[key]


def test_a_stopped_resident_run_resumes_bit_for_bit(
  resident_unbroken, tmp_path
):
  with pytest.raises(errors.Preempted, match=r'saved step \d of 10'):
    train_resident(tmp_path, stop_at=9, log__every_steps=3)
  assert latest_step(tmp_path) in (3, 6, 9)
  train_resident(tmp_path, log__every_steps=100)
  assert_same_end(resident_unbroken, tmp_path)
  assert_same_monitored(resident_unbroken, tmp_path)


def test_a_skipped_step_within_a_call_is_named(tmp_path, capsys):
  ids, _ = order.find_examples(0, np.arange(32), 32)
  train_resident(tmp_path, poisoned=int(ids[22]))  # of step 2, once an epoch
  out = capsys.readouterr().out
  assert 'warning: not finite, the state unchanged: step 3\n' in out
  assert_finite(tmp_path)


def test_a_resident_set_trains_as_the_streamed_one(resident_unbroken, tmp_path):
  """To the last bits of a pixel, of a view or of a convolution in a loop.

  Ten steps at a rate of the demo make them larger, so the first two are
  compared.
  """
  train_resident(tmp_path / 'many')
  engine = functools.partial(tf_engine.decode_into, decoding='once')
  dataset = image_set.ImageSet(pictures(), engine=engine, **OPTIONS)
  train(
    tmp_path / 'streamed', dataset, **(RESIDENT | {'data__resident': False})
  )
  expected, *rest = lines(tmp_path / 'streamed')
  assert expected['step'] == 2 and len(rest) == 4
  found = lines(tmp_path / 'many')[0]
  for key in ('byol_loss', 'projection_std', *MONITORED):
    assert found[key] == pytest.approx(expected[key], rel=1e-5), key


def test_a_set_that_does_not_fit_leaves_the_workdir_alone(tmp_path):
  dataset = resident.ResidentImageSet(pictures(), gib=1e-6, **OPTIONS)
  with pytest.raises(errors.ConfigError, match=r'input\.resident_gib'):
    train(tmp_path / 'new', dataset, **RESIDENT)
  assert not (tmp_path / 'new').exists()


def test_every_option_of_a_run_arrives(tmp_path, monkeypatch):
  """In what saves, skips, waits and logs; nothing is trained."""
  # api gives a run its first weights.
  names = wiring.TRAINING - {'init.checkpoint'}
  value = {key: wiring.CHANGED[key] for key in names}
  value |= {'checkpoint.folder': str(tmp_path / 'saved')}
  sections = {
    section: {
      key.partition('.')[2]: x
      for key, x in value.items()
      if key.startswith(section)
    }
    for section in ('checkpoint', 'faults', 'log', 'eval')
  }
  spied = (
    *((checkpointer, 'Checkpointer'), (recovery, 'SkipPolicy')),
    *((watchdog, 'Watchdog'), (logs, 'Logs'), (multi_step, 'make_step_calls')),
    (monitor, 'CollapsePolicy'),
  )
  saver, policy, timer, log, calls, collapse = (
    wiring.spy(monkeypatch, *names) for names in spied
  )
  options = loop.TrainingOptions(
    loop.CheckpointOptions(**sections['checkpoint']),
    loop.FaultOptions(**sections['faults']),
    loop.LogOptions(**sections['log']),
    sections['eval']['knn_every_steps'],
  )
  method = types.SimpleNamespace(
    update=None, monitor=None, num_steps=15, batch_size=8, shard_optimizer=False
  )
  opened = train_lib.open_training(
    method, ArraySet(), str(tmp_path / 'run'), options, {}, 7
  )
  with (
    opened as context,
    train_lib._open_log(context, recovery.StartPoint(None, step=0), []),
  ):
    pass
  assert context.options is options  # the loop reads the rest, see its tests
  (boundaries,) = (call.arguments['boundaries'] for call in calls)
  found = {
    'input.steps_per_call': calls[0].arguments['steps_per_call'],
    'checkpoint.every_steps': boundaries[1],
    'checkpoint.every_minutes': context.options.checkpoint.every_minutes,
    'checkpoint.keep': saver[0].arguments['keep'],
    'checkpoint.folder': str(saver[0].arguments['folder']),
    'faults.max_skips': policy[0].arguments['max_skips'],
    'faults.max_rollbacks': policy[0].arguments['max_rollbacks'],
    'faults.stall_seconds': timer[0].arguments['seconds'] / 1.1,
    'log.every_steps': boundaries[0],
    'faults.collapse': collapse[0].arguments['action'],
    'log.tensorboard': log[0].arguments['tensorboard'],
    'log.every_seconds': log[0].arguments['every_seconds'],
    'eval.knn_every_steps': calls[0].arguments['more_boundaries'][0],
  }
  assert found == value
