"""Checkpoints: the same bits back, or a clear error, and never half a step."""

import gc
import threading
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import errors, files
from byol_jax.checkpoints import checkpointer, digests, steps
from tests.helpers.tiny_checkpoint import (
  DAMAGES,
  assert_same_bits,
  flip,
  largest,
  names,
  opening,
  restore_newest,
  save,
  states,
)


@pytest.fixture
def gate(monkeypatch):
  """Saves stop before they write until the gate is opened."""
  opened, make = threading.Event(), digests.make_manifest

  def make_slowly(*arguments):
    assert opened.wait(60)
    return make(*arguments)

  monkeypatch.setattr(digests, 'make_manifest', make_slowly)
  yield opened
  opened.set()


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
  tree = {
    'bfloat16': jnp.arange(3, dtype=jnp.bfloat16),
    'float64': np.float64(0.1),
    'scalar': np.float32(2.5),
    'flags': np.array([True, False]),
    'octets': np.arange(5, dtype=np.uint8),
    'key': jax.random.PRNGKey(3),
    'step': np.int32(7),
    'strided': np.arange(12, dtype=np.int64).reshape(3, 4)[:, ::2].T,
    'nothing': np.zeros((0, 3), np.int16),
    'not finite': np.array([np.nan, -np.nan, -0.0, np.inf], np.float16),
    'number': 3,
    'list': [np.ones(2), (np.zeros(1),)],
    '': {'a.b': np.ones(1), '%2F': np.ones(1), 'é': np.ones(1), '..': 1},
  }
  meta = {'step': 7, 'crop': [0.08, 1], 'name': 'ü', 'none': None}
  assert save(tmp_path, 0, tree, meta)
  # Only shapes and dtypes of the template count.
  template = jax.tree.map(lambda x: np.zeros_like(np.asarray(x)), tree)
  _, restored, found = restore_newest(tmp_path, template)
  assert_same_bits(restored, tree)
  assert found == meta


def test_a_step_is_never_overwritten(tmp_path, gate):
  """Not even one that is being written."""
  with opening(tmp_path) as opened:
    assert opened.save(5, {'w': np.zeros(3)}, {'run': 1})
    threading.Timer(0.1, gate.set).start()
    assert not opened.save(5, {'w': np.ones(3)}, {'run': 2})
  assert not save(tmp_path, 5, {'w': np.ones(3)})
  arrays, facts = checkpointer.read_arrays(tmp_path, 5)
  assert not arrays['w'].any() and facts['meta'] == {'run': 1}


def test_the_newest_are_kept(tmp_path):
  with opening(tmp_path, keep=2) as opened:
    assert opened.latest_step() is None
    for step in (9, 10, 100):
      opened.save(step, {'w': np.full(2, step)}, {})
      opened.wait()
      assert opened.latest_step() == step
  assert names(tmp_path) == ['10', '100']
  assert checkpointer.list_steps(tmp_path)[-1] == 100  # by number, not by name
  assert checkpointer.read_arrays(tmp_path, 10)[0]['w'].tolist() == [10, 10]
  # What was just saved stays: newer ones have not been verified.
  assert save(tmp_path, 5, {'w': np.full(2, 5)}, keep=1)
  assert names(tmp_path) == ['100', '5']


def test_a_restored_tree_must_be_that_of_the_template(tmp_path):
  save(tmp_path, 1, {'a': np.ones(2)})
  with pytest.raises(errors.DataError, match=r"/1': 'b' differs: .* nothing"):
    restore_newest(tmp_path, {'a': np.ones(2), 'b': np.ones(2)})
  assert names(tmp_path) == ['1']


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(
    errors.DataError, match="file/steps' cannot be opened: Not"
  ):
    checkpointer.Checkpointer(tmp_path / 'file' / 'steps', keep=1)


