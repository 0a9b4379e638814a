"""Saves in the background: what is lost, what is said, what is deleted."""

import contextlib
import gc
import logging
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import errors
from byol_jax.checkpoints import (
  checkpointer,
  format as checkpoint_format,
  manifest,
  places,
)
from tests.helpers.tiny_checkpoint import (
  assert_same_bits,
  flip,
  largest,
  names,
  resume,
  save,
  states,
)


@pytest.fixture
def gate(monkeypatch):
  """Saves stop before they write until the gate is opened."""
  opened, write = threading.Event(), checkpoint_format.write

  def slow(*arguments):
    assert opened.wait(60)
    return write(*arguments)

  monkeypatch.setattr(checkpoint_format, 'write', slow)
  yield opened
  opened.set()


def opening(folder, keep=3):
  return contextlib.closing(checkpointer.Checkpoints(folder, keep=keep))


def test_a_save_does_not_wait_for_the_disk(tmp_path, gate):
  with opening(tmp_path) as saver:
    assert saver.save(1, {'w': np.ones(3)}, {})
    saver.poll()
    assert saver.latest() is None
    gate.set()
    saver.wait()
    assert saver.latest() == 1


def test_what_is_saved_is_what_was_there_when_save_was_called(tmp_path, gate):
  """The caller may write to its arrays, and delete those on a device."""
  tree = {'host': np.ones(3), 'device': jnp.arange(3.0), 'number': 2}
  meta = {'list': [1]}
  with opening(tmp_path) as saver:
    saver.save(1, tree, meta)
    tree['host'][:] = 7
    meta['list'].append(2)
    del tree['device']
    gate.set()
    saver.wait()
  arrays, found = checkpointer.read(tmp_path)
  assert arrays['host'].tolist() == [1, 1, 1] and found == {'list': [1]}
  assert arrays['device'].tolist() == [0, 1, 2] and arrays['number'] == 2


def test_what_lies_on_a_device_is_fetched_only_explicitly(
  tmp_path, monkeypatch
):
  """A run forbids all transfers that nobody asked for.

  The guard of the CPU backend does not see reads, so they are counted.
  """
  asked, get = [], jax.device_get
  monkeypatch.setattr(jax, 'device_get', lambda x: asked.append(x) or get(x))
  tree = {'step': jnp.int32(3), 'w': jnp.arange(5.0)}
  assert save(tmp_path, 1, tree)
  assert [set(x) for x in asked] == [{'step', 'w'}]
  assert_same_bits(checkpointer.read(tmp_path)[0], tree)


def test_a_second_save_waits_for_the_first(tmp_path, gate):
  with opening(tmp_path) as saver:
    saver.save(1, {'w': np.ones(3)}, {})
    threading.Timer(0.2, gate.set).start()
    assert saver.save(2, {'w': np.ones(3)}, {})
    assert saver.latest() in (1, 2)
  assert names(tmp_path) == ['1', '2']


def test_a_save_under_way_counts_as_saved(tmp_path, gate):
  with opening(tmp_path) as saver:
    assert saver.save(1, {'w': np.ones(3)}, {})
    gate.set()
    assert not saver.save(1, {'w': np.zeros(3)}, {})
  assert checkpointer.read(tmp_path)[0]['w'].all()


def test_closing_loses_nothing(tmp_path, gate):
  saver = checkpointer.Checkpoints(tmp_path, keep=1)
  saver.save(1, {'w': np.ones(3)}, {})
  threading.Timer(0.2, gate.set).start()
  saver.close()
  assert checkpointer.latest_step(tmp_path) == 1
  saver.close()  # and twice is as well


@pytest.mark.parametrize('hear', ['poll', 'wait', 'save', 'close'])
def test_a_failed_save_is_heard_of_once(tmp_path, monkeypatch, hear):
  def fail(*arguments):
    raise OSError(28, 'No space left on device')

  saver = checkpointer.Checkpoints(tmp_path, keep=2)
  monkeypatch.setattr(checkpoint_format, 'write', fail)
  saver.save(1, {'w': np.ones(3)}, {})
  calls = {
    'poll': saver.poll,
    'wait': saver.wait,
    'save': lambda: saver.save(2, {'w': np.ones(3)}, {}),
    'close': saver.close,
  }
  while not saver._work._under_way.done():
    pass
  with pytest.raises(errors.DataError, match=r'step 1 could not .* No space'):
    calls[hear]()
  monkeypatch.undo()
  saver.poll()
  saver.wait()
  if hear != 'close':
    assert saver.save(1, {'w': np.ones(3)}, {})  # It may be retried.
    saver.close()
    assert names(tmp_path) == ['1']


