"""Official checkpoints are read; hostile ones are refused, untouched.

Files are assembled opcode by opcode: no stdlib pickler writes names of
packages that are not installed.
"""

import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.convert import deepmind, safe_pickle

VECTORS = pathlib.Path(__file__).parents[1] / 'conformance'


# A small assembler of protocol 2.
def text(value):
  data = value.encode('utf8', 'surrogatepass')
  return b'X' + struct.pack('<I', len(data)) + data


def name(module, attribute):
  return f'c{module}\n{attribute}\n'.encode()


def whole(value):
  return b'J' + struct.pack('<i', value)


def sequence(*parts):
  return b'(' + b''.join(parts) + b't'


def call(function, *args):
  return function + sequence(*args) + b'R'


def mapping(items):
  inner = b''.join(text(key) + value for key, value in items.items())
  return b'}(' + inner + b'u'


def program(body):
  return b'\x80\x02' + body + b'.'


CORE = 'numpy.core.multiarray'
NDARRAY = name('numpy', 'ndarray')
ENCODE = name('_codecs', 'encode')


def raw(data):
  return call(ENCODE, text(data.decode('latin1')), text('latin1'))


def dtype(code, order='<'):
  state = [whole(3), text(order), b'N', b'N', b'N', *[whole(-1)] * 2, whole(0)]
  made = call(name('numpy', 'dtype'), text(code), b'\x89', b'\x88')
  return made + sequence(*state) + b'b'


def state_of(array, fortran=False):
  kind = array.dtype
  order = {'=': '<', '|': '|', '>': '>'}[kind.byteorder]
  return sequence(
    whole(1),
    sequence(*(whole(n) for n in array.shape)),
    dtype(f'{kind.kind}{kind.itemsize}', order),
    b'\x88' if fortran else b'\x89',
    raw(array.tobytes('F' if fortran else 'C')),
  )


def blank(core=CORE):
  function = name(core, '_reconstruct')
  return function, sequence(NDARRAY, sequence(whole(0)), raw(b'b'))


def plain(array, core=CORE, fortran=False):
  function, args = blank(core)
  return function + args + b'R' + state_of(array, fortran) + b'b'


def in_parts(module, function, *extra):
  def build(array):
    made = name(module, function)
    return call(made, *blank(), state_of(array), *extra)

  return build


WEAK = mapping({'weak_type': b'\x89'})
NAMED = mapping({'weak_type': b'\x89', 'named_shape': b'}'})
ARRAYS = {
  'numpy 1': plain,
  'numpy 2': lambda array: plain(array, 'numpy._core.multiarray'),
  'Fortran': lambda array: plain(array, fortran=True),
  'dill': in_parts('dill._dill', '_create_array', b'N'),
  'old dill': in_parts('dill.dill', '_create_array'),
  'jax 2022': in_parts(
    'jax._src.device_array', 'reconstruct_device_array', NAMED
  ),
  'jax 2023': in_parts('jax._src.array', '_reconstruct_array', WEAK),
}
HAIKU = 'haiku._src.data_structures'
MAPPINGS = {
  'dict': lambda body: body,
  'frozendict': lambda body: call(name(HAIKU, 'frozendict'), body),
  'FlatMapping': lambda body: call(name(HAIKU, 'FlatMapping'), body),
}


def dill_tuple(kind, module, fields):
  """A named tuple as dill writes one: {field: body}."""
  made = call(
    name('dill._dill', '_create_namedtuple'),
    text(kind),
    sequence(*(text(field) for field in fields)),
    text(module),
  )
  return made + sequence(*fields.values()) + b'\x81'


def named_class(kind, module, fields):
  """A named tuple by its class's name, as the stdlib writes one."""
  return name(module, kind) + sequence(*fields.values()) + b'\x81'


