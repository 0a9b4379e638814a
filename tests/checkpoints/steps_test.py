"""Reading steps: verified, by plain Orbax too, and without a write."""

import logging
import os
import pathlib

import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp
import pytest

from byol_jax import errors
from byol_jax.checkpoints import checkpointer, steps
from tests.helpers.tiny_checkpoint import (
  DAMAGES,
  assert_same_bits,
  files_of,
  flip,
  halve,
  largest,
  manifest,
  names,
  opening,
  restore_newest,
  save,
  states,
  zero,
)

# At the first array that cannot be read Orbax (0.12.8) closes its event loop,
# to which TensorStore then reports the others.
pytestmark = pytest.mark.filterwarnings(
  'ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning'
)

TREE = {
  'w': np.arange(999.0),
  'b': {'c': np.float32([np.nan, -0.0])},
  'none': np.zeros((0, 2)),
}


def read_or_damaged(folder, step):
  """The step's arrays, which must be those of TREE; None if it is damaged."""
  try:
    arrays, _ = checkpointer.read_arrays(folder, step)
  except steps.DamagedError:
    return None
  assert_same_bits(
    arrays, {'b/c': TREE['b']['c'], 'none': TREE['none'], 'w': TREE['w']}
  )
  return arrays


@pytest.mark.parametrize('damage', [flip, halve, zero, pathlib.Path.unlink])
def test_damage_to_any_file_is_noticed_or_without_effect(tmp_path, damage):
  """Some files Orbax does not read again; of the others bits are flipped."""
  save(tmp_path, 1, TREE)
  noticed = set()
  for file in files_of(tmp_path / '1'):
    intact = file.read_bytes()
    damage(file)
    if read_or_damaged(tmp_path, 1) is None:
      noticed.add(file)
    file.write_bytes(intact)
  assert {largest(tmp_path / '1'), manifest(tmp_path / '1')} <= noticed
  generator = np.random.default_rng(0)
  for file in [*noticed] * (4 if damage is flip else 0):
    intact = file.read_bytes()
    flip(file, generator.random(), int(generator.integers(8)))
    read_or_damaged(tmp_path, 1)
    file.write_bytes(intact)
  assert read_or_damaged(tmp_path, 1)


def test_plain_orbax_opens_a_step(tmp_path):
  save(tmp_path, 7, TREE, {'note': 'x'})
  items = ocp.args.Composite(
    arrays=ocp.args.StandardRestore(), manifest=ocp.args.JsonRestore()
  )
  with ocp.CheckpointManager(tmp_path) as manager:
    assert manager.latest_step() == 7
    found = manager.restore(7, args=items)
  assert_same_bits(found['arrays'], {'b/c': TREE['b']['c'], 'w': TREE['w']})
  assert found['manifest']['content']['meta'] == {'note': 'x'}


def test_a_reader_writes_nothing_and_needs_no_permission(tmp_path):
  folder = tmp_path / 'steps'
  save(folder, 1, TREE, {'step': 1}, record={'config': 2})
  (folder / '2.orbax-checkpoint-tmp').mkdir()  # a save in progress
  before = {p: os.stat(p).st_mtime_ns for p in folder.rglob('*')}
  for path in (*before, folder):
    path.chmod(0o555 if path.is_dir() else 0o444)
  assert checkpointer.list_steps(folder) == [1]
  assert checkpointer.read_record(folder) == {'config': 2}
  arrays, facts = checkpointer.read_arrays(folder)
  assert facts['meta'] == {'step': 1} and len(arrays) == 3
  assert {p: os.stat(p).st_mtime_ns for p in folder.rglob('*')} == before
  folder.chmod(0o755)


def test_reading_what_is_not_there(tmp_path):
  absent = tmp_path / 'absent'
  assert checkpointer.list_steps(absent) == []
  assert checkpointer.read_record(absent) is None
  with pytest.raises(errors.DataError, match='has no checkpoint yet'):
    checkpointer.read_arrays(absent)
  assert not absent.exists()
  save(tmp_path, 3, TREE)
  with pytest.raises(errors.DataError, match=r'of step 4; .*\[3\]'):
    checkpointer.read_arrays(tmp_path, 4)


