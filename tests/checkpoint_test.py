"""Checkpoints: the same bits back, or a clear error, and never half a step."""

import pathlib
import resource
import shutil
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byol_jax import checkpoint, checkpoint_format, errors

ROOT = pathlib.Path(__file__).resolve().parents[1]


class State(NamedTuple):
  step: Any
  rng: Any
  params: Any
  opt_state: Any


def make_state(seed=0):
  """Haiku-like names, a chain with masked and empty states, odd leaves."""
  rng = np.random.default_rng(seed)
  params = {
    'res_net50/~/initial_conv': {'w': rng.normal(size=(3, 4)).astype('f4')},
    'projector/linear': {'w': rng.normal(size=(4, 2)).astype('f4')},
  }
  mask = {'res_net50/~/initial_conv': True, 'projector/linear': False}
  optimizer = optax.chain(
    optax.masked(optax.scale_by_adam(), mask),
    optax.identity(),
    optax.trace(0.9),
  )
  return State(
    step=np.int32(7),
    rng=jax.random.PRNGKey(seed),
    params=params,
    opt_state=optimizer.init(params),
  )


def save(folder, step, tree, meta=None, keep=3):
  saver = checkpoint.Checkpoints(folder, keep=keep)
  try:
    return saver.save(step, tree, meta or {})
  finally:
    saver.close()


def restore(folder, template, step=None):
  saver = checkpoint.Checkpoints(folder, keep=3)
  try:
    return saver.restore(template, step)
  finally:
    saver.close()


def assert_same_bits(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right)):
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.tobytes() == b.tobytes()


def test_a_state_comes_back_bit_by_bit(tmp_path):
  state = make_state()
  meta = {'step': 7, 'crop': [0.08, 1], 'name': 'ü', 'none': None}
  assert save(tmp_path, 7, state, meta)
  # Only shapes and dtypes of the template count: give it other values.
  restored, found = restore(tmp_path, make_state(seed=1))
  assert_same_bits(restored, state)
  assert found == meta


def test_every_kind_of_leaf_comes_back(tmp_path):
  tree = {
    'bfloat16': jnp.arange(3, dtype=jnp.bfloat16),
    'float64': np.float64(0.1),
    'scalar': np.float32(2.5),
    'flags': np.array([True, False]),
    'octets': np.arange(5, dtype=np.uint8),
    'strided': np.arange(12, dtype=np.int64).reshape(3, 4)[:, ::2].T,
    'nothing': np.zeros((0, 3), np.int16),
    'not finite': np.array([np.nan, -0.0, np.inf], np.float16),
    'number': 3,
    'list': [np.ones(2), (np.zeros(1),)],
  }
  save(tmp_path, 0, tree)
  assert_same_bits(restore(tmp_path, tree)[0], tree)


def test_shapes_without_values_serve_as_template(tmp_path):
  state = make_state()
  save(tmp_path, 1, state)
  restored, _ = restore(tmp_path, jax.eval_shape(lambda: state))
  assert_same_bits(restored, state)


def test_the_names_on_disk_are_paths(tmp_path):
  save(tmp_path, 1, make_state())
  arrays, _ = checkpoint.read(tmp_path)
  adam = 'opt_state/0/inner_state'
  assert set(arrays) == {
    'step',
    'rng',
    'params/res_net50/~/initial_conv/w',
    'params/projector/linear/w',
    f'{adam}/count',
    f'{adam}/mu/res_net50/~/initial_conv/w',
    f'{adam}/nu/res_net50/~/initial_conv/w',
    'opt_state/2/trace/res_net50/~/initial_conv/w',
    'opt_state/2/trace/projector/linear/w',
  }


@pytest.mark.parametrize('name', ['', 'a.b', '%2F', 'é', '/a//b', '..', '0'])
def test_odd_names_are_stored_as_they_are(tmp_path, name):
  save(tmp_path, 1, {name: np.ones(2)})
  assert list(checkpoint.read(tmp_path)[0]) == [name]


def test_a_step_is_never_overwritten(tmp_path):
  assert save(tmp_path, 5, {'w': np.zeros(3)}, {'run': 1})
  assert not save(tmp_path, 5, {'w': np.ones(3)}, {'run': 2})
  arrays, meta = checkpoint.read(tmp_path, 5)
  assert not arrays['w'].any()
  assert meta == {'run': 1}


def test_the_newest_are_kept(tmp_path):
  saver = checkpoint.Checkpoints(tmp_path, keep=2)
  assert saver.latest() is None
  for step in (9, 10, 100):
    saver.save(step, {'w': np.full(2, step)}, {})
    assert saver.latest() == step
  saver.close()
  assert sorted(path.name for path in tmp_path.iterdir()) == ['10', '100']
  assert checkpoint.latest_step(tmp_path) == 100  # Not by the alphabet.
  assert checkpoint.read(tmp_path, 10)[0]['w'].tolist() == [10, 10]


