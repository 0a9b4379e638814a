"""Reads pickles of the official checkpoints; runs nothing that they name.

A pickle is a program. A first pass refuses opcodes outside the format (protocol
2, written by dill), programs that are too long, keys that are not strings and
memo indices that would allocate memory. The second pass is `pickle.Unpickler`
with an allow-list: every function and class that a file may name becomes an
object of this module, which checks its arguments and calls nothing. The result
is None, bools, numbers, strings, bytes, tuples, lists, dicts, `Array`s and
`Record`s; time and memory stay within a constant of the file's size, also where
values refer to one another many times.
"""

from collections.abc import Callable, Mapping
import dataclasses
import io
import math
import pickle
import pickletools
import re
from typing import Any

import numpy as np

from byol_jax import errors, files

# ResNet-200 2x has 4,500 arrays of 40 opcodes.
MAX_OPCODES = 2_000_000
# Bytes that a file may have copied, in multiples of its size. An official file
# needs one: protocol 2 writes bytes as text.
MAX_COPIES = 4
MAX_RECORD_TYPES = 100  # an official file has four
# Of one call, and fields of one named tuple: each copies them, and a file may
# refer to one tuple of arguments any number of times. An official file has six.
MAX_ARGUMENTS = 16
OPCODES = {
  *('PROTO', 'STOP', 'MARK', 'NONE', 'NEWTRUE', 'NEWFALSE', 'BINFLOAT'),
  *('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINUNICODE'),
  *('EMPTY_TUPLE', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3'),
  *('EMPTY_LIST', 'APPEND', 'APPENDS', 'EMPTY_DICT', 'SETITEM', 'SETITEMS'),
  *('BINGET', 'LONG_BINGET', 'BINPUT', 'LONG_BINPUT'),
  *('GLOBAL', 'REDUCE', 'NEWOBJ', 'BUILD'),
}
# Little-endian floats of 2, 4, 8 bytes and integers. Nothing holds objects.
DTYPE = re.compile(r'f[248]|[iu][1248]')
# Named tuples of the official code and of its optimizer library, by name.
RECORD = re.compile(r'(byol|optax|deepmind_research)(\.\w+)* \w*State')


def load_pickle(path: str) -> Any:
  """Returns the value in a pickle file.

  Raises:
    DataError: the file is missing, no regular file, damaged, or holds an
      opcode, function or class outside the format; nothing of it was executed.
  """
  content = files.read_file(path)
  try:
    check_opcodes(content)
    return _Unpickler(content).load()
  except Exception as error:  # a hostile file can cause any
    raise errors.DataError(
      f'{errors.quote(path)}: refused, nothing of it was executed:'
      f' {errors.first_line(error)}'
    ) from error


def require(condition: bool, expected: str) -> None:
  """Raises UnpicklingError unless `condition` holds."""
  if not condition:
    raise pickle.UnpicklingError(f'expected {expected}')


def check_opcodes(content: bytes) -> None:
  """Follows a pickle with the types on its stack in place of the values.

  The keys of dicts must be strings: hashing a nested tuple takes exponential
  time or overflows the C stack, and integers can be made to collide.

  Raises:
    UnpicklingError: an opcode is outside the format, or its operands are.
    ValueError: an operand is damaged or the end is missing.
  """
  stack: list[Any] = []
  marks: list[int] = []
  memo: dict[Any, Any] = {}
  operations: Any = pickletools.genops(content)
  for count, (opcode, argument, _) in enumerate(operations):
    name = opcode.name
    require(name in OPCODES, f'pickle protocol 2 of dill, found opcode {name}')
    require(count < MAX_OPCODES, f'at most {MAX_OPCODES:,} opcodes')
    before, after = opcode.stack_before, opcode.stack_after
    start = len(stack) - len(before)
    if pickletools.markobject in before:
      require(bool(marks), f'a mark before {name}')
      start = marks.pop() - before.index(pickletools.markobject)
    floor = marks[-1] + 1 if marks else 0
    require(start >= floor, f'operands of {name}')
    operands = stack[start:]
    del stack[start:]
    if name == 'MARK':
      marks.append(start)
    elif name.startswith('SETITEM'):
      keys = set(operands[1:2] if name == 'SETITEM' else operands[2::2])
      require(keys <= {pickletools.pyunicode}, 'strings as keys')
    elif name.endswith('PUT'):
      require(start > floor and argument <= count, 'a memo index in order')
      memo[argument] = stack[-1]
    elif name.endswith('GET'):
      require(argument in memo, 'a memo index that is set')
      after = [memo[argument]]
    stack += after
  require(not stack, 'one value at the end')


@dataclasses.dataclass(slots=True, eq=False)
class Array:
  """An array or numpy scalar; `value` is None until its data has come."""

  value: np.ndarray | None = None

  def __setstate__(self, state: Any) -> None:
    require(self.value is None, 'an array to get its data once')
    self.value = _read_array(state)


class Record(tuple):
  """A named tuple; `fields` is None if the file only names its class."""

  __slots__ = ()
  fields: tuple[str, ...] | None = None

  def __new__(cls, *values: Any) -> 'Record':
    count = len(values) if cls.fields is None else len(cls.fields)
    require(len(values) == count, f'{count} fields, found {len(values)}')
    require(count <= MAX_ARGUMENTS, f'at most {MAX_ARGUMENTS} fields')
    return super().__new__(cls, values)

  def __setstate__(self, state: Any) -> None:
    require(False, 'no state of a named tuple')


@dataclasses.dataclass(slots=True, eq=False)
class _DType:
  """A numeric type such as 'f4'; BUILD gives its byte order."""

  code: str

  def __setstate__(self, state: Any) -> None:
    require(type(state) is tuple and len(state) >= 5, "a dtype's state")
    order, *structure = state[1:5]
    require(order in ('<', '=', '|'), 'little-endian numbers')
    require(structure == [None] * 3, 'a dtype without fields')


@dataclasses.dataclass(slots=True, eq=False)
class _Function:
  """What a function's name becomes: checks arguments, runs nothing of them."""

  make: Callable[..., Any]

  def __call__(self, *args: Any) -> Any:
    require(len(args) <= MAX_ARGUMENTS, f'at most {MAX_ARGUMENTS} arguments')
    return self.make(*args)

  def __setstate__(self, state: Any) -> None:
    require(False, 'no state of a function')


class _Unpickler(pickle.Unpickler):
  """Looks every global up in the allow-list; counts copies and types."""

  def __init__(self, content: bytes) -> None:
    super().__init__(io.BytesIO(content))
    self._copies_left = MAX_COPIES * len(content)
    self._record_types_left = MAX_RECORD_TYPES

  def find_class(self, module: str, name: str) -> Any:
    full = f'{module} {name}'
    if full == 'numpy ndarray':
      return None  # only an argument of functions that make arrays
    if RECORD.fullmatch(full):
      return Record
    if full == '_codecs encode':
      return _Function(self._encode)
    if re.fullmatch(r'dill\._?dill _create_namedtuple', full):
      return _Function(self._make_record_type)
    require(
      full in FUNCTIONS, f'only globals of the format, found {full[:99]!r}'
    )
    return _Function(FUNCTIONS[full])

  def _encode(self, text: str, codec: str) -> bytes:
    """Protocol 2 writes bytes as text."""
    require(type(text) is str and codec in ('latin1', 'latin-1'), 'latin1 text')
    self._copies_left -= len(text)
    require(self._copies_left >= 0, 'fewer copies of the same data')
    return text.encode('latin1')

  def _make_record_type(
    self, name: str, fields: tuple[str, ...], *module_and_defaults: Any
  ) -> type[Record]:
    """dill writes the fields of named tuples."""
    require(type(fields) is tuple, 'fields of a named tuple')
    require(all(type(field) is str for field in fields), 'names of fields')
    self._record_types_left -= 1
    require(self._record_types_left >= 0, f'{MAX_RECORD_TYPES} named tuples')
    return type('Record', (Record,), {'__slots__': (), 'fields': fields})


def _read_array(state: Any) -> np.ndarray:
  """(version, shape, dtype, Fortran order, bytes) -> a read-only array."""
  require(type(state) is tuple and len(state) == 5, "an array's five items")
  _, shape, dtype, fortran, data = state
  require(type(shape) is tuple and len(shape) <= 32, 'a shape')
  require(all(type(n) is int and n >= 0 for n in shape), 'a shape of integers')
  require(type(dtype) is _DType and type(data) is bytes, 'numbers as bytes')
  flat = np.frombuffer(data, f'<{dtype.code}')
  require(math.prod(shape) == flat.size, f'{flat.size} numbers, found {shape}')
  return flat.reshape(shape, order='F' if fortran is True else 'C')


def _make_dtype(code: str, *align_and_copy: Any) -> _DType:
  require(
    type(code) is str and bool(DTYPE.fullmatch(code)), 'a dtype of numbers'
  )
  return _DType(code)


def _make_array(*kind_shape_and_code: Any) -> Array:
  """(ndarray, (0,), b'b'): the data comes with BUILD."""
  return Array()


def _make_scalar(dtype: Any, data: Any) -> Array:
  return Array(_read_array((1, (), dtype, False, data)))


def _make_whole_array(
  function: Any, args: Any, state: Any, *attributes: Any
) -> Array:
  require(getattr(function, 'make', None) is _make_array, 'an array of numpy')
  return Array(_read_array(state))


def _return_dict(mapping: Any) -> dict:
  require(type(mapping) is dict, 'a mapping of a dict')
  return mapping  # not a copy: a file may call often


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
  '__builtin__ bytes': lambda: b'',  # empty bytes in protocol 2
  'numpy dtype': _make_dtype,
  'numpy.core.multiarray _reconstruct': _make_array,
  'numpy._core.multiarray _reconstruct': _make_array,
  'numpy.core.multiarray scalar': _make_scalar,
  'numpy._core.multiarray scalar': _make_scalar,
  'dill.dill _create_array': _make_whole_array,
  'dill._dill _create_array': _make_whole_array,
  # JAX arrays: May 2022 to early 2023, and since. Before, they were numpy's.
  'jax._src.device_array reconstruct_device_array': _make_whole_array,
  'jax._src.array _reconstruct_array': _make_whole_array,
  # Haiku's mappings: until July 2020; since August 2020; the present name.
  **{
    f'haiku._src.data_structures {name}': _return_dict
    for name in ('frozendict', 'FlatMapping', 'FlatMap')
  },
}
