"""Everything that is known about devices and processes.

The one file that names `jax.pmap`. Since JAX 0.8 pmap is `jit` of `shard_map`
inside: its outputs are sharded over a leading device axis, and indexing one
(`x[0]`) would start a program across devices, so values leave through
`first_replica`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
import itertools
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from byol_jax import errors

AXIS = 'i'


def start(distributed: str = 'none') -> None:
  """Joins the processes of one job. Call before anything touches a device.

  Args:
    distributed: 'none'; 'auto' (Cloud TPU, GKE and SLURM are detected by
      JAX); or 'HOST:PORT,PROCESSES,INDEX'.

  Raises:
    ConfigError: another form.
  """
  if distributed == 'none':
    return
  if distributed == 'auto':
    try:
      jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
      raise errors.ConfigError(
        f"--distributed=auto: no cluster found ({error}); give 'none' or"
        " 'HOST:PORT,PROCESSES,INDEX'"
      ) from error
    return
  try:
    address, count, index = distributed.split(',')
    arguments = (address, int(count), int(index))
  except ValueError:
    raise errors.ConfigError(
      f"--distributed: expected 'none', 'auto' or 'HOST:PORT,PROCESSES,"
      f"INDEX', found {distributed!r}"
    ) from None
  jax.distributed.initialize(*arguments)


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
  """`function` on every device at once, over the axis `AXIS`."""
  return jax.pmap(
    function, axis_name=AXIS, donate_argnums=donate_argnums, devices=devices
  )


def sharding(devices: Sequence[jax.Device] | None = None) -> NamedSharding:
  """A leading axis with one entry for each of this process's devices."""
  devices = jax.local_devices() if devices is None else devices
  return NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(AXIS))


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


def local_rows(array: jax.Array) -> np.ndarray:
  """What pmap left on this process's devices, [L, P, ...] -> [L * P, ...]."""
  shards = sorted(array.addressable_shards, key=lambda s: s.index[0].start or 0)
  rows = [np.asarray(shard.data) for shard in shards]
  return np.concatenate(rows).reshape(-1, *array.shape[2:])


def mean(tree: Any) -> Any:
  """Mean over all devices; inside `pmap`."""
  return jax.lax.pmean(tree, AXIS)


def total(tree: Any) -> Any:
  """Sum over all devices; inside `pmap`."""
  return jax.lax.psum(tree, AXIS)


def image_keys(rng: jax.Array, step: jax.Array, per_device: int) -> jax.Array:
  """One key an image, from (seed, step, place in the global batch).

  Inside `pmap`. The device enters only through the place, so any number of
  devices gives an image the same key.

  Args:
    rng: the run's key, uint32 [2].
    step: int32 [].
    per_device: images on this device.

  Returns:
    uint32 [per_device, 2].
  """
  places = jax.lax.axis_index(AXIS) * per_device + jax.numpy.arange(per_device)
  step_key = jax.random.fold_in(rng, step)
  return jax.vmap(lambda place: jax.random.fold_in(step_key, place))(places)


def on_one_device(function: Callable) -> Callable:
  """`function` under the axis `AXIS` of size one, for initialisation."""

  def call(*args: Any) -> Any:
    lifted = jax.tree.map(lambda x: x[None], args)
    out = jax.vmap(function, axis_name=AXIS)(*lifted)
    return jax.tree.map(lambda x: x[0], out)

  return jax.jit(call)
