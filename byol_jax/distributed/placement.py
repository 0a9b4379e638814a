"""Moves arrays between the host and the devices, and maps over devices.

The only file that names `jax.pmap`. Since JAX 0.8 pmap is `jit` of `shard_map`
inside: its outputs are sharded over a leading device axis, and indexing one
(`x[0]`) would start a program across devices, so values leave through
`fetch_first_replica`.

L is the number of this process's devices. In a job of several processes an
array on the devices spans all of them, L * processes rows, of which a process
reads its own.
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

from byol_jax import parallel
from byol_jax.distributed import packing


def check_batch_size(key: str, batch_size: int, **division: int) -> None:
  """See `parallel.check_division`, with the devices of the job."""
  parallel.check_division(key, batch_size, jax.device_count(), **division)


def pmap(
  function: Callable,
  *,
  donate_argnums: tuple[int, ...] = (),
  devices: Sequence[jax.Device] | None = None,
) -> Callable:
  """Maps `function` over the leading axis of its arguments, a device each.

  It may use collectives over `parallel.AXIS`. `devices` are all of the job by
  default; buffers of the arguments `donate_argnums` may become results.
  """
  mapped = jax.pmap(
    function,
    axis_name=parallel.AXIS,
    donate_argnums=donate_argnums,
    devices=devices,
  )
  return mapped if jax.process_count() == 1 else _AcrossProcesses(mapped)


def map_step(
  step: Callable, devices: Sequence[jax.Device] | None = None
) -> Callable:
  """Maps a training step, (state, ...) -> (state, ...), see `pmap`.

  The new state is written over the old one, except on a CPU: XLA computes each
  part of it there from other old parts, so it copies them first, which takes a
  tenth of the steps of large networks (docs/speed.md).
  """
  platform = devices[0].platform if devices else jax.default_backend()
  donated = () if platform == 'cpu' else (0,)
  return pmap(step, donate_argnums=donated, devices=devices)


class _AcrossProcesses:
  """Calls a mapped function with arrays that span all processes.

  Those are what `replicate`, `shard` and mapped functions return. `jax.pmap`
  takes and returns arrays of one process and converts each of them in Python,
  which takes longer than the rest of a call; its compiled program does not
  (`benchmarks/dispatch.py`).
  """

  def __init__(self, mapped: Any) -> None:
    self.lower = mapped.lower
    self._programs: dict[Any, Callable] = {}

  def __call__(self, *args: Any) -> Any:
    leaves, structure = jax.tree.flatten(args)
    key = structure, *((x.shape, x.dtype) for x in leaves)
    if key not in self._programs:
      self._programs[key] = self.lower(*args).compile()
    return self._programs[key](*args)


def _shard_rows(devices: Sequence[jax.Device] | None) -> NamedSharding:
  """Returns the sharding of a leading axis over the devices."""
  if devices is None:  # in the order of `jax.pmap`
    of_processes = map(jax.local_devices, range(jax.process_count()))
    devices = list(itertools.chain.from_iterable(of_processes))
  return NamedSharding(
    Mesh(np.asarray(devices), (parallel.AXIS,)), PartitionSpec(parallel.AXIS)
  )


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
  """Copies host arrays to each device: leaves [...] become [L, ...]."""
  count = len(_shard_rows(devices).addressable_devices)

  def repeat(x: Any) -> np.ndarray:
    x = np.asarray(x)
    # A view, not `count` copies on one device.
    return np.broadcast_to(x, (count, *x.shape))

  return shard(jax.tree.map(repeat, tree), devices)


def place_state(state: Any, shard_optimizer: bool = False) -> packing.Packed:
  """Packs a state with `opt_state`, host arrays, and replicates it.

  With `shard_optimizer` each device then keeps its part of `opt_state`.
  """
  packed = replicate(_pack(state))
  if shard_optimizer:
    return _map_opt_state(parallel.take_own_parts)(packed)
  return packed


def describe_placed(shapes: Any) -> packing.Packed:
  """Returns the shapes that `place_state` makes, in a job of one process."""
  count = jax.local_device_count()
  return describe_sharded(
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype),
      jax.eval_shape(_pack, shapes),
    )
  )


def describe_sharded(shapes: Any) -> Any:
  """Returns the shapes that `shard` makes of those of host arrays [L, ...].

  In a job of one process. With their sharding: else JAX would trace and compile
  again for the arrays.
  """
  rows = _shard_rows(None)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), shapes
  )


def _pack(state: Any) -> packing.Packed:
  # Stacks of rows cost the compiler for CPUs as much as the rest of the step,
  # and one device is called quickly.
  is_one_cpu = jax.device_count() == 1 and jax.default_backend() == 'cpu'
  return packing.pack(state, -1 if is_one_cpu else packing.SMALL)


def gather_state(packed: packing.Packed) -> packing.Packed:
  """Returns the whole state on every device; all processes must call."""
  return _map_opt_state(parallel.gather_parts)(packed)


@functools.cache
def _map_opt_state(function: Callable) -> Callable:
  def call(packed: packing.Packed) -> packing.Packed:
    state = packing.unpack(packed)
    return packing.pack(state._replace(opt_state=function(state.opt_state)))

  return pmap(call)


def shard(batch: Any, devices: Sequence[jax.Device] | None = None) -> Any:
  """Puts host arrays [L, ...] on the local devices, a row each."""
  return jax.make_array_from_process_local_data(_shard_rows(devices), batch)


def prefetch(batches: Iterable[Any], size: int = 2) -> Iterator[Any]:
  """Yields sharded batches, with up to `size` more being transferred."""
  iterator = iter(batches)
  queue = deque(shard(batch) for batch in itertools.islice(iterator, size))
  while queue:
    ready = queue.popleft()
    queue.extend(shard(batch) for batch in itertools.islice(iterator, 1))
    yield ready


def fetch_first_replica(tree: Any) -> Any:
  """Fetches local replica 0: leaves [L, ...] become numpy [...]."""
  # One fetch for the whole tree: transfers overlap.
  local = jax.device_get(jax.tree.map(_first_shard, tree))
  return jax.tree.map(lambda x: np.asarray(x)[0], local)


def _first_shard(x: jax.Array) -> jax.Array:
  """Returns [1, ...] of [L, ...], without a program across devices."""
  return x.addressable_shards[0].data


@jax.jit
def _unpack_row(packed: packing.Packed) -> Any:
  return packing.unpack(jax.tree.map(lambda x: x[0], packed))


def copy_first_replica(packed: packing.Packed) -> Any:
  """Copies local replica 0, unpacked, on its device.

  Returns at once, and `packed` may be donated afterwards: the host fetches the
  copy while the devices continue. On a CPU it waits for `packed` and copies on
  the host: a program of hundreds of slices takes seconds to compile.
  """
  if jax.default_backend() == 'cpu':
    return jax.tree.map(np.copy, packing.unpack(fetch_first_replica(packed)))
  return _unpack_row(jax.tree.map(_first_shard, packed))


def broadcast_arrays(tree: Any) -> Any:
  """Returns process 0's values on every process, bit for bit.

  Args:
    tree: numpy arrays of the same shapes and dtypes on all processes.
  """
  if jax.process_count() == 1:
    return tree
  leaves, structure = jax.tree.flatten(tree)
  # As integers, in one array: a sum with zeros would lose the sign of -0.0,
  # and a thousand leaves would be a thousand programs.
  octets = b''.join(np.asarray(x).tobytes() for x in leaves)
  words = np.frombuffer(octets + bytes(-len(octets) % 4), np.uint32)
  sent = np.asarray(multihost_utils.broadcast_one_to_all(words)).view(np.uint8)
  parts = np.split(sent, np.cumsum([x.nbytes for x in leaves]))
  return jax.tree.unflatten(
    structure,
    [part.view(x.dtype).reshape(x.shape) for part, x in zip(parts, leaves)],
  )


def fetch_local_rows(array: jax.Array) -> np.ndarray:
  """Fetches this process's part of an output of `pmap`.

  [devices, P, ...] -> [L * P, ...].
  """
  shards = sorted(array.addressable_shards, key=lambda s: s.index[0].start or 0)
  rows = [np.asarray(shard.data) for shard in shards]
  return np.concatenate(rows).reshape(-1, *array.shape[2:])


def allgather_rows(columns: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
  """Concatenates the rows of all processes, on each of them, bit for bit.

  [N, ...] -> [processes * N, ...]; N is the same on all processes.
  """
  if jax.process_count() == 1:
    return columns

  def gather(column: np.ndarray) -> np.ndarray:
    # As bytes: JAX would make 64-bit numbers 32 bits wide.
    rows = np.ascontiguousarray(column).reshape(len(column), -1)
    found = multihost_utils.process_allgather(rows.view(np.uint8), tiled=True)
    return np.asarray(found).view(column.dtype).reshape(-1, *column.shape[1:])

  return tuple(gather(column) for column in columns)


def compute_digest(tree: Any) -> jax.Array:
  """Returns uint32 [], which a change of any bit changes, up to chance.

  The leaves of `tree` have 32 bits; sums of integers do not depend on order.
  """
  total = jnp.uint32(0)
  for number, x in enumerate(jax.tree.leaves(tree)):
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32).reshape(-1)
    odd = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    # Multiplied by an odd number, no bit of an integer is lost.
    total += jnp.sum((bits ^ (bits >> 16)) * odd) * (2 * number + 1)
  return total


def is_replicated(tree: Any) -> bool:
  """Returns whether all devices hold the same bits; all processes must call.

  Leaves are [L, ...], of 32 bits.
  """
  return bool(fetch_first_replica(_compare_digests()(tree)))


@functools.cache
def _compare_digests() -> Callable:
  def compare(tree: Any) -> jax.Array:
    found = compute_digest(tree)
    largest = jax.lax.pmax(found, parallel.AXIS)
    return largest == jax.lax.pmin(found, parallel.AXIS)

  return pmap(compare)
