"""The loop: transfers, the same results on any devices, jobs of processes.

The runs on several processes are of 20 steps of a tiny network.
"""

import json
import shutil
import time

import jax
import numpy as np
import pytest

from byol_jax import api
from byol_jax.distributed import placement
from byol_jax.evals import knn, while_training
from byol_jax.evaluation import pretrained
from byol_jax.training import logs, multi_step, scalars
from tests.helpers import job_worker, jobs, tiny_run
from tests.helpers.tiny_checkpoint import (
  arrays_of,
  assert_same_arrays,
  latest_step,
)
from tests.helpers.tiny_config import ArraySet, tiny

# Steps that are kept; each save also compares the devices with one another.
EVERY_STEP = ('--checkpoint.every_steps=1', '--checkpoint.keep=20')
EVERY_SECOND = '--checkpoint.every_steps=2'
FLOAT64 = {'JAX_ENABLE_X64': '1'}
TIMES = ('time', *scalars.RATES)
LAYOUTS = {'1x1': (1, 1), '1x2': (1, 2), '1x4': (1, 4)}
LAYOUTS |= {'2x2': (2, 2), '4x1': (4, 1)}


@pytest.mark.usefixtures('compiled_once')
def test_between_log_lines_nothing_is_fetched(tmp_path, monkeypatch):
  """A CPU's device-to-host reads pass the transfer guard: they are counted."""
  fetched, lines, ticks, steps = [], [], [], []
  get, kind = jax.device_get, type(jax.numpy.zeros(1))
  array, shard, write = kind.__array__, placement.shard, logs.Logs.write
  tick = logs.Logs.tick

  def note(log, function):
    def call(*arguments, **options):
      log.append(len(steps))
      return function(*arguments, **options)

    return call

  monkeypatch.setattr(jax, 'device_get', note(fetched, get))
  monkeypatch.setattr(kind, '__array__', note(fetched, array))
  value = property(note(fetched, kind._value.fget))  # float(array)
  monkeypatch.setattr(kind, '_value', value)
  monkeypatch.setattr(placement, 'shard', note(steps, shard))
  monkeypatch.setattr(logs.Logs, 'write', note(lines, write))
  monkeypatch.setattr(logs.Logs, 'tick', note(ticks, tick))
  api.pretrain_on(ArraySet(), tiny(log__every_steps=5), tmp_path)
  assert len(lines) == 2
  # The console's first line, after the first step, has its scalars.
  others = set(fetched) - {ticks[0]}
  assert not [count for count in others if 2 < count < lines[0]]
  assert lines[0] in fetched  # what it counts by


@pytest.mark.usefixtures('compiled_once')
def test_the_first_line_does_not_wait_for_the_monitor(
  tmp_path, monkeypatch, capsys
):
  compile_monitor, is_shown = multi_step.StreamedCalls.compile_monitor, []

  def compile_noting(calls, monitor):
    compiled = compile_monitor(calls, monitor)

    def call(state, batch):
      is_shown.append('step 1/' in capsys.readouterr().out)
      return compiled(state, batch)

    return call

  monkeypatch.setattr(
    multi_step.StreamedCalls, 'compile_monitor', compile_noting
  )
  api.pretrain_on(ArraySet(), tiny(log__every_steps=5), tmp_path)
  assert is_shown[0]


@pytest.mark.usefixtures('compiled_once')
def test_an_implicit_transfer_in_the_loop_is_refused(tmp_path, monkeypatch):
  """What reaches the compiled step must have been put on the devices."""
  monkeypatch.setattr(placement, 'prefetch', iter)
  with pytest.raises(Exception, match='Disallowed host-to-device transfer'):
    api.pretrain_on(ArraySet(), tiny(), tmp_path)


def codes(ended):
  return [process.code for process in ended]


def assert_close(left, right, bound=1e-5):
  """Up to the order in which devices sum."""
  assert left.keys() == right.keys()
  for name, x in left.items():
    assert x.dtype == right[name].dtype
    most = bound * max(1, np.max(np.abs(x), initial=0))
    np.testing.assert_allclose(right[name], x, rtol=0, atol=most, err_msg=name)


def read_log(path):
  """The scalars of the training by step, without times."""
  with (path / 'scalars.jsonl').open() as lines:
    found = [json.loads(line) for line in lines]
  return [
    {key: x for key, x in line.items() if key not in TIMES}
    for line in found
    if 'effective_rank' in line
  ]