def test_what_json_cannot_hold_is_refused_at_once(tmp_path):
  with opening(tmp_path) as saver:
    with pytest.raises(TypeError):
      saver.save(1, {'w': np.ones(3)}, {'note': object()})
    with pytest.raises(ValueError, match='a/b'):
      saver.save(1, {'a': {'b': np.ones(1)}, 'a/b': np.ones(1)}, {})
  assert names(tmp_path) == []


def test_what_does_not_read_back_is_not_published(tmp_path, monkeypatch):
  """As if memory had turned a bit before it was written: all files agree."""
  write, folder = checkpoint_format.write, tmp_path / 'steps'

  def damaged(stage, step, arrays, meta, record):
    other = {'w': arrays['w'] + 1}
    content = write(stage, step, other, meta, record)
    content['arrays'] = {'w': manifest.entry(arrays['w'])}
    manifest.write(stage, content)
    return content

  with opening(folder, keep=1) as saver:
    saver.save(1, states(1)[1], {})
    saver.wait()
    monkeypatch.setattr(checkpoint_format, 'write', damaged)
    saver.save(2, states(2)[2], {})
    with pytest.raises(errors.DataError, match=r"step 2 .*'w' is not what"):
      saver.wait()
  assert names(folder) == ['1'] and names(tmp_path) == ['steps']


def test_what_has_just_been_saved_stays_whatever_its_number(tmp_path):
  """Newer numbers may be damaged: nobody has read them again."""
  for step in (7, 8, 5):
    assert save(tmp_path, step, states(1)[1], keep=1)
  assert names(tmp_path) == ['5', '8']
  flip(largest(tmp_path / '8'))
  assert resume(tmp_path, states(1)[1])[0] == 5


def test_what_is_damaged_once_published_costs_no_older_step(
  tmp_path, monkeypatch, caplog
):
  folder, publish = tmp_path / 'steps', places.Disk.publish

  def damaged(self, stage, step):
    publish(self, stage, step)
    flip(largest(self.where(step)))

  with opening(folder, keep=1) as saver:
    saver.save(1, states(1)[1], {})
    saver.wait()
    monkeypatch.setattr(places.Disk, 'publish', damaged)
    saver.save(2, states(2)[2], {})
    with pytest.raises(errors.DataError, match=r'step 2 .*expected sha256'):
      saver.wait()
    assert saver.latest() == 1
  assert names(folder) == ['1'] and names(tmp_path / 'steps.damaged') == ['2']
  assert 'it has just been written' in caplog.messages[0]


def test_what_cannot_be_deleted_costs_a_warning_and_no_run(
  tmp_path, monkeypatch, caplog
):
  def refuse(self, step):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(places.Disk, 'delete', refuse)
  for step, state in states(2).items():
    save(tmp_path, step, state, keep=1)
  assert names(tmp_path) == ['1', '2']
  (line,) = caplog.messages
  assert 'older checkpoints than 2 could not be deleted' in line
  monkeypatch.undo()
  save(tmp_path, 3, states(3)[3], keep=1)
  assert names(tmp_path) == ['3']


def test_other_users_of_the_logger_of_orbax_are_heard(tmp_path, gate, caplog):
  caplog.set_level(logging.INFO, logger='absl')
  with opening(tmp_path) as saver:
    saver.save(1, {'w': np.ones(3)}, {})
    gate.set()
    while saver.latest() is None:
      logging.getLogger('absl').info('a word')
  assert set(caplog.messages) == {'a word'}


def test_many_saves_leave_nothing_behind_in_memory(tmp_path):
  """TensorStore's to_json, which Orbax may call for each array, does."""
  tree = {str(i): np.ones(5) for i in range(100)}

  def objects():
    gc.collect()
    return len(gc.get_objects())

  with opening(tmp_path, keep=1) as saver:
    for step in range(8):
      saver.save(step, tree, {})
      saver.wait()
      if step == 2:
        before = objects()
  assert objects() - before < len(tree)
