"""Pickles of numbers are read; hostile ones are refused, untouched."""

import functools
import os
import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.convert import deepmind, safe_pickle
from tests.helpers.pickles import (
  BLANK,
  CREATE_ARRAY,
  ENCODE,
  NDARRAY,
  array_state,
  call,
  dill_tuple,
  dtype,
  integer,
  mapping,
  name,
  plain_array,
  program,
  sequence,
  text,
)

ROOT = pathlib.Path(__file__).parents[2]


def load(tmp_path, content):
  path = tmp_path / 'file.pkl'
  path.write_bytes(content)
  return safe_pickle.load_pickle(str(path))


def test_pickles_of_the_standard_library_are_read(tmp_path):
  arrays = {
    'int32': np.array([1, 256], '<i4'),
    'empty': np.zeros((0, 3), np.float64),
    'Fortran': np.linspace(0, 1, 6).reshape(2, 3).T,
    'half': np.float16([[1.5]]),
    'scalar': np.float32(3),
  }
  values = {'e': b'', 'i': 1 << 70, 'l': [1.5]}
  found = load(tmp_path, dumps(arrays | values))
  for key, array in arrays.items():
    value = found.pop(key).value
    np.testing.assert_array_equal(value, array)
    assert value.dtype == array.dtype and not value.flags.writeable
  assert found == values


class Evil(tuple):
  """Pickles itself, (function, argument), as a call."""

  def __reduce__(self):
    return self[0], self[1:]


SHELL = text("open('MARKER', 'w')")
SYSTEM = name('os', 'system')
ARRAY = plain_array(np.zeros(2))
STATE = array_state(np.zeros(2))
CREATE_TYPE = name('dill._dill', '_create_namedtuple')
TYPE = call(CREATE_TYPE, text('A'), b')', text('b'))
RECORD = dill_tuple('A', 'b', {'c': b'N'})
NAMED = name('byol.byol_experiment', '_ByolExperimentState')
COPY = ENCODE + b'h\x00' + text('latin1') + b'\x86R'
GLOBALS = (
  *('operator attrgetter', 'operator methodcaller', 'functools partial'),
  *('copy_reg _reconstructor', 'copyreg add_extension', 'subprocess Popen'),
  *('__builtin__ open', '__builtin__ __import__', '__builtin__ getattr'),
  *('__builtin__ eval', 'builtins exec', 'numpy load', 'numpy matrix'),
  *('numpy ndarray.__reduce__', 'dill._dill _create_code', 'optax lars'),
  *('dill._dill _create_function', 'dill._dill _load_type', 'os system'),
  *('dill._dill _import_module', 'dill._dill _eval_repr', 'byol\x0b.os system'),
  'byol.byol_experiment os.system',
)


dumps = functools.partial(pickle.dumps, protocol=2)


def hostile(marker):
  """Returns name -> (file, part of the error); what runs makes the marker."""
  touch = Evil((os.system, f'touch {marker}'))
  files = {
    'protocol 0': (dumps(touch, protocol=0), 'found opcode '),
    'protocol 4': (dumps(touch, protocol=4), 'found opcode FRAME'),
    'os.system': (dumps(touch), "'posix system'"),
    'eval': (dumps(Evil((eval, f"open('{marker}', 'w')"))), 'only globals'),
    'object array': (dumps(np.array([touch], object)), 'a dtype of numbers'),
    'no objects': (dumps(np.array([], object)), 'a dtype of numbers'),
    'structure': (dumps(np.zeros(2, [('a', 'f4')])), 'a dtype of numbers'),
    'text array': (dumps(np.array(['ab'])), 'a dtype of numbers'),
    'big-endian': (dumps(np.zeros(2, '>f4')), 'little-endian'),
    'no stop': (program(b'N')[:-1], 'pickle exhausted'),
    'empty': (b'', 'pickle exhausted'),
    'zip': (b'PK\x03\x04' + bytes(60), 'newline'),
  }
  bodies = {
    **{known: call(name(*known.split(' ')), SHELL) for known in GLOBALS},
    'extension': b'\x82\x01',
    'persistent id': b'Pmarker\n',
    'binary persistent id': text('marker') + b'Q',
    'INST': b'(' + SHELL + b'ios\nsystem\n',
    'OBJ': b'(' + SYSTEM + SHELL + b'o',
    'NEWOBJ_EX': b'\x80\x04' + NDARRAY + b')}\x92',
    'NEWOBJ of a function': ENCODE + sequence(SHELL) + b'\x81',
    'NEWOBJ of an array': NDARRAY + sequence(sequence(integer(9))) + b'\x81',
    'call of a result': call(ARRAY, SHELL),
    'call of a string': call(text('os.system'), SHELL),
    'call of ndarray': call(NDARRAY, sequence(integer(2**31 - 1))),
    'BUILD of a dict': b'}' + mapping({'__class__': SHELL}) + b'b',
    'BUILD of a function': ENCODE + mapping({'make': SHELL}) + b'b',
    'BUILD of a record': RECORD + mapping({'__class__': SHELL}) + b'b',
    'BUILD of a class': NAMED + sequence(b'N', mapping({'x': SHELL})) + b'b',
    'BUILD twice': ARRAY + STATE + b'b',
    'array by os.system': call(CREATE_ARRAY, SYSTEM, sequence(SHELL), STATE),
    'array by encode': call(CREATE_ARRAY, ENCODE, BLANK, STATE),
    'object dtype': dtype('O8', '|'),
    'another codec': call(ENCODE, text('x'), text('zlib_codec')),
    'large array': ARRAY.replace(integer(2), integer(2**31 - 1)),
    'negative shape': ARRAY.replace(integer(2), integer(-1)),
    'long text': b'X\xff\xff\xff\xffabc',
    'memo that is not set': b'h\x07',
    'memo of a mark': b'(q\x00',
    'memo of 32 GB': b'Nr\xff\xff\xff\x7f',
    'empty stack': b'R',
    'operands beyond a mark': b'}(' + text('a') + b's',
    'no mark': b'}u',
    # Hashing these would take exponential time, or overflow the C stack.
    'key of shared tuples': b'}N' + b'q\x00h\x00\x86' * 99 + b'Ns',
    'nested key': b'}(N' + b'\x85' * 200_000 + b'Nu',
    'key from the memo': b'}K\x01q\x00h\x00s',
    'keys of a list': b']' + text('a') + b'Ns',
    'copies': b'(' + text('x' * 99_999) + b'q\x00' + COPY * 99 + b't',
    'types': b'(' + TYPE * 101 + b't',
    'fields': dill_tuple('A', 'b', {'c': b''}),
    'many fields': dill_tuple(
      'A', 'b', dict.fromkeys(map(str, range(17)), b'N')
    ),
    'many arguments': call(CREATE_ARRAY, *[b'N'] * 17),
    'decimal': b'I' + b'9' * 10_000 + b'\n',
    'two values': b'NN',
    'truncated': b'(NN',
  }
  for kind, body in bodies.items():
    body = body.replace(text('MARKER'), text(str(marker)))
    files[kind] = (program(body), EXPECTED.get(kind, ''))
  return files