def runs(root, layouts, *arguments, more=None, **env):
  """{layout: (workdir, batches)} of 20 steps from the beginning.

  `more` has further arguments by layout.
  """
  found = {}
  for layout in layouts:
    ended = jobs.run(
      *(root / layout, *LAYOUTS[layout], *EVERY_STEP, *arguments),
      *(more or {}).get(layout, ()),
      **env,
    )
    assert not any(codes(ended)), ended
    found[layout] = (root / layout, jobs.batches(ended))
  return found


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """Runs in float32; one of them is evaluated in between."""
  root = tmp_path_factory.mktemp('straight')
  more = {'2x2': ('--eval.knn_every_steps=8',)}
  return runs(root, ('1x4', '2x2', '4x1'), more=more)


@pytest.fixture(scope='module')
def precise(tmp_path_factory):
  """Runs in float64 with the paper's augmentation.

  In float32 the last bit of a sum over devices turns one ReLU in a million the
  other way, and the gradients differ at once: by 5e-6 after 7 steps of this
  network, by 3e-3 after 9.
  """
  root = tmp_path_factory.mktemp('precise')
  return runs(root, ('1x1', '1x4', '2x2'), '--augment=paper', **FLOAT64)


def resume(whole, layout, step, path, *arguments, **env):
  """The run in `whole` after `step`, resumed in a layout: its batches."""
  (path / 'checkpoints').mkdir(parents=True)
  shutil.copy(whole / 'config.json', path)
  shutil.copytree(
    whole / 'checkpoints' / str(step), path / 'checkpoints' / str(step)
  )
  ended = jobs.run(path, *LAYOUTS[layout], *arguments, **env)
  assert not any(codes(ended)), ended
  assert f'resumed after step {step} of 20' in ended[0].output
  return jobs.batches(ended)


@pytest.mark.jobs
def test_processes_and_devices_give_the_same_bits(straight):
  """2 x 2 and 4 x 1 (processes x devices); 1 x 4 sums in another order."""
  for step in (1, 5, 20):
    assert_same_arrays(
      arrays_of(straight['2x2'][0], step), arrays_of(straight['4x1'][0], step)
    )
  assert_close(
    arrays_of(straight['2x2'][0], 5), arrays_of(straight['1x4'][0], 5)
  )
  # All that was logged of the training, by the monitor too.
  logged = [read_log(straight[layout][0])[:5] for layout in ('2x2', '1x4')]
  assert len(logged[0]) == 5
  for line, other in zip(*logged, strict=True):
    assert line == pytest.approx(other, rel=1e-5, abs=1e-5)
  batches = [found for _, found in straight.values()]
  assert batches[0] == batches[1] == batches[2]
  assert sorted(batches[0]) == list(range(20))


@pytest.mark.jobs
def test_processes_evaluate_all_images_between_steps(straight):
  """As one process does; that the bits stay the same is the test above."""
  path, _ = straight['2x2']
  lines = map(json.loads, (path / 'scalars.jsonl').read_text().splitlines())
  found = {line['step']: line for line in lines if 'knn_k1_t0.1' in line}
  assert list(found) == [8, 16, 20]
  run = pretrained.open_run(path)
  options = knn.Options(4, while_training.KS, (while_training.TEMPERATURE,))
  results = knn.measure_accuracy(
    options, pretrained.open_encoder(run), job_worker.load_evaluation
  )
  assert (results['bank'], results['queries']) == (22, 13)
  for k in results['ks']:
    key = f'knn_k{k}_t0.1'
    assert found[20][key] == results[key]


@pytest.mark.jobs
def test_one_device_four_devices_and_two_processes_agree(precise):
  """float64 shows that they compute the same (3e-14 was seen at step 5)."""
  one = arrays_of(precise['1x1'][0], 5)
  kinds = {x.dtype.name for x in one.values()}
  assert kinds == {'float64', 'int32', 'uint32'}
  for layout in ('1x4', '2x2'):
    assert_close(one, arrays_of(precise[layout][0], 5), bound=1e-10)
  assert precise['1x1'][1] == precise['1x4'][1] == precise['2x2'][1]


