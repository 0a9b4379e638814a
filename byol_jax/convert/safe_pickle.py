"""Reads pickles of the official checkpoints without running anything.

A pickle is a program. This interpreter knows the opcodes, functions and classes
that the reference's files use (dill, protocol 2) and refuses every other one by
name. What a file calls a function or a class is a label here: nothing is
imported, no attribute is looked up or set, no foreign object is made. Out come
None, bools, numbers, strings, bytes, tuples, lists, dicts and `stand_ins`.

Memory stays within a constant of the file's size: copies draw on a budget, and
what the file repeats by reference stays a reference.
"""

from collections.abc import Callable, Mapping
import mmap
import pickletools
from typing import Any

from byol_jax import errors
from byol_jax.convert import stand_ins
from byol_jax.convert.stand_ins import need

# Bytes that a file may have copied, in multiples of its size. One of the
# reference's needs one multiple: text to bytes.
MAX_COPIES = 4


def load(path: str) -> Any:
  """The value in a pickle file.

  Raises:
    DataError: the file is missing, damaged, or holds an opcode, function or
      class outside the format; nothing of it was executed.
  """
  try:
    with (
      open(path, 'rb') as file,
      # As memory: lengths that lie end with the file, nothing is allocated.
      mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
      return Machine(MAX_COPIES * len(content)).run(content)
  except OSError as error:
    raise errors.DataError(
      f'{path}: cannot be read: {error.strerror}'
    ) from error
  except (ValueError, OverflowError) as error:
    raise errors.DataError(
      f'{path}: refused, nothing of it was executed: {error}'
    ) from error


class Machine:
  """A stack, a memo, and a budget of bytes that may be copied."""

  def __init__(self, budget: int):
    self.stack: list[Any] = []
    self.marks: list[int] = []
    self.memo: dict[int, Any] = {}
    self.budget = stand_ins.Budget(budget)

  def run(self, content: Any) -> Any:
    """Follows the opcodes up to STOP."""
    for opcode, argument, position in pickletools.genops(content):
      if opcode.name not in OPCODES:
        raise stand_ins.Refused(
          f'opcode {opcode.name} at byte {position} is not part of the'
          ' format (pickle protocol 2, written by dill)'
        )
      try:
        OPCODES[opcode.name](self, argument)
      except stand_ins.Refused as error:
        raise stand_ins.Refused(f'{error} (byte {position})') from None
    need(len(self.stack) == 1 and not self.marks, 'one value at the end')
    return self.stack[0]

  def push(self, value: Any) -> None:
    self.stack.append(value)

  def pop(self) -> Any:
    floor = self.marks[-1] if self.marks else 0
    need(len(self.stack) > floor, 'a value on the stack')
    return self.stack.pop()

  def pop_many(self, count: int) -> tuple[Any, ...]:
    return tuple(self.pop() for _ in range(count))[::-1]

  def mark(self, _: None) -> None:
    self.marks.append(len(self.stack))

  def pop_mark(self) -> tuple[Any, ...]:
    need(bool(self.marks), 'a mark on the stack')
    start = self.marks.pop()
    items = tuple(self.stack[start:])
    del self.stack[start:]
    return items

  def top(self, kind: type) -> Any:
    value = self.pop()
    need(isinstance(value, kind), f'a {kind.__name__} on the stack')
    self.push(value)
    return value

  def get(self, index: int) -> None:
    need(index in self.memo, f'memo {index} to be set before it is used')
    self.push(self.memo[index])

  def put(self, index: int) -> None:
    self.memo[index] = self.top(object)

  def set_items(self, items: tuple[Any, ...]) -> None:
    target = self.top(dict)
    need(len(items) % 2 == 0, 'keys with values')
    for key, value in zip(items[::2], items[1::2], strict=True):
      # Only text: hashing what a file nests or makes collide takes for ever.
      need(type(key) is str, 'strings as keys')
      target[key] = value

  def append(self, items: tuple[Any, ...]) -> None:
    self.top(list).extend(items)

  def find(self, name: str) -> None:
    self.push(stand_ins.find(name))

  def call(self, _: None) -> None:
    function, args = self.pop_many(2)
    self.push(stand_ins.call(self.budget, function, args))

  def new(self, _: None) -> None:
    kind, values = self.pop_many(2)
    need(isinstance(kind, stand_ins.RecordType), 'a named tuple to be made')
    self.push(stand_ins.call(self.budget, kind, values))

  def build(self, _: None) -> None:
    state = self.pop()
    stand_ins.build(self.budget, self.top(object), state)

  def check_protocol(self, protocol: int) -> None:
    need(protocol <= 2, f'pickle protocol 2, not {protocol}')

  def stop(self, _: None) -> None:
    pass


PUSHED = ('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'BINUNICODE')
OPCODES: Mapping[str, Callable[[Machine, Any], None]] = {
  'PROTO': Machine.check_protocol,
  'STOP': Machine.stop,
  'MARK': Machine.mark,
  **dict.fromkeys(PUSHED, Machine.push),
  'NONE': lambda machine, _: machine.push(None),
  'NEWTRUE': lambda machine, _: machine.push(True),
  'NEWFALSE': lambda machine, _: machine.push(False),
  'EMPTY_TUPLE': lambda machine, _: machine.push(()),
  'EMPTY_LIST': lambda machine, _: machine.push([]),
  'EMPTY_DICT': lambda machine, _: machine.push({}),
  'TUPLE': lambda machine, _: machine.push(machine.pop_mark()),
  'TUPLE1': lambda machine, _: machine.push(machine.pop_many(1)),
  'TUPLE2': lambda machine, _: machine.push(machine.pop_many(2)),
  'TUPLE3': lambda machine, _: machine.push(machine.pop_many(3)),
  'BINGET': Machine.get,
  'LONG_BINGET': Machine.get,
  'BINPUT': Machine.put,
  'LONG_BINPUT': Machine.put,
  'SETITEM': lambda machine, _: machine.set_items(machine.pop_many(2)),
  'SETITEMS': lambda machine, _: machine.set_items(machine.pop_mark()),
  'APPEND': lambda machine, _: machine.append(machine.pop_many(1)),
  'APPENDS': lambda machine, _: machine.append(machine.pop_mark()),
  'GLOBAL': Machine.find,
  'REDUCE': Machine.call,
  'NEWOBJ': Machine.new,
  'BUILD': Machine.build,
}
