"""What a plan concludes from a compiled step: memory, time, rates.

Plain arithmetic; no JAX. Everything is of one device unless it says otherwise.
A device is a core of v3, a chip of later generations.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

from byol_jax.planning import topologies

# The compiler's own time is believed within these factors of the roofline.
_BELIEVED = (0.5, 10.0)
OPTIMUM = "the compiler's optimum"
ROOFLINE = 'the roofline of FLOPs and bytes'


def counted(number: int, word: str) -> str:
  """'1 host', '64 hosts'."""
  return f'{number:,} {word}' + 's' * (number != 1)


class Collective(NamedTuple):
  """All operations of one kind; bytes are those of their results."""

  operations: int
  bytes: int


class Cost(NamedTuple):
  """What the compiler says of one step, on one device."""

  flops: float
  bytes_accessed: float
  optimal_seconds: float  # may be negative or absurd
  argument_bytes: int  # state and batch
  output_bytes: int  # state and scalars
  temp_bytes: int
  alias_bytes: int  # of the outputs, written over donated arguments
  code_bytes: int
  collectives: dict[str, Collective]


def memory(cost: Cost) -> int:
  """Bytes of memory that a step takes, its donated state counted once."""
  live = cost.argument_bytes + cost.output_bytes - cost.alias_bytes
  return live + cost.temp_bytes + cost.code_bytes


class Line(NamedTuple):
  """Bytes of memory = fixed + per_image * images, on one device."""

  fixed: float
  per_image: float


def line(points: Sequence[tuple[int, int]]) -> Line:
  """Through two (images, bytes)."""
  (few, less), (many, more) = points
  slope = (more - less) / (many - few)
  return Line(less - slope * few, slope)


def second_point(images: int, cost: Cost, room: int) -> int:
  """Images of a second compilation, for a line that must reach to `room`.

  Half of what would fit if temporaries grew with the images: small batches lie
  in larger tiles, so a line through two of them would be too flat or too steep.
  """
  fixed = memory(cost) - cost.temp_bytes
  guess = images * (room - fixed) / max(cost.temp_bytes, 1)
  return max(2 * images, math.floor(guess / 2))


def largest_batch(through: Line, devices: int, room: int) -> int | None:
  """Images of all devices that a line says fit `room` bytes of each.

  A multiple of `devices`; None where memory does not grow with the images.
  """
  if through.per_image <= 0:
    return None
  images = math.floor((room - through.fixed) / through.per_image)
  return max(images, 0) * devices


def roofline(cost: Cost, topology: topologies.Topology) -> float:
  """Seconds of a step that only waits for arithmetic, or only for memory."""
  arithmetic = cost.flops / topology.peak_flops
  return max(arithmetic, cost.bytes_accessed / topology.hbm_bandwidth)


def step_seconds(
  cost: Cost, topology: topologies.Topology
) -> tuple[float, str]:
  """The shortest time of a step, and where the number comes from.

  The compiler's optimum, or the roofline where that is not to be believed: it
  is not positive, or far from the roofline on either side.
  """
  bound = roofline(cost, topology)
  low, high = _BELIEVED
  if low * bound <= cost.optimal_seconds <= high * bound:
    return cost.optimal_seconds, OPTIMUM
  return bound, ROOFLINE


class Pace(NamedTuple):
  """What a time of a step means for a run."""

  step_seconds: float
  images_per_second: float  # of all devices
  host_images_per_second: float  # that each host must feed
  hours: float
  device_hours: float


def pace(
  seconds: float, batch_size: int, steps: int, topology: topologies.Topology
) -> Pace:
  """Rates and hours of `steps` steps of `seconds` each."""
  hours = seconds * steps / 3600
  return Pace(
    step_seconds=seconds,
    images_per_second=batch_size / seconds,
    host_images_per_second=batch_size / seconds / topology.hosts,
    hours=hours,
    device_hours=hours * topology.devices,
  )