def test_a_run_resumes_from_the_newest_step_that_verifies(tmp_path, caplog):
  """Each damaged step is named in one warning, and moved aside."""
  folder, aside = tmp_path / 'steps', tmp_path / 'steps.damaged'
  assert restore_newest(folder, states(1)[1]) is None
  saved = states(1 + len(DAMAGES))
  with opening(folder, keep=len(saved)) as opened:
    for step, state in saved.items():
      opened.save(step, state, {'step': step})
  for step, damage in enumerate(DAMAGES.values(), 2):
    damage(folder / str(step))
  step, tree, meta = restore_newest(folder, {'w': np.zeros(999)})
  assert step == 1 and meta == {'step': 1} and names(folder) == ['1']
  assert_same_bits(tree, saved[1])
  bad = sorted(set(saved) - {1}, reverse=True)
  assert names(aside) == sorted(map(str, bad))
  said = [r.getMessage() for r in caplog.records if 'byol_jax' in r.name]
  for line, number in zip(said, bad, strict=True):
    assert f'checkpoint {number} is damaged' in line and '\n' not in line
    assert f"moved to '{aside / str(number)}'; resuming from step 1" in line
  # Out of the way of the same steps when they come again.
  assert save(folder, 2, saved[2])
  flip(largest(folder / '2'))
  assert restore_newest(folder, saved[1])[0] == 1
  assert '2+' in names(aside)


def test_when_all_are_damaged_a_run_does_not_start_from_step_0(tmp_path):
  folder, damages = tmp_path / 'steps', ('flipped', 'empty', 'manifest gone')
  for (step, state), damage in zip(states(3).items(), damages, strict=True):
    save(folder, step, state)
    DAMAGES[damage](folder / str(step))
  with pytest.raises(
    errors.DataError, match=r'\[1, 2, 3\].*from step 0'
  ) as caught:
    restore_newest(folder, states(1)[1])
  assert caught.value.exit_code == 3 and '\n' not in str(caught.value)
  assert names(folder) == ['1', '2', '3'] and names(tmp_path) == ['steps']


def test_stale_folders_of_killed_saves_go_and_others_stay(tmp_path):
  """At once: not in a thread which would meet those of the next opening."""
  stale = [f'{step}.orbax-checkpoint-tmp' for step in range(2, 99)]
  for name in ('.note', 'x', *stale):
    (tmp_path / name / 'arrays').mkdir(parents=True)
  save(tmp_path, 1, states(1)[1])
  assert names(tmp_path) == ['.note', '1', 'x']
  for name in stale:
    (tmp_path / name).mkdir()
  assert restore_newest(tmp_path, states(1)[1])[0] == 1
  assert names(tmp_path) == ['.note', '1', 'x']


def test_a_save_is_of_the_values_when_it_was_called(tmp_path, gate):
  """It waits for no disk; the caller may write to its arrays."""
  tree = {'host': np.ones(3), 'device': jnp.arange(3.0), 'number': 2}
  meta = {'list': [1]}
  with opening(tmp_path) as opened:
    opened.save(1, tree, meta)
    tree['host'][:] = 7
    meta['list'].append(2)
    opened.check_for_errors()
    assert opened.latest_step() is None
    device = weakref.ref(tree.pop('device'))
    deadline = time.monotonic() + 30
    while device() is not None:  # fetched: its memory is free again
      assert time.monotonic() < deadline
    threading.Timer(0.1, gate.set).start()
  # Closed: all is written.
  arrays, found = checkpointer.read_arrays(tmp_path)
  assert arrays['host'].tolist() == [1, 1, 1] and found['meta'] == {'list': [1]}
  assert arrays['device'].tolist() == [0, 1, 2] and arrays['number'] == 2


def test_what_cannot_be_saved_is_refused_at_once(tmp_path):
  with opening(tmp_path) as opened:
    with pytest.raises(TypeError):
      opened.save(1, {'w': np.ones(3)}, {'note': object()})
    with pytest.raises(ValueError, match='a/b'):
      opened.save(1, {'a': {'b': np.ones(1)}, 'a/b': np.ones(1)}, {})
  assert names(tmp_path) == []


def test_a_failed_save_is_raised_once_by_the_next_call(tmp_path, monkeypatch):
  def fail(*arguments, **settings):
    raise OSError(28, 'No space left on device')

  opened = checkpointer.Checkpointer(tmp_path, keep=2)
  for call in (
    *(opened.check_for_errors, opened.wait, lambda: opened.save(2, {}, {})),
    opened.close,
  ):
    with monkeypatch.context() as patch:
      patch.setattr(steps.Manager, 'save', fail)
      opened.save(1, {'w': np.ones(3)}, {})
      while not opened._saving.done():
        pass
    with pytest.raises(errors.DataError, match=r'step 1 .* not be .* No space'):
      call()
    opened.check_for_errors()
    opened.wait()
  assert save(tmp_path, 1, {'w': np.ones(3)})  # it may be tried again
  assert names(tmp_path) == ['1']