PARAMS = {
  'net/~/initial_conv': {'w': np.arange(6, dtype=np.float32).reshape(2, 3)},
  'projector/linear': {
    'b': np.float32([-1.5, 2.0]),
    'w': np.ones((3, 2), 'f2'),
  },
}
STATE = {'net/~/initial_batchnorm/~/mean_ema': {'counter': np.int32(4)}}


def tree(values, array=plain, wrap=lambda body: body, rename=lambda key: key):
  return wrap(
    mapping(
      {
        rename(module): wrap(
          mapping({k: array(np.asarray(leaf)) for k, leaf in leaves.items()})
        )
        for module, leaves in values.items()
      }
    )
  )


def checkpoint(record=dill_tuple, opt_state=None, without=(), **options):
  fields = {
    'online_params': tree(PARAMS, **options),
    'target_params': tree(PARAMS, **options),
    'online_state': tree(STATE, **options),
    'target_state': tree(STATE, **options),
  }
  if opt_state is None:
    lars = record(
      'ScaleByLarsState',
      'byol.utils.optimizers',
      {'mu': fields['online_params']},
    )
    empty = record('EmptyState', 'optax._src.base', {})
    opt_state = sequence(empty, lars, empty)
  fields['opt_state'] = opt_state
  fields = {k: v for k, v in fields.items() if k not in without}
  state = record('_ByolExperimentState', 'byol.byol_experiment', fields)
  keys = {
    'experiment_state': state,
    'step': whole(7),
    'rng': plain(np.uint32([0, 5])),
  }
  return program(mapping({k: v for k, v in keys.items() if k not in without}))


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


@pytest.mark.parametrize('wrap', MAPPINGS)
@pytest.mark.parametrize('array', ARRAYS)
def test_files_of_every_year_load_equal(tmp_path, wrap, array):
  content = checkpoint(wrap=MAPPINGS[wrap], array=ARRAYS[array])
  found = read(tmp_path, content)
  assert found.step == 7
  assert found.rng.tolist() == [0, 5]
  for params in (found.online_params, found.target_params, found.momentum):
    check_tree(params, PARAMS)
  for state in (found.online_state, found.target_state):
    check_tree(state, STATE)


def test_named_tuples_by_class_load(tmp_path):
  found = read(tmp_path, checkpoint(record=named_class))
  check_tree(found.target_params, PARAMS)
  check_tree(found.momentum, PARAMS)


def test_a_numbered_first_layer_gets_its_usual_name(tmp_path):
  rename = lambda key: key.replace('conv', 'conv_1').replace('norm/', 'norm_1/')
  found = read(tmp_path, checkpoint(rename=rename))
  check_tree(found.online_params, PARAMS)
  check_tree(found.online_state, STATE)


UNKNOWN = {
  'none': b'N',
  'numbers': sequence(whole(1), b']'),
  'another shape': tree({'net': {'w': np.zeros(3, np.float32)}}),
  # Adam has two such trees: neither is LARS's momentum.
  'two trees': sequence(tree(PARAMS), tree(PARAMS)),
}


@pytest.mark.parametrize('kind', UNKNOWN)
def test_an_unknown_optimizer_state_has_no_momentum(tmp_path, kind):
  found = read(tmp_path, checkpoint(opt_state=UNKNOWN[kind]))
  assert found.momentum is None
  check_tree(found.online_params, PARAMS)


@pytest.mark.parametrize(
  'array',
  [
    np.array([1, 256], '>i4'),
    np.array([True, False]),
    np.zeros((0, 3), np.float64),
    np.float16([[1.5]]),
    np.uint8(200),
  ],
)
def test_other_numbers_are_read_exactly(tmp_path, array):
  path = tmp_path / 'array.pkl'
  path.write_bytes(program(plain(np.asarray(array))))
  found = safe_pickle.load(str(path)).value
  np.testing.assert_array_equal(found, array)
  assert found.dtype.isnative and found.dtype.kind == array.dtype.kind
  assert not found.flags.writeable


