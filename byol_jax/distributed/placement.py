"""Arrays between the host and the devices, and the mapping over devices.

The one file that names `jax.pmap`. Since JAX 0.8 pmap is `jit` of `shard_map`
inside: its outputs are sharded over a leading device axis, and indexing one
(`x[0]`) would start a program across devices, so values leave through
`first_replica`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
import functools
import itertools
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from byol_jax import errors, parallel
from byol_jax.distributed import packing


def check_batch_size(key: str, batch_size: int) -> None:
  """Refuses a global batch that the devices do not divide."""
  devices = jax.device_count()
  if batch_size <= 0 or batch_size % devices:
    raise errors.ConfigError(
      f'{key}: expected a positive multiple of the {devices} devices, found'
      f' {batch_size}'
    )


def pmap(
  function: Callable,
  *,
  donate_argnums: tuple[int, ...] = (),
  devices: Sequence[jax.Device] | None = None,
) -> Callable:
  """`function` on every device at once, over the axis `parallel.AXIS`."""
  return jax.pmap(
    function,
    axis_name=parallel.AXIS,
    donate_argnums=donate_argnums,
    devices=devices,
  )


def sharding(devices: Sequence[jax.Device] | None = None) -> NamedSharding:
  """A leading axis with one entry for each of this process's devices."""
  devices = jax.local_devices() if devices is None else devices
  return NamedSharding(
    Mesh(np.asarray(devices), (parallel.AXIS,)), PartitionSpec(parallel.AXIS)
  )


@functools.cache
def _agreement() -> Callable:
  return pmap(_agree)


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
  """The same values on every local device: leaves gain a leading axis."""
  placement = sharding(devices)
  count = len(placement.device_set)

  def put(x: Any) -> jax.Array:
    x = np.asarray(x)
    # A view, not `count` copies on one device.
    return jax.device_put(np.broadcast_to(x, (count, *x.shape)), placement)

  return jax.tree.map(put, tree)


def shard(batch: Any, devices: Sequence[jax.Device] | None = None) -> Any:
  """Puts leaves [local devices, ...] on their devices."""
  return jax.device_put(batch, sharding(devices))


def prefetch(batches: Iterable[Any], size: int = 2) -> Iterator[Any]:
  """Sharded batches, `size` of them on their way to the devices."""
  iterator = iter(batches)
  queue = deque(shard(batch) for batch in itertools.islice(iterator, size))
  while queue:
    ready = queue.popleft()
    queue.extend(shard(batch) for batch in itertools.islice(iterator, 1))
    yield ready


def first_replica(tree: Any) -> Any:
  """Local replica 0 as numpy, without a program across devices."""

  def take(x: jax.Array) -> jax.Array:
    return x.addressable_shards[0].data

  # One fetch for the whole tree: transfers overlap.
  local = jax.device_get(jax.tree.map(take, tree))
  return jax.tree.map(lambda x: np.asarray(x)[0], local)


@jax.jit
def _copied(packed: packing.Packed) -> Any:
  return packing.unpack(jax.tree.map(lambda x: x[0], packed))


def snapshot(packed: packing.Packed) -> Any:
  """Local replica 0, unpacked, as a copy on its device, to be read later.

  Returns at once, and `packed` may be donated afterwards: the host fetches the
  copy while the devices go on.
  """
  return _copied(jax.tree.map(lambda x: x.addressable_shards[0].data, packed))


def broadcast_arrays(tree: Any) -> Any:
  """Process 0's values on every process, bit for bit.

  Args:
    tree: numpy arrays of the same shapes and dtypes on all processes.
  """
  if jax.process_count() == 1:
    return tree
  leaves, structure = jax.tree.flatten(tree)
  octets = [np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in leaves]
  sizes = [x.size for x in octets]
  missing = -sum(sizes) % 4
  # As integers, in one array: a sum with zeros would lose the sign of -0.0,
  # and a thousand leaves would be a thousand programs.
  words = np.concatenate([*octets, np.zeros(missing, np.uint8)]).view(np.uint32)
  sent = np.asarray(multihost_utils.broadcast_one_to_all(words)).view(np.uint8)
  ends = np.cumsum(sizes)
  parts = [
    sent[end - size : end].view(x.dtype).reshape(x.shape)
    for end, size, x in zip(ends, sizes, leaves, strict=True)
  ]
  return jax.tree.unflatten(structure, parts)


def local_rows(array: jax.Array) -> np.ndarray:
  """What pmap left on this process's devices, [L, P, ...] -> [L * P, ...]."""
  shards = sorted(array.addressable_shards, key=lambda s: s.index[0].start or 0)
  rows = [np.asarray(shard.data) for shard in shards]
  return np.concatenate(rows).reshape(-1, *array.shape[2:])


def digest(tree: Any) -> jax.Array:
  """uint32 [] that differs where any bit of the tree does, but for chance.

  Of 32-bit leaves. Sums of integers do not depend on the order.
  """
  total = jnp.uint32(0)
  for number, x in enumerate(jax.tree.leaves(tree)):
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32).reshape(-1)
    odd = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    # Multiplied by an odd number, no bit of a word is lost.
    total += jnp.sum((bits ^ (bits >> 16)) * odd) * (2 * number + 1)
  return total


def is_replicated(tree: Any) -> bool:
  """Whether all devices of all processes hold the same bits of a state.

  Args:
    tree: as of `replicate`; every process must ask.
  """
  return bool(first_replica(_agreement()(tree)))


def _agree(tree: Any) -> jax.Array:
  found = digest(tree)
  largest, smallest = (
    jax.lax.pmax(found, parallel.AXIS),
    jax.lax.pmin(found, parallel.AXIS),
  )
  return largest == smallest
