"""Checkpoints: the same bits back, or a clear error, and never half a step."""

import resource
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byol_jax import errors
from byol_jax.checkpoints import checkpointer
from tests.helpers import tiny_run
from tests.helpers.tiny_checkpoint import assert_same_bits, names, restore, save


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
  arrays, _ = checkpointer.read(tmp_path)
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
  assert list(checkpointer.read(tmp_path)[0]) == [name]


def test_a_step_is_never_overwritten(tmp_path):
  assert save(tmp_path, 5, {'w': np.zeros(3)}, {'run': 1})
  assert not save(tmp_path, 5, {'w': np.ones(3)}, {'run': 2})
  arrays, meta = checkpointer.read(tmp_path, 5)
  assert not arrays['w'].any()
  assert meta == {'run': 1}


def test_the_newest_are_kept(tmp_path):
  saver = checkpointer.Checkpoints(tmp_path, keep=2)
  assert saver.latest() is None
  for step in (9, 10, 100):
    saver.save(step, {'w': np.full(2, step)}, {})
    saver.wait()
    assert saver.latest() == step
  saver.close()
  assert names(tmp_path) == ['10', '100']
  assert checkpointer.latest_step(tmp_path) == 100  # Not by the alphabet.
  assert checkpointer.read(tmp_path, 10)[0]['w'].tolist() == [10, 10]


def test_reading_what_is_not_there(tmp_path):
  assert checkpointer.latest_step(tmp_path / 'absent') is None
  with pytest.raises(errors.DataError, match='holds no checkpoint'):
    checkpointer.read(tmp_path / 'absent')
  save(tmp_path, 3, {'w': np.ones(1)})
  with pytest.raises(errors.DataError, match=r'of step 4; .*\[3\]'):
    checkpointer.read(tmp_path, 4)


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
  assert checkpointer.latest_step(tmp_path) is None


def test_a_folder_that_cannot_be(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.DataError, match='cannot hold checkpoints'):
    checkpointer.Checkpoints(tmp_path / 'file' / 'checkpoints', keep=1)
  with pytest.raises(errors.ConfigError, match=r'checkpoint\.keep'):
    checkpointer.Checkpoints(tmp_path, keep=0)


def test_a_full_disk_leaves_the_past_and_may_be_retried(tmp_path, caplog):
  """A limit on the size of files stands for the disk: root has it too."""
  big = {'w': np.random.default_rng(0).normal(size=500_000)}
  saver = checkpointer.Checkpoints(tmp_path, keep=2)
  saver.save(1, {'w': np.ones(1)}, {})
  saver.wait()
  old = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, old[1]))
  try:
    saver.save(2, big, {})
    with pytest.raises(errors.DataError, match=r'step 2 .*4\.0 MB needed'):
      saver.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
  assert names(tmp_path) == ['1']
  assert saver.latest() == 1
  assert not caplog.records  # One clear line, and it is the error's.
  assert saver.save(2, big, {})
  saver.close()
  assert_same_bits(checkpointer.read(tmp_path)[0], big)


KILLED = """
import logging, resource, signal, sys
import numpy as np
from byol_jax.checkpoints import checkpointer
logging.basicConfig(level=logging.INFO)
saver = checkpointer.Checkpoints(sys.argv[1], keep=3)
saver.save(1, {'w': np.ones(3)}, {})
saver.wait()
# The kernel kills the process inside the write that passes the limit.
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
saver.save(2, {'w': np.random.default_rng(0).normal(size=500_000)}, {})
saver.wait()
"""


def test_a_kill_inside_a_write(tmp_path):
  done = subprocess.run(
    [sys.executable, '-c', KILLED, str(tmp_path)],
    cwd=tiny_run.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode < 0, done.stderr
  assert 'absl' not in done.stderr  # Though the root logger takes INFO.
  left = names(tmp_path)
  assert left == ['.2.saving', '1']
  assert checkpointer.latest_step(tmp_path) == 1
  assert checkpointer.read(tmp_path)[0]['w'].tolist() == [1, 1, 1]
  # A reader leaves the folder alone; it may be another run's save under way.
  assert names(tmp_path) == left
  # Gone when somebody saves there again.
  assert save(tmp_path, 3, {'w': np.zeros(3)})
  assert names(tmp_path) == ['1', '3']
