"""Checkpoints of the official code are read, whichever year wrote them."""

import contextlib
import pathlib
import tracemalloc

import numpy as np
import pytest

from byol_jax import errors, networks
from byol_jax.convert import deepmind
from tests.helpers import pickles

VECTORS = pathlib.Path(__file__).parents[1] / 'conformance'

NAMED = pickles.mapping({'weak_type': b'\x89', 'named_shape': b'}'})
ARRAYS = {
  'numpy 1': pickles.plain_array,
  'numpy 2': lambda array: pickles.plain_array(
    array, pickles.name('numpy._core.multiarray', '_reconstruct')
  ),
  'Fortran': lambda array: pickles.plain_array(array, fortran=True),
  'dill': pickles.whole_array('dill._dill', '_create_array', b'N'),
  'old dill': pickles.whole_array('dill.dill', '_create_array'),
  'jax 2022': pickles.whole_array(
    'jax._src.device_array', 'reconstruct_device_array', NAMED
  ),
  'jax 2023': pickles.whole_array(
    *('jax._src.array', '_reconstruct_array'),
    pickles.mapping({'weak_type': b'\x89'}),
  ),
}
MAPPINGS = (None, 'frozendict', 'FlatMapping', 'FlatMap')


def wrap(kind):
  """Returns what Haiku's mapping of a kind, or a dict, makes of a dict."""
  if kind is None:
    return lambda body: body
  return lambda body: pickles.call(pickles.name(pickles.HAIKU, kind), body)


PARAMS = {
  'net/~/initial_conv': {'w': np.arange(6, dtype=np.float32).reshape(2, 3)},
  'projector/linear': {
    'b': np.float32([-1.5, 2.0]),
    'w': np.ones((3, 2), 'f2'),
  },
}
STATE = {'net/~/initial_batchnorm/~/mean_ema': {'counter': np.int32(4)}}


KEYS = ('experiment_state', 'step', 'rng')


def checkpoint(record=pickles.dill_tuple, changes=None, **options):
  """A whole file; `changes` replaces parts, or leaves one out for None."""
  params = pickles.tree(PARAMS, **options)
  state = pickles.tree(STATE, **options)
  lars = record('ScaleByLarsState', 'byol.utils.optimizers', {'mu': params})
  empty = record('EmptyState', 'optax._src.base', {})
  parts = {
    'online_params': params,
    'target_params': params,
    'online_state': state,
    'target_state': state,
    'opt_state': pickles.sequence(empty, lars, empty),
    'step': pickles.integer(7),
    'rng': pickles.plain_array(np.uint32([0, 5])),
  } | (changes or {})
  parts = {k: v for k, v in parts.items() if v is not None}
  fields = {k: v for k, v in parts.items() if k not in KEYS}
  keys = {k: v for k, v in parts.items() if k in KEYS}
  if 'experiment_state' not in (changes or {}):
    named = '_ByolExperimentState', 'byol.byol_experiment', fields
    keys['experiment_state'] = record(*named)
  return pickles.program(pickles.mapping(keys))


def read(tmp_path, content):
  path = tmp_path / 'checkpoint.pkl'
  path.write_bytes(content)
  return deepmind.read_checkpoint(str(path))


def check_tree(found, expected):
  assert found.keys() == expected.keys()
  for module, leaves in expected.items():
    assert found[module].keys() == leaves.keys()
    for leaf, value in leaves.items():
      np.testing.assert_array_equal(found[module][leaf], value)
      assert found[module][leaf].dtype == value.dtype


@pytest.mark.parametrize('kind', MAPPINGS)
@pytest.mark.parametrize('array', ARRAYS)
@pytest.mark.parametrize('record', (pickles.dill_tuple, pickles.named_class))
def test_files_of_every_year_load_equal(tmp_path, record, kind, array):
  options = {'wrap': wrap(kind), 'array': ARRAYS[array]}
  found = read(tmp_path, checkpoint(record, **options))
  assert found.step == 7
  assert found.rng.tolist() == [0, 5]
  for params in (found.online_params, found.target_params, found.momentum):
    check_tree(params, PARAMS)
  for state in (found.online_state, found.target_state):
    check_tree(state, STATE)


def test_a_numbered_first_layer_gets_its_usual_name(tmp_path):
  conv, norm = '/initial_conv', '/initial_batchnorm'
  numbered = {
    name.replace(conv, conv + '_1').replace(norm, norm + '_1'): leaves
    for name, leaves in (PARAMS | STATE).items()
  }
  body = pickles.tree(numbered)
  changes = {f'{k}_params': body for k in ('online', 'target')}
  found = read(tmp_path, checkpoint(changes=changes))
  check_tree(found.online_params, PARAMS | STATE)


