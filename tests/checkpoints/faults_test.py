"""kill -9, a full disk and a disk that cannot be written, at any operation.

`faults.c` counts every operation below a folder, those of Orbax's threads too
(strace counted the same 287 for three saves), and makes one the last, or
fail. So these tests bite for root as well, whom no permission stops.
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

SPACE, NAMES, SYNC = 1, 2, 4  # as in faults.c
STALE = '.9.saving'


@pytest.fixture(scope='module')
def library(tmp_path_factory):
  path = tmp_path_factory.mktemp('library') / 'faults.so'
  source = tiny_run.ROOT / 'tests' / 'helpers' / 'faults.c'
  subprocess.run(
    ['gcc', '-O1', '-Wall', '-Werror', '-shared', '-fPIC', '-o', path, source,
     '-ldl'],
    check=True,
  )  # fmt: skip
  return path


@pytest.fixture(scope='module')
def run(library):
  """Runs one job of `fault_server.py` in a new process: 0.25 s, not 4."""
  process = subprocess.Popen(
    [
      sys.executable,
      str(tiny_run.ROOT / 'tests' / 'helpers' / 'fault_server.py'),
    ],
    env=os.environ
    | {
      'LD_PRELOAD': str(library),
      'PYTHONPATH': str(tiny_run.ROOT),
      'JAX_PLATFORMS': 'cpu',
    },
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )

  def job(folder, steps=1, **faults):
    task = {'folder': str(folder), 'steps': steps} | faults
    process.stdin.write(json.dumps(task) + '\n')
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    return answer['status'], answer['result']

  yield job
  process.stdin.close()
  assert process.wait(60) == 0


@pytest.fixture
def prepared(run, tmp_path):
  """Makes folders with the steps 1 and 2, and what a killed save left."""
  base = tmp_path / 'base'
  assert run(base, steps=2)[0] == 0
  assert names(base) == ['1', '2']
  made = []

  def make(stale=True):
    folder = tmp_path / f'made{len(made)}'
    made.append(folder)
    shutil.copytree(base, folder)
    if stale:
      shutil.copytree(base / '2', folder / STALE)
    return folder

  return make


def undisturbed(run, folder):
  """The operations of a start, a save and what follows it."""
  status, result = run(folder)
  assert status == 0 and result['from'] == 2
  assert names(folder) == ['2', '3']
  return result['operations']


def spread(count, points):
  """`points` numbers from 1 to `count`."""
  return sorted({round(x) for x in np.linspace(1, count, points)})


def killed(run, prepared, point):
  """A folder in which a run was killed at that operation.

  Seldom, on a busy machine, Orbax takes a few operations more or fewer.
  """
  for last in range(point, 0, -1):
    folder = prepared()
    status, result = run(folder, kill=last)
    if status == signal.SIGKILL:
      return folder
    assert status == 0 and len(result['operations']) < last
  raise AssertionError('nothing was counted')


@pytest.mark.slow
def test_a_kill_at_any_operation_costs_at_most_the_step_under_way(
  run, prepared
):
  """25 kills over all of them; and then a kill of each recovery."""
  operations = undisturbed(run, prepared())
  assert {
    *('open', 'writev', 'write', 'fsync', 'mkdir'),
    *('rename', 'unlink', 'unlinkat', 'rmdir'),
  } <= set(operations)
  # Stale folder first, then the save, retention last.
  assert operations[1] == 'unlinkat' and operations[-1] == 'rmdir'
  points = spread(len(operations), 25)
  assert len(points) == 25
  found = []
  for number, point in enumerate(points):
    folder = killed(run, prepared, point)
    # Nothing but a rename makes a step visible, so it is there or is not.
    published = (folder / '3').exists()
    assert checkpointer.latest_step(folder) == (3 if published else 2)
    checkpointer.read(folder)
    status, _ = run(folder, kill=1 + number * len(operations) // 25)
    assert status in (0, signal.SIGKILL)
    latest = checkpointer.latest_step(folder)
    assert latest >= (3 if published else 2)
    status, result = run(folder)
    assert status == 0 and result['from'] == latest, (point, result)
    # It saved again, and nothing is left that only a hand could remove.
    assert names(folder) == [str(latest), str(latest + 1)]
    assert not folder.with_name(f'{folder.name}.damaged').exists()
    found.append(published)
  assert set(found) == {False, True}


def refused(run, folder, **faults):
  """The one line of a save that fails; what was there is there."""
  before = {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file() and STALE not in path.parts
  }
  status, result = run(folder, **faults)
  assert status == 0 and result.get('exit_code') == 3, (faults, result)
  assert '\n' not in result['error'] and str(folder) in result['error']
  assert [name for name in names(folder) if name != STALE] == ['1', '2']
  for path, octets in before.items():
    assert (folder / path).read_bytes() == octets
  return result['error']


def recovered(run, folder):
  """Without the fault, the run goes on from the last step."""
  assert undisturbed(run, folder)


def test_a_disk_that_fills_up_at_any_moment_costs_no_earlier_step(
  run, prepared
):
  operations = undisturbed(run, prepared(stale=False))
  # Until the manifest, with a margin: see `killed`.
  last = max(i for i, name in enumerate(operations) if 'write' in name)
  for point in spread(last - 4, 8)[1:]:
    folder = prepared(stale=False)
    text = refused(
      run, folder, fail_from=point, errno=errno.ENOSPC, kinds=SPACE
    )
    assert 'step 3 could not be written (0.0 MB needed, ' in text
    assert ' MB free in ' in text and 'No space left on device' in text
    assert names(folder) == ['1', '2']  # Its room is given back.
  recovered(run, folder)


@pytest.mark.parametrize(
  'error, words',
  [
    (errno.EROFS, 'Read-only file system'),
    (errno.EACCES, 'Permission denied'),
    (errno.EDQUOT, 'Disk quota exceeded'),
  ],
)
def test_a_folder_that_cannot_be_written_is_named(run, prepared, error, words):
  folder = prepared(stale=False)
  everything = {'fail_from': 1, 'errno': error, 'kinds': SPACE | NAMES}
  text = refused(run, folder, **everything)
  assert words in text and 'step 3 could not be written' in text
  recovered(run, folder)
  # At once where there is something to clean up.
  folder = prepared()
  text = refused(run, folder, **everything)
  assert words in text and 'cannot hold checkpoints' in text
  recovered(run, folder)


def test_a_rename_that_fails_leaves_the_step_unpublished(run, prepared):
  operations = undisturbed(run, prepared(stale=False))
  last_sync = max(i for i, name in enumerate(operations) if name == 'fsync')
  publishing = last_sync - 1
  assert operations[publishing] == 'rename'
  assert operations[publishing - 9 : publishing] == ['fsync'] * 9
  earlier = max(i for i in range(publishing) if operations[i] == 'rename')
  folder = prepared(stale=False)
  # From there on nothing changes names: what was staged cannot go either. Soon
  # after the rename before: Orbax's threads now and then make one file, ten
  # operations, less than the time before.
  assert publishing - earlier > 12
  faults = {'fail_from': earlier + 2, 'errno': errno.EIO, 'kinds': NAMES}
  status, result = run(folder, **faults)
  assert status == 0 and result['exit_code'] == 3
  assert 'Input/output error' in result['error']
  assert names(folder) == ['.3.saving', '1', '2']
  assert checkpointer.latest_step(folder) == 2
  recovered(run, folder)


def test_all_of_a_step_is_on_the_disk_before_it_is_visible(run, prepared):
  folder = prepared(stale=False)
  operations = undisturbed(run, folder)
  publishing = max(i for i, x in enumerate(operations) if x == 'fsync') - 1
  last_write = max(i for i, x in enumerate(operations) if 'write' in x)
  between = operations[last_write + 1 : publishing]
  # Each file and folder, the step's own included; the manifest once more.
  content = [folder / '3', *(folder / '3').rglob('*')]
  assert between == ['fsync'] * (len(content) + 1)
  assert operations[publishing : publishing + 2] == ['rename', 'fsync']


def test_what_does_not_reach_the_disk_is_not_called_saved(run, prepared):
  """fsync tells once that a write failed, and is believed."""
  operations = undisturbed(run, prepared(stale=False))
  syncs = [i + 1 for i, name in enumerate(operations) if name == 'fsync']
  for point in (syncs[0], syncs[len(syncs) // 2], syncs[-9]):
    folder = prepared(stale=False)
    text = refused(run, folder, fail_from=point, errno=errno.EIO, kinds=SYNC)
    assert 'Input/output error' in text
  recovered(run, folder)
