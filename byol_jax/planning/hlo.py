"""Reads collectives out of a compiled program's text (HLO).

An instruction is `%name = SHAPE opcode(operands), attributes`; a shape is
`f32[8,128]{1,0:T(8,128)}` or a tuple of such, with layouts and comments.
"""

import math
import re

from byol_jax.planning import cost

# An asynchronous one is counted where it starts.
_KINDS = (
  'all-reduce',
  'all-gather',
  'all-to-all',
  'ragged-all-to-all',
  'collective-broadcast',
  'collective-permute',
  'reduce-scatter',
)
# No name and no string before the opcode: not an operand, not metadata.
_INSTRUCTION = re.compile(
  r'^\s*(?:ROOT )?%?[\w.\-]+ = (\([^%"]*?\)|\S+) '
  rf'({"|".join(_KINDS)})(-start)?\('
)
_ARRAY = re.compile(r'\b(pred|token|[a-z]+(\d+)\w*)\[([\d,]*)\]')


def collectives(text: str) -> dict[str, cost.Collective]:
  """Kind -> how many a program holds, and the bytes of their results.

  What stands in a loop is counted once.

  Args:
    text: of a compiled program, all its computations.
  """
  found: dict[str, cost.Collective] = {}
  for line in text.splitlines():
    match = _INSTRUCTION.match(line)
    if not match:
      continue
    shape, kind, start = match.groups()
    size = _result_bytes(shape, kind, bool(start))
    before = found.get(kind, cost.Collective(0, 0))
    found[kind] = cost.Collective(before.operations + 1, before.bytes + size)
  return found


def _result_bytes(shape: str, kind: str, is_start: bool) -> int:
  sizes = [
    math.prod(map(int, filter(None, dims.split(',')))) * int(bits or 8) // 8
    for name, bits, dims in _ARRAY.findall(shape)
    if name != 'token'
  ]
  # A start also holds its operands, before the results; a permute counters.
  if is_start and kind == 'collective-permute':
    return sizes[1]
  if is_start and kind != 'all-reduce':
    return sum(sizes[len(sizes) // 2 :])
  return sum(sizes)