@pytest.mark.jobs
@pytest.mark.parametrize('parts, layout', ((4, '1x4'), (2, '2x2')))
def test_sub_batches_are_groups_of_devices(tmp_path, parts, layout):
  """One device that accumulates; as many groups of one device, or of two."""
  more = {
    '1x1': (f'--batch.accumulate={parts}',),
    layout: (f'--network.bn_group={4 // parts}',),
  }
  short = ('--augment=paper', '--epochs=3')
  found = runs(tmp_path, more, *short, more=more, **FLOAT64)
  one, many = (arrays_of(found[x][0], 5) for x in more)
  assert_close(one, many, bound=1e-10)
  assert all(x == 10 for name, x in one.items() if name.endswith('counter'))


@pytest.mark.jobs
@pytest.mark.parametrize('layout, step', (('2x2', 10), ('4x1', 7)))
def test_a_run_resumes_bit_for_bit_on_other_processes(
  straight, tmp_path, layout, step
):
  """20 == 10 + restart + 10; == 7 + restart on other processes + 13."""
  whole, expected = straight['2x2']
  batches = resume(whole, layout, step, tmp_path)
  assert batches == {n: x for n, x in expected.items() if n >= step}
  assert_same_arrays(arrays_of(whole, 20), arrays_of(tmp_path, 20))


@pytest.mark.jobs
@pytest.mark.parametrize('before, after', (('2x2', '1x4'), ('1x4', '2x2')))
def test_a_run_resumes_on_one_process_or_two(precise, tmp_path, before, after):
  """20 == 7 + restart + 13 but for the order of sums."""
  whole, expected = precise[before]
  batches = resume(whole, after, 7, tmp_path, '--augment=paper', **FLOAT64)
  assert batches == {n: x for n, x in expected.items() if n >= 7}
  assert_close(arrays_of(whole, 20), arrays_of(tmp_path, 20))


@pytest.mark.jobs
def test_a_sharded_optimizer_trains_alike_and_resumes(precise, tmp_path):
  """20 steps == 20 sharded == 7 sharded + 13 not, on other devices, or back."""
  paper = '--augment=paper'
  # Of 3,925 elements of the momentum 3,536 are in larger arrays.
  sharded = ('--shard_optimizer=1', '--small=64')
  knn_too = (*sharded, '--eval.knn_every_steps=20')
  found = runs(tmp_path, ('2x2',), paper, *knn_too, **FLOAT64)
  path, batches = found['2x2']
  whole, expected = precise['2x2']
  assert batches == expected
  assert_same_arrays(arrays_of(whole, 20), arrays_of(path, 20))
  assert 'knn_k1_t0.1' in (path / 'scalars.jsonl').read_text()
  resume(path, '1x2', 7, tmp_path / 'whole', paper, **FLOAT64)
  assert_close(arrays_of(whole, 20), arrays_of(tmp_path / 'whole', 20))
  back, whole = tmp_path / 'back', precise['1x4'][0]
  resume(whole, '1x4', 7, back, paper, *sharded, **FLOAT64)
  assert_same_arrays(arrays_of(whole, 20), arrays_of(back, 20))


@pytest.mark.jobs
@pytest.mark.parametrize(
  'resident, is_divided', ((False, False), (True, False), (True, True))
)
def test_one_device_and_four_train_alike_by_the_command_line(
  tmp_path, resident, is_divided
):
  """Three steps with the paper's augmentation and optimizer, in float32.

  The bound holds as long as no ReLU's input lies within rounding of zero, which
  each step makes less likely; the float64 test above, of 20 steps, does not
  depend on that. Of a resident set two calls. If
  `is_divided`, one device has two sub-batches, and four have two batch norms.
  """
  parts = {1: '--config.batch.accumulate=2', 4: '--config.network.bn_group=2'}
  states = []
  for devices in (1, 4):
    path = tmp_path / str(devices)
    tiny_run.finish(
      tiny_run.start_python(
        *('-m', 'byol_jax', 'pretrain', '--config=pretrain:300'),
        *(f'--workdir={path}', '--config.dataset=shapes'),
        *('--config.image_size=32', '--config.batch_size=16'),
        *('--config.epochs=0.012', '--config.network.encoder=TinyResNet'),
        *('--config.network.stem=small_stride2',),
        *('--config.network.projector=(64,32)',),
        *('--config.network.predictor=(64,32)',),
        *(f'--config.data.resident={resident}',),
        *([parts[devices]] * is_divided),
        '--config.input.steps_per_call=2',
        JAX_NUM_CPU_DEVICES=str(devices),
        **tiny_run.OPTIMIZED,
      )
    )
    states.append(arrays_of(path))
    assert states[-1]['step'] == 3
  assert_close(*states)