def test_the_record_is_that_of_the_newest_step_that_verifies(tmp_path):
  for step in (1, 2):
    save(tmp_path, step, TREE, record={'config': step})
  assert checkpointer.read_record(tmp_path) == {'config': 2}
  for step in (2, 1):
    DAMAGES['manifest flipped'](tmp_path / str(step))
    expected = {'config': 1} if step == 2 else {}
    assert checkpointer.read_record(tmp_path) == expected


@pytest.mark.parametrize('mark', ['manifest.json', 'meta/metadata'])
def test_an_older_format_is_refused_and_kept(tmp_path, mark):
  (tmp_path / '7' / mark).parent.mkdir(parents=True)
  (tmp_path / '7' / mark).write_text('{"format": 2}')
  for call in (
    lambda: restore_newest(tmp_path, TREE),
    lambda: checkpointer.read_arrays(tmp_path),
    lambda: checkpointer.read_record(tmp_path),
  ):
    with pytest.raises(errors.DataError, match=r"7' is .* of an older format"):
      call()
  assert names(tmp_path) == ['7']


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(
  tmp_path, monkeypatch
):
  """Or a run would start from step 0 beside its checkpoints."""
  save(tmp_path, 1, TREE)

  def refuse(path='.'):
    raise PermissionError(13, 'Permission denied', path)

  monkeypatch.setattr(os, 'listdir', refuse)
  for call in (
    lambda: restore_newest(tmp_path, TREE),
    lambda: checkpointer.list_steps(tmp_path),
    lambda: checkpointer.read_arrays(tmp_path),
  ):
    with pytest.raises(errors.DataError, match='opened: Permission'):
      call()


def test_what_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch):
  raised = [
    *(PermissionError('not now'), MemoryError('not now')),
    *(OSError(24, 'not now'), RuntimeError('503 not now')),
    ValueError('UNAVAILABLE: not now'),
  ]
  for step, state in states(2).items():
    save(tmp_path, step, state)

  def fail(self, step, args):
    raise raised.pop()

  with monkeypatch.context() as patch:
    patch.setattr(steps.Manager, 'restore', fail)
    while raised:
      with pytest.raises(errors.DataError, match=r"2' cannot be .*not now"):
        restore_newest(tmp_path, states(1)[1])
  assert restore_newest(tmp_path, states(1)[1])[0] == 2


def test_a_save_does_not_ask_for_preemption(tmp_path, monkeypatch):
  """Its count of calls belongs to the training loop of all processes."""
  asked = []
  monkeypatch.setattr(
    multihost_utils, 'reached_preemption_sync_point', asked.append
  )
  save(tmp_path, 1, TREE)
  assert not asked


def test_orbax_is_quiet_but_for_warnings_and_others_are_logged(
  tmp_path, caplog
):
  caplog.set_level(logging.INFO, logger='absl')
  with opening(tmp_path) as opened:
    opened.save(1, TREE, {})
    logging.getLogger('absl').info('of another package')
  DAMAGES['cut'](tmp_path / '1')
  with pytest.raises(errors.DataError):
    checkpointer.read_arrays(tmp_path)
  said = [r.getMessage() for r in caplog.records if r.name == 'absl']
  assert said == ['of another package']
  assert not logging.getLogger('absl').filters


def test_values_on_a_device_are_fetched_once_and_explicitly(
  tmp_path, monkeypatch
):
  """A run forbids implicit transfers; the CPU backend does not see reads."""
  asked, get = [], jax.device_get
  monkeypatch.setattr(jax, 'device_get', lambda x: asked.append(x) or get(x))
  tree = {'step': jax.numpy.int32(3), 'w': jax.numpy.arange(5.0)}
  assert save(tmp_path, 1, tree)
  assert len(asked) == 1
  assert_same_bits(checkpointer.read_arrays(tmp_path)[0], tree)