def test_reading_what_is_not_there(tmp_path):
  assert checkpoint.latest_step(tmp_path / 'absent') is None
  with pytest.raises(errors.DataError, match='holds no checkpoint'):
    checkpoint.read(tmp_path / 'absent')
  save(tmp_path, 3, {'w': np.ones(1)})
  with pytest.raises(errors.DataError, match=r'of step 4; .*\[3\]'):
    checkpoint.read(tmp_path, 4)


@pytest.mark.parametrize(
  'template, words',
  [
    ({'a': np.ones(2), 'w': np.ones((2, 3))}, ["'w'", '[2, 3]', '[2]']),
    ({'a': np.ones(2), 'w': np.ones(2, 'f4')}, ["'w'", 'float32', 'float64']),
    ({'a': np.ones(2)}, ["'w'", 'expected nothing', 'float64[2]']),
    (
      {'a': np.ones(2), 'b': {'c': np.int32(1)}, 'w': np.ones(2)},
      ["'b/c'", 'int32[]', 'found nothing'],
    ),
    # Two leaves differ: the first is named.
    ({'a': np.ones(1), 'w': np.ones(1)}, ["'a'"]),
  ],
)
def test_another_tree_is_refused_by_name(tmp_path, template, words):
  save(tmp_path, 1, {'a': np.ones(2), 'w': np.ones(2)})
  with pytest.raises(errors.DataError) as caught:
    restore(tmp_path, template)
  for word in [*words, str(tmp_path / '1')]:
    assert word in str(caught.value)
  assert '\n' not in str(caught.value)


def test_two_leaves_of_one_path_are_refused(tmp_path):
  with pytest.raises(ValueError, match='a/b'):
    save(tmp_path, 1, {'a': {'b': np.ones(1)}, 'a/b': np.ones(1)})
  assert checkpoint.latest_step(tmp_path) is None


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def halve(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path):
  path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize('damage', [flip, halve, zero, pathlib.Path.unlink])
def test_damage_is_never_read_as_values(tmp_path, damage):
  """Each file in turn; a few hold nothing that is read."""
  state = {'w': np.random.default_rng(0).normal(size=999), 'b': np.ones(9)}
  good = tmp_path / 'good'
  save(good, 1, state)
  save(good, 2, state, {'note': 'x' * 99})
  files = [p.relative_to(good) for p in good.glob('2/**/*') if p.is_file()]
  refused = 0
  for file in files:
    if not (good / file).stat().st_size:
      continue
    folder = tmp_path / 'bad'
    shutil.copytree(good, folder)
    damage(folder / file)
    message = None
    try:
      arrays, meta = checkpoint.read(folder)
    except errors.DataError as error:
      message = str(error)
    if message is None:
      assert_same_bits(arrays, state)
      assert meta == {'note': 'x' * 99}
    else:
      assert str(folder / '2') in message and '\n' not in message
      refused += 1
    shutil.rmtree(folder)
  # Array data, its index, and meta at the least.
  assert refused >= 3


def test_a_changed_value_of_meta_is_noticed(tmp_path):
  save(tmp_path, 1, {'w': np.ones(1)}, {'note': 'before'})
  file = tmp_path / '1' / 'meta' / 'metadata'
  text = file.read_text()
  assert text.count('before') == 1
  file.write_text(text.replace('before', 'after'))
  with pytest.raises(errors.DataError, match='meta is not what was saved'):
    checkpoint.read(tmp_path)


def test_an_empty_step_is_an_error_not_a_fresh_start(tmp_path):
  save(tmp_path, 1, {'w': np.ones(1)})
  (tmp_path / '2').mkdir()
  with pytest.raises(errors.DataError, match='2 is damaged'):
    restore(tmp_path, {'w': np.ones(1)})
  assert restore(tmp_path, {'w': np.zeros(1)}, step=1)[0]['w'] == 1


def resume(folder, template, keep=3):
  """What a starting run finds, and the steps that are left."""
  saver = checkpoint.Checkpoints(folder, keep=keep)
  try:
    found = saver.resume(template)
    return found, sorted(checkpoint._steps(pathlib.Path(folder)))
  finally:
    saver.close()


def states(count):
  generator = np.random.default_rng(0)
  return {i: {'w': generator.normal(size=999)} for i in range(1, count + 1)}


def empty(step):
  shutil.rmtree(step)
  step.mkdir()


