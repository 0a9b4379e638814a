"""What a pickled checkpoint's functions and classes become here: inert parts.

`CALLS` holds every function that the official files call, each with a builder
of ours that checks its arguments and never calls anything they name. Arrays
hold numbers or bools only and must match the bytes that are present.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
import re
from typing import Any

import numpy as np

# Floats of 2, 4, 8 bytes, integers, bools. Nothing that holds objects.
DTYPE = re.compile(r'f[248]|[iu][1248]|b1')
# Named tuples of the reference and of its optimiser library.
RECORD = re.compile(r'(byol|optax|deepmind_research)(\.\w+)* \w*State')
# The reference's largest named tuple has five fields.
MAX_FIELDS = 100


class Refused(ValueError):
  """The file asks for something that its format does not contain."""


def need(condition: bool, expected: str) -> None:
  """Refuses the file unless `condition` holds."""
  if not condition:
    raise Refused(f'expected {expected}')


@dataclasses.dataclass(frozen=True, slots=True)
class Global:
  """The name of a function or class that the format contains; inert."""

  name: str


@dataclasses.dataclass(slots=True)
class Array:
  """An array or numpy scalar; `value` is None until its data has come."""

  value: np.ndarray | None = None


@dataclasses.dataclass(slots=True)
class DType:
  """A numeric type such as 'f4' and its byte order."""

  code: str
  order: str = '='


@dataclasses.dataclass(frozen=True, slots=True)
class RecordType:
  """A named tuple's class: its name and, when the file tells, its fields."""

  name: str
  fields: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
  """A named tuple: (field, value) pairs; unnamed fields are '0', '1', …"""

  name: str
  items: tuple[tuple[str, Any], ...]


@dataclasses.dataclass(slots=True)
class Budget:
  """Bytes that may still be copied."""

  left: int

  def spend(self, count: int) -> None:
    """Takes `count` bytes, or refuses."""
    self.left -= count
    need(self.left >= 0, 'fewer copies of the same data')


Args = tuple[Any, ...]


def find(name: str) -> Global | RecordType:
  """A label for 'module name', if the format contains it."""
  if name in CALLS or name == NDARRAY:
    return Global(name)
  if RECORD.fullmatch(name):
    return RecordType(name.split(' ')[1], None)
  dotted = name.replace(' ', '.')
  raise Refused(f'global {dotted!r} is not part of the format')


def call(budget: Budget, function: Any, args: Any) -> Any:
  """What the format's function makes of the arguments."""
  need(type(args) is tuple, 'a tuple of arguments')
  if isinstance(function, RecordType):
    return make_record(function, args)
  known = isinstance(function, Global) and function.name in CALLS
  need(known, 'a call of a function of the format')
  return CALLS[function.name](budget, args)


def build(budget: Budget, target: Any, state: Any) -> None:
  """Gives an array its data, or a dtype its byte order; nothing else."""
  if isinstance(target, DType):
    target.order = byte_order(state)
    return
  need(isinstance(target, Array), 'a state of an array or a dtype only')
  need(target.value is None, 'an array to get its data once')
  target.value = make_array(budget, state)


def make_array(budget: Budget, state: Any) -> np.ndarray:
  """(version, shape, dtype, Fortran order, bytes) -> a read-only array."""
  need(type(state) is tuple and len(state) == 5, "an array's five items")
  _, shape, dtype, fortran, data = state
  need(type(shape) is tuple and len(shape) <= 32, 'a shape')
  need(all(type(n) is int and n >= 0 for n in shape), 'a shape of integers')
  need(isinstance(dtype, DType), 'a dtype of numbers')
  need(type(data) is bytes, "an array's bytes")
  stored = np.dtype(dtype.code).newbyteorder(dtype.order)
  size = math.prod(shape) * stored.itemsize
  need(size == len(data), f'{size} bytes for shape {shape}, not {len(data)}')
  flat = np.frombuffer(data, np.uint8 if dtype.code == 'b1' else stored)
  native = np.dtype(dtype.code)
  if flat.dtype != native:
    budget.spend(size)
    flat = flat.astype(native)
    flat.flags.writeable = False
  return flat.reshape(shape, order='F' if fortran is True else 'C')


def byte_order(state: Any) -> str:
  """The second item of a dtype's state; the rest says 'a plain number'."""
  need(type(state) is tuple and 5 <= len(state) <= 9, "a dtype's state")
  order, *structure = state[1:5]
  need(type(order) is str and order in '<>=|', 'a byte order')
  need(all(part is None for part in structure), 'a dtype without fields')
  return order