def test_a_step_that_does_not_read_back_costs_no_older_one(
  tmp_path, monkeypatch, caplog
):
  """Retention waits until the new step is verified."""
  folder = tmp_path / 'steps'
  with opening(folder, keep=1) as opened:
    opened.save(1, states(1)[1], {})
    opened.wait()
    with monkeypatch.context() as patch:
      patch.setattr(files, 'flush_tree', lambda step: flip(largest(step)))
      opened.save(2, states(2)[2], {})
      with pytest.raises(errors.DataError, match=r"step 2 .*'w': expected"):
        opened.wait()
    assert opened.latest_step() == 1
    assert opened.save(2, states(2)[2], {})
  assert names(folder) == ['2'] and names(tmp_path / 'steps.damaged') == ['2']
  assert 'it has just been written' in caplog.text


def test_a_step_that_cannot_be_deleted_costs_a_warning(
  tmp_path, monkeypatch, caplog
):
  def refuse(self, step):
    raise PermissionError(13, 'Permission denied')

  with monkeypatch.context() as patch:
    patch.setattr(steps.Manager, 'delete', refuse)
    for step, state in states(2).items():
      save(tmp_path, step, state, keep=1)
  assert names(tmp_path) == ['1', '2']
  assert 'older than step 2 could not be deleted' in caplog.text
  save(tmp_path, 3, states(3)[3], keep=1)
  assert names(tmp_path) == ['3']


@pytest.mark.parametrize('seed', range(2))
def test_the_newest_step_that_verifies_is_never_deleted(
  tmp_path, monkeypatch, seed
):
  """Random lives of saves that end well, fail or are damaged, and restarts."""
  generator = np.random.default_rng(seed)
  folder, keep, fate, newest = tmp_path / 'steps', seed + 1, '', None

  def flush(step):
    if fate == 'fails':
      raise OSError(5, 'Input/output error')
    if fate == 'is damaged':
      flip(largest(step))

  monkeypatch.setattr(files, 'flush_tree', flush)
  opened = checkpointer.Checkpointer(folder, keep=keep)
  for step in range(1, 15):
    fate = generator.choice(['well', 'well', 'fails', 'is damaged', 'restart'])
    if fate == 'restart':
      opened.close()
      opened = checkpointer.Checkpointer(folder, keep=keep)
      found = opened.restore_newest({'w': np.zeros(999)})
      assert found is newest is None or found[0] == newest
      continue
    opened.save(step, {'w': generator.normal(size=999)}, {})
    if fate == 'well':
      opened.wait()
      assert len(names(folder)) <= keep
    else:
      with pytest.raises(errors.DataError):
        opened.wait()
    if fate != 'is damaged':  # what was not flushed may still be there
      newest = step
    if newest is not None:
      checkpointer.read_arrays(folder, newest)
  opened.close()


def test_many_saves_leave_nothing_behind_in_memory(tmp_path):
  """TensorStore's to_json, which Orbax may call for each array, does."""
  tree = {str(i): np.ones(5) for i in range(50)}

  def count_objects():
    gc.collect()
    return len(gc.get_objects())

  with opening(tmp_path, keep=1) as opened:
    for step in range(6):
      opened.save(step, tree, {})
      opened.wait()
      if step == 2:
        before = count_objects()
  assert count_objects() - before < len(tree)


def test_a_reader_goes_on_to_the_step_that_replaced_its_own(
  tmp_path, monkeypatch
):
  """As a run deletes a step which an evaluation has chosen."""
  save(tmp_path, 1, states(1)[1], keep=1)
  read = steps.read_step

  def read_late(manager, step):
    monkeypatch.setattr(steps, 'read_step', read)
    assert save(tmp_path, manager.latest_step() + 1, states(2)[2], keep=1)
    return read(manager, step)

  monkeypatch.setattr(steps, 'read_step', read_late)
  arrays, _ = checkpointer.read_arrays(tmp_path)
  assert_same_bits(arrays, states(2)[2])
  monkeypatch.setattr(steps, 'read_step', read_late)
  with pytest.raises(errors.DataError, match='2'):  # asked for by number
    checkpointer.read_arrays(tmp_path, 2)