def largest(step):
  """The file that holds the array."""
  files = [path for path in step.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


DAMAGES = {
  'flipped': lambda step: flip(largest(step)),
  'zeroed': lambda step: zero(largest(step)),
  'cut': lambda step: halve(largest(step)),
  'gone': lambda step: largest(step).unlink(),
  'empty': empty,
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_run_goes_on_from_the_newest_step_that_verifies(
  tmp_path, caplog, damage
):
  folder = tmp_path / 'checkpoints'
  saved = states(3)
  for step, state in saved.items():
    save(folder, step, state)
  for step in (2, 3):
    DAMAGES[damage](folder / str(step))
  (step, tree), left = resume(folder, {'w': np.zeros(999)})
  assert step == 1 and left == [1]
  assert_same_bits(tree, saved[1])
  said = [
    record.getMessage()
    for record in caplog.records
    if record.name == checkpoint.__name__
  ]
  assert len(said) == 2
  assert all('going on from step 1' in line for line in said)
  # Not lost, and out of the way of the same steps when they come again.
  aside = tmp_path / 'checkpoints.damaged'
  assert sorted(path.name for path in aside.iterdir()) == ['2', '3']
  assert save(folder, 2, saved[2], keep=1)
  assert resume(folder, saved[1], keep=1)[0][0] == 2


def test_when_all_are_damaged_a_run_does_not_start_afresh(tmp_path):
  folder = tmp_path / 'checkpoints'
  for step, state in states(2).items():
    save(folder, step, state)
    flip(largest(folder / str(step)))
  with pytest.raises(errors.DataError, match=r'steps \[1, 2\]') as caught:
    resume(folder, states(1)[1])
  assert '\n' not in str(caught.value) and 'afresh' in str(caught.value)
  assert checkpoint.latest_step(folder) == 2  # nothing was moved
  assert not (tmp_path / 'checkpoints.damaged').exists()


@pytest.mark.parametrize('error', [PermissionError, MemoryError])
def test_what_cannot_be_read_now_is_not_called_damaged(
  tmp_path, monkeypatch, error
):
  folder = tmp_path / 'checkpoints'
  saved = states(2)
  for step, state in saved.items():
    save(folder, step, state)

  def load(path):
    raise error('not now')

  monkeypatch.setattr(checkpoint_format, 'load', load)
  with pytest.raises(errors.DataError, match=r'2 cannot be read: .* not now'):
    resume(folder, saved[1])
  monkeypatch.undo()
  assert resume(folder, saved[1])[0][0] == 2


def test_without_a_step_there_is_nothing_to_resume(tmp_path):
  assert resume(tmp_path / 'new', states(1)[1]) == (None, [])


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoint_format, 'FORMAT', 2)
  save(tmp_path, 1, {'w': np.ones(1)})
  monkeypatch.undo()
  with pytest.raises(errors.DataError, match=r'format 2, .* reads 1'):
    checkpoint.read(tmp_path)


def test_a_folder_that_cannot_be(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.DataError, match='cannot hold checkpoints'):
    checkpoint.Checkpoints(tmp_path / 'file' / 'checkpoints', keep=1)
  with pytest.raises(errors.ConfigError, match=r'checkpoint\.keep'):
    checkpoint.Checkpoints(tmp_path, keep=0)


def test_a_full_disk_leaves_the_past_and_may_be_retried(tmp_path, caplog):
  """A limit on the size of files stands for the disk: root has it too."""
  big = {'w': np.random.default_rng(0).normal(size=500_000)}
  saver = checkpoint.Checkpoints(tmp_path, keep=2)
  saver.save(1, {'w': np.ones(1)}, {})
  old = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, old[1]))
  try:
    with pytest.raises(errors.DataError, match=r'step 2 .*4\.0 MB needed'):
      saver.save(2, big, {})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
  assert [path.name for path in tmp_path.iterdir()] == ['1']
  assert saver.latest() == 1
  assert not caplog.records  # One clear line, and it is the error's.
  assert saver.save(2, big, {})
  saver.close()
  assert_same_bits(checkpoint.read(tmp_path)[0], big)


KILLED = """
import logging, resource, signal, sys
import numpy as np
from byol_jax import checkpoint
logging.basicConfig(level=logging.INFO)
saver = checkpoint.Checkpoints(sys.argv[1], keep=3)
saver.save(1, {'w': np.ones(3)}, {})
# The kernel kills the process inside the write that passes the limit.
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
saver.save(2, {'w': np.random.default_rng(0).normal(size=500_000)}, {})
"""


def test_a_kill_inside_a_write(tmp_path):
  done = subprocess.run(
    [sys.executable, '-c', KILLED, str(tmp_path)],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode < 0, done.stderr
  assert 'absl' not in done.stderr  # Though the root logger takes INFO.
  left = {path.name for path in tmp_path.iterdir()}
  assert len(left) == 2 and '1' in left and '2' not in left
  assert checkpoint.latest_step(tmp_path) == 1
  assert checkpoint.read(tmp_path)[0]['w'].tolist() == [1, 1, 1]
  # A reader leaves the folder alone; it may be another run's save under way.
  assert {path.name for path in tmp_path.iterdir()} == left
  # Gone at the next save, of whatever step, at the latest.
  assert save(tmp_path, 3, {'w': np.zeros(3)})
  assert {path.name for path in tmp_path.iterdir()} == {'1', '3'}
