"""The loop: what moves between host and devices, and jobs of several processes.

The runs on several processes are of ten to twenty steps of a tiny network.
"""

import shutil
import time

import jax
import numpy as np
import pytest

from byol_jax import parallel
from byol_jax.checkpoints import checkpointer
from byol_jax.distributed import placement
from byol_jax.training import train
from tests.helpers import jobs
from tests.helpers.tiny_config import ArraySet, tiny

pytestmark = pytest.mark.usefixtures('compiled_once')

# Steps that are kept; each save also compares the devices with one another.
EVERY_STEP = ('--checkpoint.every_steps=1', '--checkpoint.keep=20')
FLOAT64 = {'JAX_ENABLE_X64': '1'}
LAYOUTS = {'2x2': (2, 2), '4x1': (4, 1), '1x4': (1, 4)}


def arrays(path, step=None):
  """{leaf: array} of a checkpoint."""
  return checkpointer.read_arrays(path / 'checkpoints', step)[0]


def assert_same(left, right):
  assert left.keys() == right.keys()
  for name, x in left.items():
    assert x.tobytes() == right[name].tobytes(), name


def assert_close(left, right, dtype=np.float32):
  """The bound of devices that sum in another order."""
  assert left.keys() == right.keys()
  for name, x in left.items():
    assert x.dtype in (dtype, np.int32, np.uint32), name
    bound = 1e-5 * max(1, np.max(np.abs(x), initial=0))
    np.testing.assert_allclose(right[name], x, rtol=0, atol=bound, err_msg=name)


def runs(root, layouts, *arguments, **env):
  """{layout: (workdir, batches)} of 20 steps from the beginning."""
  found = {}
  for layout in layouts:
    ended = jobs.run(root / layout, *LAYOUTS[layout], *arguments, **env)
    assert all(process.code == 0 for process in ended), ended
    found[layout] = (root / layout, jobs.batches(ended))
  return found


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """Runs in float32, of all layouts."""
  return runs(tmp_path_factory.mktemp('straight'), LAYOUTS, *EVERY_STEP)


@pytest.fixture(scope='module')
def precise(tmp_path_factory):
  """Runs in float64: no ReLU flips for a difference of rounding.

  In float32 one does by and by, and the gradients part at once: 5e-6 apart
  after 7 steps of this network, 3e-3 after 9.
  """
  root = tmp_path_factory.mktemp('precise')
  return runs(root, ('2x2', '1x4'), *EVERY_STEP, **FLOAT64)


def resumed(whole, layout, step, path, **env):
  """The run in `whole` after `step`, gone on with in a layout."""
  (path / 'checkpoints').mkdir(parents=True)
  shutil.copy(whole / 'config.json', path)
  shutil.copytree(
    whole / 'checkpoints' / str(step), path / 'checkpoints' / str(step)
  )
  ended = jobs.run(path, *LAYOUTS[layout], **env)
  assert all(process.code == 0 for process in ended), ended
  assert f'resumed after step {step} of 20' in ended[0].output
  return jobs.batches(ended)


@pytest.mark.jobs
def test_processes_and_devices_give_the_same_bits(straight):
  """2 x 2 and 4 x 1 (processes x devices); 1 x 4 sums in another order."""
  for step in (1, 5, 20):
    assert_same(
      arrays(straight['2x2'][0], step), arrays(straight['4x1'][0], step)
    )
  assert_close(arrays(straight['2x2'][0], 5), arrays(straight['1x4'][0], 5))
  batches = [found for _, found in straight.values()]
  assert batches[0] == batches[1] == batches[2]
  assert sorted(batches[0]) == list(range(20))


@pytest.mark.jobs
@pytest.mark.parametrize('layout, step', (('2x2', 10), ('4x1', 7)))
def test_a_run_goes_on_bit_for_bit_on_other_processes(
  straight, tmp_path, layout, step
):
  """20 == 10 + restart + 10; == 7 + restart on other processes + 13."""
  whole, expected = straight['2x2']
  batches = resumed(whole, layout, step, tmp_path)
  assert batches == {n: x for n, x in expected.items() if n >= step}
  assert_same(arrays(whole, 20), arrays(tmp_path, 20))


@pytest.mark.jobs
@pytest.mark.parametrize('before, after', (('2x2', '1x4'), ('1x4', '2x2')))
def test_a_run_goes_on_from_one_process_to_two_and_back(
  precise, tmp_path, before, after
):
  """20 == 7 + restart + 13 but for the order of sums."""
  whole, expected = precise[before]
  batches = resumed(whole, after, 7, tmp_path, **FLOAT64)
  assert batches == {n: x for n, x in expected.items() if n >= 7}
  assert_close(arrays(whole, 20), arrays(tmp_path, 20), np.float64)


@pytest.mark.jobs
def test_sigterm_to_one_process_saves_one_step_on_all(straight, tmp_path):
  ended = jobs.run(tmp_path, 2, 2, '--hook=term')
  assert [process.code for process in ended] == [42, 42], ended
  step = checkpointer.latest_step(tmp_path / 'checkpoints')
  assert 0 < step < 20
  for process in ended:
    assert f'SIGTERM: saved step {step} of 20' in process.output
  assert_same(arrays(straight['2x2'][0], step), arrays(tmp_path))
  again = jobs.run(tmp_path, 2, 2)
  assert [process.code for process in again] == [0, 0], again
  assert_same(arrays(straight['2x2'][0], 20), arrays(tmp_path))