EXPECTED = {
  **{known: re.escape(f'found {known!r}') for known in GLOBALS},
  **{kind: f'found opcode {kind}' for kind in ('INST', 'OBJ', 'NEWOBJ_EX')},
  'extension': 'found opcode EXT1',
  'persistent id': 'found opcode PERSID',
  'binary persistent id': 'found opcode BINPERSID',
  'NEWOBJ of an array': 'NEWOBJ',
  'NEWOBJ of a function': 'NEWOBJ',
  **{f'call of {what}': 'not callable' for what in ('a string', 'ndarray')},
  'BUILD of a function': 'no state of a function',
  'BUILD of a record': 'no state of a named tuple',
  'BUILD twice': 'data once',
  'array by encode': 'an array of numpy',
  'large array': r'2 numbers, found \(2147483647,\)',
  'memo of a mark': 'a memo index in order',
  'memo of 32 GB': 'a memo index in order',
  'operands beyond a mark': 'operands of SETITEM',
  'key of shared tuples': 'strings as keys',
  'nested key': 'strings as keys',
  'key from the memo': 'strings as keys',
  'copies': 'fewer copies',
  'many fields': 'at most 16 fields',
  'many arguments': 'at most 16 arguments',
  'types': '100 named tuples',
}


@pytest.mark.parametrize('kind', hostile(''))
def test_a_hostile_file_is_refused_untouched(tmp_path, kind):
  marker = tmp_path / 'marker'
  content, message = hostile(marker)[kind]
  with pytest.raises(errors.DataError, match=f'refused.*{message}') as caught:
    load(tmp_path, content)
  assert not marker.exists()
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 500


def test_the_number_of_opcodes_is_limited(tmp_path, monkeypatch):
  monkeypatch.setattr(safe_pickle, 'MAX_OPCODES', 100)
  load(tmp_path, program(b'N' + b'\x85' * 97))
  with pytest.raises(errors.DataError, match='at most 100 opcodes'):
    load(tmp_path, program(b'N' + b'\x85' * 98))


@pytest.mark.parametrize('path', ['absent.pkl', '.', 'pipe', '/dev/zero'])
def test_a_file_that_cannot_be_read(tmp_path, path):
  os.mkfifo(tmp_path / 'pipe')
  expected = 'cannot be read|expected a regular file'
  with pytest.raises(errors.DataError, match=expected):
    deepmind.read_checkpoint(str(tmp_path / path))


def test_deep_nesting_is_read_and_described(tmp_path):
  """Neither the reader nor an error message recurses."""
  for nest in (b'N' + b'\x85' * 200_000, b'N' + b'q\x00h\x00\x86' * 2000):
    value = load(tmp_path, program(nest))
    assert deepmind.describe_value(value) == 'a tuple'
    assert list(deepmind.find_outermost_dicts(value)) == []


def test_reading_imports_nothing(tmp_path):
  code = """
import sys
from byol_jax import errors
from byol_jax.convert import safe_pickle
before = set(sys.modules)
for path in sys.argv[1:]:
  try:
    safe_pickle.load_pickle(path)
  except errors.DataError:
    pass
foreign = {'haiku', 'jax', 'optax', 'dill', 'byol', 'tensorflow'}
print(sorted(set(sys.modules) - before), sorted(foreign & set(sys.modules)))
"""
  paths = [str(ROOT / 'tests' / 'conformance' / 'official_tiny.pkl')]
  for i, (content, _) in enumerate(hostile(tmp_path / 'marker').values()):
    path = tmp_path / f'{i}.pkl'
    path.write_bytes(content)
    paths.append(str(path))
  done = subprocess.run(
    [sys.executable, '-c', code, *paths],
    capture_output=True,
    text=True,
    check=True,
    cwd=ROOT,
  )
  assert done.stdout.strip() == '[] []'
  assert not (tmp_path / 'marker').exists()