def test_what_the_stdlib_writes_is_read(tmp_path):
  values = {
    'w': np.linspace(0, 1, 7),
    'n': np.float32(3),
    'e': b'',
    'i': 1 << 70,
  }
  path = tmp_path / 'file.pkl'
  path.write_bytes(pickle.dumps(values, protocol=2))
  found = safe_pickle.load(str(path))
  np.testing.assert_array_equal(found['w'].value, values['w'])
  assert found['n'].value == 3 and found['e'] == b'' and found['i'] == 1 << 70


def test_the_reference_file_starts_where_its_vectors_do():
  found = deepmind.read_checkpoint(str(VECTORS / 'official_tiny.pkl'))
  with np.load(VECTORS / 'official_tiny.npz') as vectors:
    for field in deepmind.TREES:
      prefix = f'final/{field}/'
      expected = {
        key.removeprefix(prefix): vectors[key].shape
        for key in vectors.files
        if key.startswith(prefix)
      }
      assert deepmind.shapes(getattr(found, field)) == expected
  assert found.step == 2
  assert found.rng.tolist() == [0, 7]
  counters = {int(leaves['counter']) for leaves in found.online_state.values()}
  assert counters == {4}  # two views at each of two steps
  assert found.momentum['classifier']['w'].any()


@pytest.mark.parametrize(
  'missing', ['experiment_state', 'step', 'rng', 'target_state', 'opt_state']
)
def test_a_missing_part_is_named(tmp_path, missing):
  with pytest.raises(errors.DataError, match=f'expected.*{missing}.*found'):
    read(tmp_path, checkpoint(without=(missing,)))


def test_networks_that_differ_are_refused(tmp_path):
  content = checkpoint().replace(text('projector/linear'), text('other'), 1)
  with pytest.raises(errors.DataError, match='target_params like'):
    read(tmp_path, content)


class Evil:
  """Pickles itself as a call."""

  def __init__(self, function, *args):
    self.parts = function, args

  def __reduce__(self):
    return self.parts


def stdlib(function, *args, protocol=2):
  return lambda marker: pickle.dumps(
    Evil(function, *[arg.format(str(marker)) for arg in args]),
    protocol=protocol,
  )


def body(*parts):
  return lambda marker: program(
    b''.join(part.replace(text('MARKER'), text(str(marker))) for part in parts)
  )