@pytest.mark.jobs
def test_a_bad_value_on_one_device_of_four_is_skipped_by_all(tmp_path):
  ended = jobs.run(tmp_path, 2, 2, '--hook=poison', *EVERY_STEP)
  assert [process.code for process in ended] == [0, 0], ended
  assert 'warning: steps 5 were not finite' in ended[0].output
  # Saved by process 0 of states that were equal on all devices.
  before, after = arrays(tmp_path, 5), arrays(tmp_path, 6)
  for name, x in before.items():
    if name == 'step' or name.endswith('/count'):
      assert after[name] == x + 1
    else:
      assert after[name].tobytes() == x.tobytes(), name


@pytest.mark.jobs
def test_bad_values_for_ever_end_all_processes_alike(tmp_path):
  ended = jobs.run(
    tmp_path,
    *(2, 2, '--hook=poison_for_ever', '--checkpoint.every_steps=4'),
    *('--faults.max_skips=1', '--faults.max_rollbacks=1'),
  )
  assert [process.code for process in ended] == [4, 4], ended
  assert ended[0].output.count('back to step 4') == 1
  assert 'after 1 rollbacks' in ended[1].output
  assert checkpointer.latest_step(tmp_path / 'checkpoints') == 4


@pytest.mark.jobs
@pytest.mark.parametrize(
  'hook, code', (('die', -9), ('die_first', -9), ('refuse', 3))
)
def test_a_process_that_is_gone_takes_the_others_with_it(tmp_path, hook, code):
  began = time.monotonic()
  ended = jobs.run(
    *(tmp_path, 2, 2, f'--hook={hook}', '--checkpoint.every_steps=2'),
    '--heartbeat=5',
  )
  assert time.monotonic() - began < 200  # it did not hang
  gone, left = ended if hook == 'die_first' else ended[::-1]
  assert gone.code == code
  assert left.code not in (0, 42)
  if hook == 'refuse':
    assert 'shard 7: cannot be read' in ended[1].output
  step = checkpointer.latest_step(tmp_path / 'checkpoints')
  assert step >= 2
  again = jobs.run(tmp_path, 2, 2)
  assert [process.code for process in again] == [0, 0], again
  assert f'resumed after step {step} of 20' in again[0].output


@pytest.mark.jobs
def test_a_hung_collective_ends_with_stacks(tmp_path):
  ended = jobs.run(
    *(tmp_path, 2, 2, '--hook=hang', '--faults.stall_seconds=10'),
    *('--checkpoint.every_steps=2', '--heartbeat=100'),
  )
  assert all(process.code not in (0, 42) for process in ended), ended
  told = [p for p in ended if 'no step for 11 s' in p.output]
  late = [p for p in ended if 'no images for 10 s' in p.output]
  # The one that sleeps waits for its images; the other for a sum.
  assert told or late
  assert any('_steps' in p.output for p in told) or late[0].code == 3
  assert checkpointer.latest_step(tmp_path / 'checkpoints') >= 2


@pytest.mark.jobs
def test_another_training_set_on_one_process_is_refused_by_all(tmp_path):
  """Else their numbers of steps and batches would part, and all would wait."""
  for process in jobs.run(tmp_path / 'new', 2, 1, '--hook=other_set'):
    assert process.code == 2
    assert 'training_set.num_examples is 32 on process 0' in process.output
  assert not (tmp_path / 'new').exists()


@pytest.mark.jobs
def test_devices_that_drift_apart_are_not_saved(tmp_path):
  ended = jobs.run(tmp_path, 2, 2, '--checkpoint.every_steps=2', '--drift=6')
  assert [process.code for process in ended] == [1, 1], ended
  for process in ended:
    assert 'the devices hold different states after step 6' in process.output
  assert checkpointer.latest_step(tmp_path / 'checkpoints') == 4


def test_between_log_lines_nothing_is_fetched(tmp_path, monkeypatch):
  """A CPU's device-to-host reads pass the transfer guard: they are counted."""
  fetched, lines = [], []
  steps = []

  def counted(tree):
    fetched.append(len(steps))
    return get(tree)

  def asked(self, *arguments, **options):
    fetched.append(len(steps))
    return array(self, *arguments, **options)

  get, kind = jax.device_get, type(jax.numpy.zeros(1))
  array = kind.__array__
  monkeypatch.setattr(jax, 'device_get', counted)
  monkeypatch.setattr(kind, '__array__', asked)
  monkeypatch.setattr(
    parallel,
    'shard',
    lambda b, shard=placement.shard: steps.append(1) or shard(b),
  )
  from byol_jax.training import logs

  write = logs.Logs.write
  monkeypatch.setattr(
    logs.Logs,
    'write',
    lambda self, *a: lines.append(len(steps)) or write(self, *a),
  )
  train.run(tiny(log__every_steps=5), str(tmp_path), ArraySet())
  assert len(lines) == 2
  in_the_loop = [count for count in fetched if 2 < count < lines[0]]
  assert in_the_loop == []
  assert lines[0] in fetched  # what it counts by


def test_an_implicit_transfer_in_the_loop_is_refused(tmp_path, monkeypatch):
  """What reaches the compiled step must have been put on the devices."""
  monkeypatch.setattr(parallel, 'shard', lambda batch: batch)
  with pytest.raises(Exception, match='Disallowed host-to-device transfer'):
    train.run(tiny(), str(tmp_path), ArraySet())
