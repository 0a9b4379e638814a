"""Computes memory, time and rates from the cost of a compiled step.

Plain arithmetic without JAX. Every number is of one device unless it says
otherwise: a core of v3, a chip of later generations.
"""

from collections.abc import Sequence
import math
import re
from typing import NamedTuple

from byol_jax.planning import topologies

OPTIMUM = "the compiler's optimum"
ROOFLINE = 'the roofline of FLOPs and bytes'

# `%name = SHAPE opcode(operands), attributes`. Neither a name nor a string
# comes before the opcode: it is not an operand, and not metadata. Of an
# asynchronous operation only the end, `-done`, has the shape of the result.
_INSTRUCTION = re.compile(
  r'(?m)^\s*(?:ROOT )?%?[\w.\-]+ = (\([^%"]*?\)|\S+) '
  r'(all-reduce|all-gather|(?:ragged-)?all-to-all|reduce-scatter|'
  r'collective-broadcast|collective-permute)(?:-done)?\('
)
# The same of any operation, with its name and its operands.
_OPERATION = re.compile(
  r'(?m)^\s*(?:ROOT )?%?([\w.\-]+) = (\([^%"]*?\)|\S+) ([\w\-]+)\(([^)]*)'
)
_ENTRY = re.compile(r'(?ms)^ENTRY .*?^\}')
_MOVE_NOTHING = {
  'parameter',
  'constant',
  'tuple',
  'get-tuple-element',
  'bitcast',
}
# `f32[8,128]{1,0:T(8,128)}`; a tuple holds several, with comments.
_ARRAY = re.compile(r'\b(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]')


class Collective(NamedTuple):
  """All operations of one kind; bytes are those of their results."""

  operations: int
  bytes: int


class Cost(NamedTuple):
  """What the compiler reports of one step."""

  flops: float
  bytes_accessed: float
  optimal_seconds: float  # may be implausible, or 0
  argument_bytes: int  # state and batch
  output_bytes: int  # state and scalars
  temp_bytes: int
  alias_bytes: int  # of the outputs, written over donated arguments
  code_bytes: int
  # Of all operations, one after another. They price the vector unit and a
  # matrix unit that is not full, which the optimum does not, but no collective.
  estimated_cycles: int
  collectives: dict[str, Collective]

  @property
  def memory_bytes(self) -> int:
    """Memory that the step takes, its donated state counted once."""
    live = self.argument_bytes + self.output_bytes - self.alias_bytes
    return live + self.temp_bytes + self.code_bytes

  def repeat(self, times: int) -> 'Cost':
    """Returns the cost of a step whose loop runs its body `times` times.

    The compiler counts the body of a loop once. The optimizer, outside of it,
    is counted too often: about a hundredth of a sub-batch of 64 images.
    """
    names = ('flops', 'bytes_accessed', 'optimal_seconds', 'estimated_cycles')
    return self._replace(
      **{name: times * getattr(self, name) for name in names}
    )


def count_collectives(text: str) -> dict[str, Collective]:
  """Counts the collectives in a compiled program's text (HLO), by kind.

  An operation in a loop counts once.
  """
  found: dict[str, Collective] = {}
  for shape, kind in _INSTRUCTION.findall(text):
    before = found.get(kind, Collective(0, 0))
    found[kind] = Collective(
      before.operations + 1, before.bytes + _count_bytes(shape)
    )
  return found


def sum_bytes_accessed(text: str) -> int:
  """Sums the bytes that operations read and write, of a program's text (HLO).

  For compilers that do not report them, as that for GPUs: all operands and
  results, whole, of the outermost operations; a loop counts as one.
  """
  entry = _ENTRY.search(text)
  sizes: dict[str, int] = {}
  total = 0
  for name, shape, kind, operands in _OPERATION.findall(
    entry.group() if entry else ''
  ):
    sizes[name] = _count_bytes(shape)
    if kind not in _MOVE_NOTHING:
      names = re.findall(r'%([\w.\-]+)', operands)
      total += sizes[name] + sum(sizes.get(name, 0) for name in names)
  return total


def _count_bytes(shape: str) -> int:
  """Returns the bytes of an array, or of those of a tuple."""
  return sum(
    math.prod(int(n) for n in dims.split(',') if n) * int(bits or 8) // 8
    for bits, dims in _ARRAY.findall(shape)
  )


def count_unpriced_calls(text: str) -> int:
  """Counts the operations in a compiled program's text (HLO) that cost -1 s.

  From TPU v4 on the compiler joins arrays by calls whose time it does not know,
  and adds -1 s for each to the optimum: a step with five had -4.996 s.
  """
  return text.count('custom_call_target="ConcatBitcast"')


def sum_estimated_cycles(text: str) -> int:
  """Returns the cycles that a compiled program's text (HLO) states; 0: none."""
  return sum(int(n) for n in re.findall(r'"estimated_cycles":"(\d+)"', text))


def estimate_largest_batch(
  points: Sequence[tuple[int, int]],
  devices: int,
  room: int,
  accumulate: int = 1,
) -> int | None:
  """Estimates the images of all devices that fit `room` bytes of each.

  Args:
    points: (images, bytes) of one device, of one or two compilations; a line
      goes through two. One point means that no other was found to fit.
    devices: that the result is a multiple of.
    room: bytes of a device that a program may use.
    accumulate: sub-batches, whose number divides the images of a device.

  Returns:
    The global batch, 0 if not even the state fits; None where memory does not
    grow with the images.
  """
  (few, less), (many, more) = min(points), max(points)
  if few == many:
    return few * devices
  slope = (more - less) / (many - few)
  if slope <= 0:
    return None
  images = max(math.floor(few + (room - less) / slope), 0)
  return (images - images % accumulate) * devices


def compute_roofline(cost: Cost, topology: topologies.Topology) -> float:
  """Returns the seconds of a step bound by arithmetic or by memory alone."""
  arithmetic = cost.flops / topology.peak_flops
  return max(arithmetic, cost.bytes_accessed / topology.hbm_bandwidth)


def estimate_step_seconds(
  cost: Cost, topology: topologies.Topology
) -> tuple[float, str]:
  """Returns the shortest time of a step, and where the number comes from.

  That is the compiler's optimum, or the roofline where the optimum is below
  half or above ten times of it.
  """
  bound = compute_roofline(cost, topology)
  if 0.5 * bound <= cost.optimal_seconds <= 10 * bound:
    return cost.optimal_seconds, OPTIMUM
  return bound, ROOFLINE


def compute_pace(
  seconds: float, batch_size: int, steps: int, topology: topologies.Topology
) -> dict[str, float]:
  """Returns what steps of `seconds` mean for a run of `steps` of them.

  The images a second are those of all devices, and those that each host must
  feed.
  """
  hours = seconds * steps / 3600
  return {
    'step_seconds': seconds,
    'images_per_second': batch_size / seconds,
    'host_images_per_second': batch_size / seconds / topology.hosts,
    'hours': hours,
    'device_hours': hours * topology.devices,
  }