@pytest.mark.parametrize(
  'opt_state',
  (
    b'N',
    pickles.sequence(pickles.integer(1), b']'),
    pickles.tree({'net': {'w': np.zeros(3, np.float32)}}),  # another shape
    # Adam has two such trees, and no momentum of LARS.
    pickles.sequence(pickles.tree(PARAMS), pickles.tree(PARAMS)),
  ),
  ids=('none', 'numbers', 'shape', 'two'),
)
def test_an_unknown_optimizer_state_has_no_momentum(tmp_path, opt_state):
  found = read(tmp_path, checkpoint(changes={'opt_state': opt_state}))
  assert found.momentum is None
  check_tree(found.online_params, PARAMS)


def test_the_official_file_starts_where_its_vectors_do():
  found = deepmind.read_checkpoint(str(VECTORS / 'official_tiny.pkl'))
  with np.load(VECTORS / 'official_tiny.npz') as vectors:
    for field in deepmind.TREES:
      prefix = f'final/{field}/'
      expected = {
        tuple(key.removeprefix(prefix).split('|')): vectors[key].shape
        for key in vectors.files
        if key.startswith(prefix)
      }
      assert networks.list_shapes(getattr(found, field)) == expected
  assert found.step == 2
  assert found.rng.tolist() == [0, 7]
  counters = {int(leaves['counter']) for leaves in found.online_state.values()}
  assert counters == {4}  # two views at each of two steps
  assert found.momentum['classifier']['w'].any()


@pytest.mark.parametrize(
  'key, value, message',
  (
    *((key, None, f'expected.*{key}.*found') for key in KEYS),
    ('target_state', None, 'expected.*target_state.*found'),
    ('opt_state', None, 'expected.*opt_state.*found'),
    ('step', pickles.integer(-1), 'expected step to be in'),
    ('step', b'\x8a\x05' + bytes(4) + b'\x01', 'expected step to be in'),
    ('rng', pickles.plain_array(np.float32([0, 5])), r'found an array float32'),
    ('rng', pickles.plain_array(np.zeros((0, 2), np.uint32)), r'\(0, 2\)'),
    (
      'target_params',
      pickles.tree({'other': PARAMS['projector/linear']}),
      'li',
    ),
    ('online_state', b'}', 'expected {module: {leaf: array}}, found a dict'),
  ),
)
@pytest.mark.parametrize('record', (pickles.dill_tuple, pickles.named_class))
def test_an_unusable_part_is_named(tmp_path, record, key, value, message):
  with pytest.raises(errors.DataError, match=message) as caught:
    read(tmp_path, checkpoint(record, changes={key: value}))
  assert '\n' not in str(caught.value)


def shared_parts():
  """Name -> changes of a checkpoint that refers to one part many times."""
  leaf = pickles.plain_array(np.zeros(1, np.float32))
  leaves = {str(i): b'h\x00' if i else leaf + b'q\x00' for i in range(2000)}
  shared = pickles.mapping(leaves) + b'q\x01'
  modules = {str(i): b'h\x01' if i else shared for i in range(2000)}
  many = [pickles.mapping({'a': b'h\x01'}) for _ in range(2000)]
  # A long tuple of the arguments of many calls.
  long = b'(' + b'N' * 20_000 + b'tq\x01'
  record = pickles.name('optax._src.base', 'EmptyState') + b'q\x00'
  function = pickles.RECONSTRUCT + b'q\x00'
  one_name = pickles.mapping({'x' * 20_000: shared})
  return {
    'modules': {'online_params': pickles.mapping(modules)},
    'trees': {'opt_state': pickles.sequence(shared, *many)},
    'records': {
      'opt_state': pickles.sequence(record, long, b'h\x00h\x01\x81' * 2000)
    },
    'calls': {
      'opt_state': pickles.sequence(function, long, b'h\x00h\x01R' * 2000)
    },
    'names': {'online_params': one_name + b'q\x02', 'target_params': b'h\x02'},
  }


@pytest.mark.parametrize('kind', shared_parts())
def test_parts_that_a_file_shares_take_no_memory(tmp_path, kind):
  content = checkpoint(changes=shared_parts()[kind])
  tracemalloc.start()
  try:
    with contextlib.suppress(errors.DataError):
      read(tmp_path, content)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  # 40 to 60 bytes an object, of which a file makes one a byte.
  assert peak < 100 * len(content)