@pytest.mark.jobs
def test_sigterm_to_one_process_saves_one_step_on_all(straight, tmp_path):
  ended = jobs.run(tmp_path, 2, 2, '--hook=term')
  assert codes(ended) == [42, 42], ended
  step = latest_step(tmp_path)
  assert 0 < step < 20
  for process in ended:
    assert f'SIGTERM: saved step {step} of 20' in process.output
  assert_same_arrays(arrays_of(straight['2x2'][0], step), arrays_of(tmp_path))
  again = jobs.run(tmp_path, 2, 2)
  assert codes(again) == [0, 0], again
  assert_same_arrays(arrays_of(straight['2x2'][0], 20), arrays_of(tmp_path))


@pytest.mark.jobs
def test_a_bad_value_on_one_device_of_four_is_skipped_by_all(tmp_path):
  ended = jobs.run(tmp_path, 2, 2, '--hook=poison', *EVERY_STEP)
  assert codes(ended) == [0, 0], ended
  assert 'warning: not finite, the state unchanged: step 6\n' in ended[0].output
  # Saved by process 0 of states that were equal on all devices.
  before, after = arrays_of(tmp_path, 5), arrays_of(tmp_path, 6)
  for name, x in before.items():
    if name == 'step' or name.endswith('/count'):
      assert after[name] == x + 1
    else:
      assert after[name].tobytes() == x.tobytes(), name


@pytest.mark.jobs
def test_lasting_bad_values_end_all_processes_alike(tmp_path):
  ended = jobs.run(
    tmp_path,
    *(2, 2, '--hook=poison_on', '--checkpoint.every_steps=4'),
    *('--faults.max_skips=1', '--faults.max_rollbacks=1'),
  )
  assert codes(ended) == [4, 4], ended
  assert ended[0].output.count('back to step 4') == 1
  assert 'after 1 rollbacks' in ended[1].output
  assert latest_step(tmp_path) == 4


@pytest.mark.jobs
@pytest.mark.parametrize(
  'hook, code', (('dies', -9), ('first_dies', -9), ('refuses', 3))
)
def test_a_process_that_is_gone_ends_the_others(tmp_path, hook, code):
  ended = jobs.run(
    tmp_path, 2, 2, f'--hook={hook}', EVERY_SECOND, '--heartbeat=5'
  )
  # It did not hang after the last save, however long the start took.
  step = latest_step(tmp_path)
  saved = (tmp_path / 'checkpoints' / str(step)).stat().st_mtime
  assert time.time() - saved < 100, ended
  gone, left = ended if hook == 'first_dies' else ended[::-1]
  assert gone.code == code
  assert left.code not in (0, 42)
  if hook == 'refuses':
    assert 'shard 7: cannot be read' in ended[1].output
  assert step >= 2
  again = jobs.run(tmp_path, 2, 2)
  assert codes(again) == [0, 0], again
  assert f'resumed after step {step} of 20' in again[0].output


@pytest.mark.jobs
def test_a_hung_collective_ends_with_stacks(tmp_path):
  ended = jobs.run(
    *(tmp_path, 2, 2, '--hook=hangs', '--faults.stall_seconds=10'),
    *(EVERY_SECOND, '--heartbeat=100'),
  )
  assert all(code not in (0, 42) for code in codes(ended)), ended
  stalled = [p for p in ended if 'no step for 11 s' in p.output]
  late = [p for p in ended if 'no images for 10 s' in p.output]
  # The one that sleeps waits for its images; the other for a sum.
  assert stalled or late, ended
  assert any('run_loop' in p.output for p in stalled) or late[0].code == 3
  assert latest_step(tmp_path) >= 2


@pytest.mark.jobs
def test_another_training_set_on_one_process_is_refused_by_all(tmp_path):
  """Else their numbers of steps would differ, and one would wait forever."""
  for process in jobs.run(tmp_path / 'new', 2, 1, '--hook=other_set'):
    assert process.code == 2
    assert 'training_set.num_examples is 32 on process 0' in process.output
  assert not (tmp_path / 'new').exists()


@pytest.mark.jobs
def test_devices_that_drift_apart_are_not_saved(tmp_path):
  ended = jobs.run(tmp_path, 2, 2, EVERY_SECOND, '--drift=6')
  assert codes(ended) == [1, 1], ended
  for process in ended:
    assert 'the devices hold different states after step 6' in process.output
  assert latest_step(tmp_path) == 4