def make_record(kind: RecordType, values: Args) -> Record:
  """A named tuple as pairs."""
  need(len(values) <= MAX_FIELDS, f'at most {MAX_FIELDS} fields')
  fields = kind.fields
  if fields is None:
    fields = tuple(str(i) for i in range(len(values)))
  need(len(fields) == len(values), f'{len(fields)} fields in {kind.name!r}')
  return Record(kind.name, tuple(zip(fields, values, strict=True)))


def encode(budget: Budget, args: Args) -> bytes:
  """Protocol 2 writes bytes as text."""
  need(len(args) == 2 and type(args[0]) is str, 'text to encode')
  need(type(args[1]) is str and args[1] in ('latin1', 'latin-1'), 'latin1')
  budget.spend(len(args[0]))
  return args[0].encode('latin1')


def no_bytes(budget: Budget, args: Args) -> bytes:
  """Protocol 2 writes empty bytes as a call without arguments."""
  del budget
  need(len(args) == 0, 'no arguments')
  return b''


def make_dtype(budget: Budget, args: Args) -> DType:
  """('f4', align, copy)."""
  del budget
  code = args[0] if args else None
  if type(code) is not str or not DTYPE.fullmatch(code):
    raise Refused('expected a dtype of numbers or bools')
  return DType(code)


def blank_array(budget: Budget, args: Args) -> Array:
  """(ndarray, (0,), b'b'): the data comes with BUILD."""
  del budget
  plain = len(args) == 3 and args[0] == Global(NDARRAY)
  need(plain, 'a plain numpy array')
  return Array()


def make_scalar(budget: Budget, args: Args) -> Array:
  """(dtype, bytes)."""
  need(len(args) == 2, 'a dtype and bytes')
  return Array(make_array(budget, (1, (), args[0], False, args[1])))


def whole_array(budget: Budget, args: Args) -> Array:
  """(function, its arguments, state, attributes): dill's and JAX's arrays."""
  need(len(args) in (3, 4), 'an array in three or four parts')
  function, arguments, state = args[:3]
  plain = isinstance(function, Global) and CALLS.get(function.name)
  need(plain is blank_array, 'an array made by numpy')
  need(type(arguments) is tuple, 'a tuple of arguments')
  array = blank_array(budget, arguments)
  array.value = make_array(budget, state)
  return array


def make_record_type(budget: Budget, args: Args) -> RecordType:
  """(name, fields, module, defaults): dill's named tuples."""
  del budget
  need(len(args) in (3, 4), "a named tuple's name, fields and module")
  name, fields = args[:2]
  need(type(name) is str and type(fields) is tuple, 'a name and fields')
  need(len(fields) <= MAX_FIELDS, f'at most {MAX_FIELDS} fields')
  need(all(type(field) is str for field in fields), 'names of fields')
  return RecordType(name, fields)


def same_dict(budget: Budget, args: Args) -> dict:
  """Haiku's immutable mappings, called with a plain dict."""
  del budget
  need(len(args) == 1 and type(args[0]) is dict, 'a mapping of a dict')
  return args[0]  # not a copy: a file may ask for it often


NDARRAY = 'numpy ndarray'
HAIKU = 'haiku._src.data_structures'
CALLS: Mapping[str, Callable[[Budget, Args], Any]] = {
  '_codecs encode': encode,
  '__builtin__ bytes': no_bytes,
  'numpy dtype': make_dtype,
  'numpy.core.multiarray _reconstruct': blank_array,
  'numpy._core.multiarray _reconstruct': blank_array,
  'numpy.core.multiarray scalar': make_scalar,
  'numpy._core.multiarray scalar': make_scalar,
  'dill.dill _create_array': whole_array,
  'dill._dill _create_array': whole_array,
  'dill.dill _create_namedtuple': make_record_type,
  'dill._dill _create_namedtuple': make_record_type,
  # JAX arrays: May 2022 to early 2023, and since. Before, they were numpy's.
  'jax._src.device_array reconstruct_device_array': whole_array,
  'jax._src.array _reconstruct_array': whole_array,
  # Until July 2020; since August 2020; the present name.
  f'{HAIKU} frozendict': same_dict,
  f'{HAIKU} FlatMapping': same_dict,
  f'{HAIKU} FlatMap': same_dict,
}
