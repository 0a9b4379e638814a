"""The processes of one job: finding them, a roll call, and agreeing.

Every process runs the same program. Before JAX joins them (which ends a
process without a word where another one is missing or unlike it) each reports
to process 0 what it is, over the coordinator's own port; process 0 answers
all of them with a verdict. After that, what one process cannot do, none does.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import json
import socket
from typing import Any, TypeVar

import jax

from byol_jax import errors
from byol_jax.distributed import rendezvous

T = TypeVar('T')

# --distributed -> JAX's name of the way to find the other processes.
DETECTED = {
  'auto': None,
  'gce': 'gcetpu',
  'gke': 'gketpu',
  'slurm': 'slurm',
}
# A data set may be read into memory first; who dies meanwhile is noticed by
# its heartbeat, not by this.
_PATIENCE_MS = 24 * 3600_000


@dataclasses.dataclass(frozen=True)
class ProcessAddress:
  """One process of a job."""

  address: str  # of process 0, HOST:PORT
  count: int
  index: int
  local_device_ids: Sequence[int] | None = None


def find(distributed: str, seconds: float) -> ProcessAddress | None:
  """Where this process stands in its job; None for a job of one.

  Args:
    distributed: 'none'; 'gce' (Cloud TPU's metadata), 'gke', 'slurm', or
      'auto' for the first of them that is there; or 'HOST:PORT,PROCESSES,
      INDEX'.
    seconds: how long a cluster's name server may take.

  Raises:
    ConfigError: another form, or no such cluster here.
  """
  if distributed == 'none':
    return None
  if distributed in DETECTED:
    from jax._src import clusters

    reason = ''
    try:
      found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, DETECTED[distributed], int(seconds)
      )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
      found = (None, None, None, None)
      reason = f' ({errors.first_line(error)})'
    address, count, index, devices = found
    if address is None or count is None or index is None:
      raise errors.ConfigError(
        f'--distributed={distributed}: no cluster found here{reason}; give'
        " 'none' or 'HOST:PORT,PROCESSES,INDEX'"
      )
    return ProcessAddress(address, count, index, devices)
  try:
    where, processes, number = distributed.split(',')
    host, port = where.rsplit(':', 1)
    place = ProcessAddress(f'{host}:{int(port)}', int(processes), int(number))
    if not 0 <= place.index < place.count:
      raise ValueError
  except ValueError:
    raise errors.ConfigError(
      f"--distributed: expected 'none', {sorted(DETECTED)} or 'HOST:PORT,"
      f"PROCESSES,INDEX' with 0 <= INDEX < PROCESSES, found {distributed!r}"
    ) from None
  return place


def join_job(
  distributed: str,
  load: Callable[[], tuple[T, Mapping[str, str]]],
  *,
  startup_seconds: float = 300,
  heartbeat_seconds: int = 100,
) -> tuple[T, str]:
  """Joins the processes of one job. Call before anything touches a device.

  Args:
    distributed: see `find`.
    load: what this process runs, and facts that must be the same on all:
      (result, {what: value}).
    startup_seconds: for all processes to report.
    heartbeat_seconds: after so long without a sign of life a process counts
      as dead, and JAX ends all the others.

  Returns:
    What `load` returned first, and a line that says who takes part.

  Raises:
    ConfigError: the processes are not alike; or `find`'s.
    CheckFailed: one is missing, or has another number of devices.
    UserError: what `load` raised on any of them.
  """
  place = find(distributed, startup_seconds)
  if place is None:
    return load()[0], f'1 process, {_devices()}'
  result = rendezvous.hold(place, load, startup_seconds)
  jax.distributed.initialize(
    place.address,
    place.count,
    place.index,
    local_device_ids=place.local_device_ids,
    cluster_detection_method='deactivate',
    initialization_timeout=max(1, int(startup_seconds)),
    heartbeat_timeout_seconds=heartbeat_seconds,
  )
  names = gather('host', socket.gethostname())
  counts = gather('devices', str(jax.local_device_count()))
  if len(set(counts)) > 1:
    listed = ', '.join(
      f'process {i} ({name}) has {count}'
      for i, (name, count) in enumerate(zip(names, counts, strict=True))
    )
    raise mark_collective(
      errors.CheckFailed(
        f'the processes differ in their number of devices: {listed}; pmap needs'
        ' the same everywhere'
      )
    )
  return result, (
    f'{place.count} processes, {_devices()}; the same configuration, code and'
    f' versions on {", ".join(dict.fromkeys(names))}'
  )


def _devices() -> str:
  kind = jax.devices()[0].device_kind
  return f'{jax.device_count()} devices ({kind})'


def gather(name: str, value: str) -> list[str]:
  """The values of all processes, by index; `name` is used only once."""
  if jax.process_count() == 1:
    return [value]
  client = _client()
  client.key_value_set(f'byol_jax/{name}/{jax.process_index()}', value)
  return [
    client.blocking_key_value_get(f'byol_jax/{name}/{i}', _PATIENCE_MS)
    for i in range(jax.process_count())
  ]


def broadcast_json(name: str, value: Any) -> Any:
  """Process 0's value, which JSON can carry; `name` is used only once."""
  if jax.process_count() == 1:
    return value
  client, key = _client(), f'byol_jax/{name}'
  if jax.process_index() == 0:
    client.key_value_set(key, json.dumps(value))
  return json.loads(client.blocking_key_value_get(key, _PATIENCE_MS))


def raise_on_all(name: str, work: Callable[[], T]) -> T:
  """`work`, whose error on one process is raised on all of them.

  Args:
    name: of the work, once in a job.
    work: differs between processes, if at all, in whether it fails.

  Raises:
    UserError: the first process's; elsewhere its text with that process named.
  """
  error = None
  try:
    result = work()
  except errors.UserError as caught:
    if jax.process_count() == 1:
      raise
    error = caught
  report = rendezvous.describe(error, socket.gethostname())
  for index, text in enumerate(gather(name, json.dumps(report))):
    found = rendezvous.revive(json.loads(text), index)
    if found is not None:
      raise mark_collective(error or found)
  return result


def require_agreement(name: str, facts: Mapping[str, str]) -> None:
  """Refuses, on all processes, facts that are not the same on all of them.

  Args:
    name: of this occasion, once in a job.
    facts: {what: value}.

  Raises:
    ConfigError: names the first fact, both values and both hosts.
  """
  report = {
    'facts': dict(facts),
    **rendezvous.describe(None, socket.gethostname()),
  }
  texts = gather(name, json.dumps(report))
  found = rendezvous.differences(dict(enumerate(map(json.loads, texts))))
  if found is not None:
    raise mark_collective(found)


def mark_collective(error: errors.UserError) -> errors.UserError:
  """Says of an error that every process raises it at this point."""
  error.is_everywhere = True
  return error


@functools.cache
def _client() -> Any:
  # JAX has no public name for the store that all its processes share.
  from jax._src import distributed

  return distributed.global_state.client