SHELL = text("open('MARKER', 'w')")
SYSTEM = name('os', 'system')
GETATTR = name('__builtin__', 'getattr')
IMPORT = name('__builtin__', '__import__')
TOUCH = 'touch {}'
BIG = text('x' * 100_000)
HOSTILE = {
  'os.system': stdlib(os.system, TOUCH),
  'os.system, protocol 0': stdlib(os.system, TOUCH, protocol=0),
  'os.system, protocol 4': stdlib(os.system, TOUCH, protocol=4),
  'eval': stdlib(eval, "open({!r}, 'w')"),
  'exec': stdlib(exec, "open({!r}, 'w')"),
  'open': body(call(name('__builtin__', 'open'), text('MARKER'), text('w'))),
  'import': body(call(IMPORT, text('antigravity'))),
  'Popen': body(call(name('subprocess', 'Popen'), text('touch'))),
  'getattr chain': body(
    call(GETATTR, call(IMPORT, text('os')), text('system')),
    sequence(text('touch MARKER')),
    b'R',
  ),
  'attrgetter': body(call(name('operator', 'attrgetter'), text('system'))),
  'methodcaller': body(call(name('operator', 'methodcaller'), text('system'))),
  'partial': body(call(name('functools', 'partial'), SYSTEM)),
  'reconstructor': body(
    call(name('copy_reg', '_reconstructor'), NDARRAY, NDARRAY, b'N')
  ),
  'add_extension': body(call(name('copyreg', 'add_extension'), text('os'))),
  'extension': body(b'\x82\x01'),
  'persistent id': body(b'Pmarker\n'),
  'binary persistent id': body(text('marker') + b'Q'),
  'INST': body(b'(' + SHELL + b'ios\nsystem\n'),
  'OBJ': body(b'(' + SYSTEM + SHELL + b'o'),
  'NEWOBJ': body(SYSTEM + sequence(SHELL) + b'\x81'),
  'NEWOBJ of an array': body(NDARRAY + sequence(sequence(whole(9))) + b'\x81'),
  'NEWOBJ_EX': body(b'\x80\x04' + NDARRAY + sequence() + b'}\x92'),
  'call of a result': body(call(plain(np.zeros(2)), SHELL)),
  'call of a string': body(call(text('os.system'), SHELL)),
  'call of ndarray': body(call(NDARRAY, sequence(whole(2**31 - 1)))),
  'BUILD of a dict': body(b'}' + mapping({'__class__': SHELL}) + b'b'),
  'BUILD of a function': body(ENCODE + mapping({'__module__': SHELL}) + b'b'),
  'BUILD of a record': body(
    dill_tuple('A', 'b', {'c': b'N'}) + mapping({'__class__': SHELL}) + b'b'
  ),
  'BUILD twice': body(plain(np.zeros(2)) + state_of(np.zeros(3)) + b'b'),
  'object array': lambda marker: pickle.dumps(
    np.array([Evil(os.system, f'touch {marker}')], object), protocol=2
  ),
  'object dtype': body(dtype('O8', '|')),
  'object dtype, no values': lambda marker: pickle.dumps(
    np.array([], object), protocol=2
  ),
  'structured dtype': lambda marker: pickle.dumps(
    np.zeros(2, [('a', 'f4')]), protocol=2
  ),
  'text array': lambda marker: pickle.dumps(np.array(['ab']), protocol=2),
  'subclass of ndarray': body(
    call(
      name(CORE, '_reconstruct'), name('numpy', 'matrix'), sequence(), raw(b'b')
    )
  ),
  'numpy.load': body(call(name('numpy', 'load'), text('MARKER'))),
  'attribute of ndarray': body(name('numpy', 'ndarray.__reduce__')),
  'array by os.system': body(
    call(
      name('dill._dill', '_create_array'),
      SYSTEM,
      sequence(SHELL),
      state_of(np.zeros(2)),
    )
  ),
  'array by another function': body(
    call(
      name('jax._src.array', '_reconstruct_array'),
      ENCODE,
      sequence(text('a'), text('latin1')),
      state_of(np.zeros(2)),
      WEAK,
    )
  ),
  'dill code': body(call(name('dill._dill', '_create_code'), whole(0))),
  'dill function': body(call(name('dill._dill', '_create_function'), b'N')),
  'dill type': body(call(name('dill._dill', '_load_type'), text('CodeType'))),
  'dill import': body(call(name('dill._dill', '_import_module'), text('os'))),
  'dill eval': body(call(name('dill._dill', '_eval_repr'), SHELL)),
  'module of the reference': body(name('byol.byol_experiment', 'os.system')),
  'function of the library': body(call(name('optax', 'lars'), whole(1))),
  'disguised module': body(name('byol\x0b.os', 'system')),
  'another codec': body(call(ENCODE, text('x'), text('zlib_codec'))),
  'array larger than its bytes': body(
    plain(np.zeros(2)).replace(whole(2), whole(2**31 - 1))
  ),
  'negative shape': body(plain(np.zeros(2)).replace(whole(2), whole(-1))),
  'text longer than the file': body(b'X\xff\xff\xff\xff' + b'abc'),
  'memo that is not set': body(b'h\x07'),
  'stack that is empty': body(b'R'),
  'items beyond a mark': body(b'}(' + text('a') + b's'),
  'nested key': body(b'}(N\x85Nu'),
  'copies without end': body(
    b'(' + BIG + b'q\x00',
    *[ENCODE + b'h\x00' + text('latin1') + b'\x86R'] * 99,
    b't',
  ),
  'fields without end': body(
    dill_tuple('A', 'b', {str(i): b'N' for i in range(101)})
  ),
  'decimal without end': body(b'I' + b'9' * 10_000 + b'\n'),
  'truncated': lambda marker: checkpoint()[:-200],
  'empty': lambda marker: b'',
  'no stop': lambda marker: checkpoint()[:-1],
  'zip': lambda marker: b'PK\x03\x04' + bytes(60),
}


