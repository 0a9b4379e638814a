"""kill -9, a full disk and a disk that cannot be written, at any operation.

`faults.c` counts every operation below a folder, those of Orbax's threads too,
and makes one the last, or fail. So these tests hold for root as well, whom no
permission stops.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from byol_jax.checkpoints import checkpointer
from tests.helpers import tiny_run
from tests.helpers.tiny_checkpoint import names

SPACE, NAMES = 1, 2  # as in faults.c
STALE = '9.orbax-checkpoint-tmp'
HELPERS = tiny_run.ROOT / 'tests' / 'helpers'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Runs one job of `fault_server.py` in a new process: 0.3 s, not 4."""
  library = tmp_path_factory.mktemp('library') / 'faults.so'
  subprocess.run(
    ['gcc', '-O1', '-Wall', '-Werror', '-shared', '-fPIC', '-o', library,
     HELPERS / 'faults.c', '-ldl'],
    check=True,
  )  # fmt: skip
  added = {
    'LD_PRELOAD': str(library),
    'PYTHONPATH': str(tiny_run.ROOT),
    'JAX_PLATFORMS': 'cpu',
  }
  process = subprocess.Popen(
    [sys.executable, HELPERS / 'fault_server.py'],
    env=os.environ | added,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )

  def run_job(folder, steps=1, **faults):
    task = {'folder': str(folder), 'steps': steps} | faults
    process.stdin.write(json.dumps(task) + '\n')
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    return answer['status'], answer['result']

  yield run_job
  process.stdin.close()
  assert process.wait(60) == 0


@pytest.fixture(scope='module')
def base(run, tmp_path_factory):
  folder = tmp_path_factory.mktemp('base')
  assert run(folder, steps=2)[0] == 0
  return folder


@pytest.fixture
def prepare(base, tmp_path):
  """Makes folders with the steps 1 and 2 and, if asked, a killed save."""

  def copy(stale=False):
    folder = tmp_path / f'made{len(names(tmp_path))}'
    shutil.copytree(base, folder)
    if stale:
      shutil.copytree(base / '2', folder / STALE)
    return folder

  return copy


def count_operations(run, folder):
  """The operations of a start, a save and a deletion without a fault."""
  status, result = run(folder)
  assert status == 0 and result['from'] == 2
  assert names(folder) == ['2', '3']
  return result['operations']


def spread(count, points):
  """`points` numbers from 1 to `count`."""
  return sorted({round(x) for x in np.linspace(1, count, points)})


@pytest.mark.slow
def test_a_kill_at_any_operation_costs_at_most_the_step_under_way(run, prepare):
  """10 kills spread over all of them; and then a kill of each recovery."""
  count = count_operations(run, prepare(stale=True))
  assert count > 60
  found = []
  for number, point in enumerate(spread(count - 4, 10)):
    folder = prepare(stale=True)
    status, _ = run(folder, kill=point)
    # The order and number of what Orbax's threads do varies a little.
    assert status == signal.SIGKILL or point > 0.8 * count
    published = (folder / '3').exists()
    latest = 3 if published else 2
    assert checkpointer.list_steps(folder)[-1] == latest
    checkpointer.read_arrays(folder)
    status, _ = run(folder, kill=1 + number * count // 10)
    assert status in (0, signal.SIGKILL)
    assert checkpointer.list_steps(folder)[-1] >= latest
    latest = checkpointer.list_steps(folder)[-1]
    status, result = run(folder)
    assert status == 0 and result['from'] == latest, (point, result)
    # It saved again, and nothing is left that has to be removed by hand.
    assert names(folder) == [str(latest), str(latest + 1)]
    assert not folder.with_name(f'{folder.name}.damaged').exists()
    found.append(published)
  assert set(found) == {False, True}


def refuse(run, folder, **faults):
  """Returns the one line of a save that fails; what was there is there."""
  before = {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file() and STALE not in path.parts
  }
  status, result = run(folder, **faults)
  assert status == 0 and result.get('exit_code') == 3, (faults, result)
  assert '\n' not in result['error'] and str(folder) in result['error']
  for path, octets in before.items():
    assert (folder / path).read_bytes() == octets
  return result['error']


def test_a_disk_that_fills_up_at_any_moment_costs_no_earlier_step(run, prepare):
  count = count_operations(run, prepare())
  texts = []
  # Until the new step is published; what follows are fsyncs and deletions.
  for point in spread(count // 2, 8):
    folder = prepare()
    fault = {'fail_from': point, 'errno': errno.ENOSPC, 'kinds': SPACE}
    texts.append(refuse(run, folder, **fault))
    assert 'step 3 (0.0 MB) could not be written' in texts[-1]
    assert 'No space left on device' in texts[-1]
    assert names(folder) == ['1', '2']  # Its room is given back.
  # Without the fault, the run resumes from the last step.
  assert count_operations(run, folder)


@pytest.mark.parametrize(
  'error, stale', [(errno.EROFS, False), (errno.EIO, True)]
)
def test_a_folder_that_cannot_be_written_is_named(run, prepare, error, stale):
  folder = prepare(stale)
  text = refuse(run, folder, fail_from=1, errno=error, kinds=SPACE | NAMES)
  assert os.strerror(error) in text and 'could not be written' in text
  assert names(folder) == ['1', '2', STALE][: 2 + stale]
  assert count_operations(run, folder)