@pytest.mark.parametrize('kind', HOSTILE)
def test_a_hostile_file_is_refused_untouched(tmp_path, kind):
  marker = tmp_path / 'marker'
  content = HOSTILE[kind](marker)
  with pytest.raises(errors.DataError, match=r'checkpoint\.pkl: ') as caught:
    read(tmp_path, content)
  assert not marker.exists()
  assert 'nothing of it was executed' in str(caught.value)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('kind', ['os.system', 'eval', 'object array'])
def test_the_hostile_files_would_act(tmp_path, kind):
  """The fixture is live ammunition: the stdlib's reader is hit."""
  pickle.loads(HOSTILE[kind](tmp_path / 'marker'))
  assert (tmp_path / 'marker').exists()


@pytest.mark.parametrize(
  'kind, found',
  [
    ('os.system', 'posix.system'),
    ('eval', '__builtin__.eval'),
    ('dill code', 'dill._dill._create_code'),
    ('persistent id', 'PERSID'),
    ('copies without end', 'fewer copies'),
    ('nested key', 'strings as keys'),
    ('fields without end', 'at most 100 fields'),
    ('array larger than its bytes', 'bytes for shape'),
    ('os.system, protocol 4', 'protocol 2, not 4'),
  ],
)
def test_the_refusal_names_what_it_met(tmp_path, kind, found):
  with pytest.raises(errors.DataError, match=found):
    read(tmp_path, HOSTILE[kind](tmp_path / 'marker'))


@pytest.mark.parametrize('path', ['absent.pkl', '.'])
def test_a_file_that_cannot_be_read(tmp_path, path):
  with pytest.raises(errors.DataError, match='cannot be read'):
    deepmind.read_checkpoint(str(tmp_path / path))


def test_nesting_without_end_ends():
  """Neither the reader nor its error message follows the nest."""
  for nest in (b'N' + b'\x85' * 200_000, b'N' + b'q\x00h\x00\x86' * 2000):
    machine = safe_pickle.Machine(100)
    value = machine.run(io.BytesIO(program(nest)))
    assert deepmind.describe(value) == 'a tuple'
    assert list(deepmind.walk(value)) == []


def test_a_shared_tree_is_not_unfolded():
  """Many modules of one large dict of leaves would be copied for each."""
  leaves = {str(i): deepmind.stand_ins.Array(np.zeros(1)) for i in range(1000)}
  shared = {f'module{i}': leaves for i in range(1000)}
  assert deepmind.as_tree(shared) is None


SCRIPT = """
import sys
from byol_jax.convert import deepmind
before = set(sys.modules)
for path in sys.argv[1:]:
  try:
    deepmind.read_checkpoint(path)
  except deepmind.errors.DataError:
    pass
new = sorted(set(sys.modules) - before)
foreign = {'haiku', 'jax', 'optax', 'dill', 'byol', 'tensorflow'}
print(new, sorted(foreign & set(sys.modules)))
"""


def test_reading_imports_nothing(tmp_path):
  paths = [str(VECTORS / 'official_tiny.pkl')]
  for i, kind in enumerate(HOSTILE):
    path = tmp_path / f'{i}.pkl'
    path.write_bytes(HOSTILE[kind](tmp_path / 'marker'))
    paths.append(str(path))
  output = subprocess.run(
    [sys.executable, '-c', SCRIPT, *paths],
    capture_output=True,
    text=True,
    check=True,
    cwd=VECTORS.parents[1],
  )
  assert output.stdout.strip() == '[] []'
  assert not (tmp_path / 'marker').exists()
