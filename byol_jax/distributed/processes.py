"""Joins the processes of a job, and keeps them in agreement afterwards.

All processes run the same program. They are compared before JAX joins them
(see `rendezvous`); after that an error of one process is raised on all.
"""

import collections
from collections.abc import Callable, Mapping
import dataclasses
import json
import os
import socket
from typing import Any, TypeVar

import jax

from byol_jax import errors
from byol_jax.distributed import rendezvous, sockets

T = TypeVar('T')

# --distributed -> JAX's name of the method that finds the other processes.
CLUSTERS = {'auto': None, 'gce': 'gcetpu', 'gke': 'gketpu', 'slurm': 'slurm'}
_NO_PROXY = 'no_grpc_proxy'  # gRPC reads the lower case only
# Another process may first read a data set into memory; JAX's heartbeat, not
# this timeout, notices a process that has died.
_GATHER_TIMEOUT_MS = 24 * 3600_000
# By name; the same on all processes.
_num_gathered: collections.Counter[str] = collections.Counter()


def find_address(
  distributed: str, seconds: float
) -> rendezvous.ProcessAddress | None:
  """Returns the address of this process in its job; None if it is alone.

  Args:
    distributed: 'none'; 'gce' (Cloud TPU's metadata), 'gke', 'slurm', or
      'auto' for the first of them that is present, with ':PORT' at the end
      for another port of process 0; or 'HOST:PORT,PROCESSES,INDEX'.
    seconds: timeout of a cluster's name server.

  Raises:
    ConfigError: another form, or no such cluster here.
  """
  if distributed == 'none':
    return None
  cluster, *port = distributed.rsplit(':', 1)
  if cluster in CLUSTERS and ',' not in distributed:
    if port:
      sockets.split_address(distributed)
    process = _detect_address(cluster, seconds)
    if port:
      host = process.address.rpartition(':')[0]
      process = dataclasses.replace(process, address=f'{host}:{port[0]}')
  else:
    try:
      address, count, index = distributed.split(',')
      process = rendezvous.ProcessAddress(address, int(count), int(index))
      if not 0 <= process.index < process.count <= rendezvous.MAX_PROCESSES:
        raise ValueError
    except ValueError:
      raise errors.ConfigError(
        f"--distributed: expected 'none', {sorted(CLUSTERS)}, one of these with"
        " ':PORT', or 'HOST:PORT,PROCESSES,INDEX' with 0 <= INDEX < PROCESSES"
        f' <= {rendezvous.MAX_PROCESSES:,}, found {errors.quote(distributed)}'
      ) from None
  sockets.split_address(process.address)
  return process


def _detect_address(name: str, seconds: float) -> rendezvous.ProcessAddress:
  # jax.distributed.initialize detects the same, but joins the processes at
  # once; there is no public call that only detects. Tried with jax 0.10.2.
  from jax._src import clusters

  detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
  found: tuple[Any, ...] = ()
  reason = ''
  try:
    found = detect(None, None, None, None, CLUSTERS[name], int(seconds))
  except (RuntimeError, ValueError, KeyError, OSError) as error:
    reason = f' ({errors.first_line(error)})'
  if not found or None in found[:3]:
    raise errors.ConfigError(
      f'--distributed={name}: no cluster found here{reason}; give'
      " 'none' or 'HOST:PORT,PROCESSES,INDEX'"
    )
  return rendezvous.ProcessAddress(*found)


def join_job(
  distributed: str,
  load: Callable[[], tuple[T, Mapping[str, str]]],
  *,
  startup_seconds: float = 300,
  heartbeat_seconds: int = 100,
) -> tuple[T, str]:
  """Joins the processes of one job. Call before anything uses a device.

  Args:
    distributed: see `find_address`.
    load: returns what this process runs, and facts that must be the same on
      all processes, {what: value}.
    startup_seconds: timeout for all processes to report.
    heartbeat_seconds: a process without a heartbeat for this long counts as
      dead, and JAX ends all the others.

  Returns:
    What `load` returned first, and a line that describes the job.

  Raises:
    ConfigError: the processes differ; no device; or see `find_address`.
    CheckFailed: a process is missing, or has another number of devices.
    UserError: what `load` raised on any process.
  """
  process = find_address(distributed, startup_seconds)
  if process is None:
    return load()[0], f'1 process, {_describe_devices()}'
  result = rendezvous.exchange_reports(process, load, startup_seconds)
  host, port = sockets.split_address(process.address)
  _bypass_proxies(host)
  jax.distributed.initialize(
    process.address,
    process.count,
    process.index,
    local_device_ids=process.local_device_ids,
    cluster_detection_method='deactivate',
    initialization_timeout=max(1, int(startup_seconds)),
    heartbeat_timeout_seconds=heartbeat_seconds,
    coordinator_bind_address=sockets.join_address(
      sockets.choose_bind_host(host) or '::', port
    ),
  )
  hosts = gather_strings('host', socket.gethostname())
  counts = gather_strings('devices', str(jax.local_device_count()))
  if len(set(counts)) > 1:
    listed = ', '.join(
      f'process {i} ({host}) has {count}'
      for i, (host, count) in enumerate(zip(hosts, counts, strict=True))
    )
    raise mark_collective(
      errors.CheckFailed(
        f'the processes differ in their number of devices: {listed}; pmap needs'
        ' the same number on all of them'
      )
    )
  return result, (
    f'{process.count} processes, {_describe_devices()}; the same configuration,'
    f' code and versions on {", ".join(dict.fromkeys(hosts))}'
  )


def _bypass_proxies(host: str) -> None:
  """Lets gRPC connect to `host` directly, where variables name a proxy.

  Else it asks the proxy, which as a rule reaches no host of a job, and JAX
  aborts when `startup_seconds` are over.
  """
  if any(map(os.environ.get, ('grpc_proxy', 'https_proxy', 'http_proxy'))):
    # With it set, gRPC does not read no_proxy.
    listed = os.environ.get(_NO_PROXY, os.environ.get('no_proxy', ''))
    os.environ[_NO_PROXY] = f'{listed},{host}'.lstrip(',')
    jax.config.update('jax_check_proxy_envs', False)  # warns of a hang


def gather_strings(name: str, value: str) -> list[str]:
  """Returns the values of all processes by index.

  Args:
    name: of the values. All processes gather by a name equally often.
    value: of this process.
  """
  if jax.process_count() == 1:
    return [value]
  # The store that all processes of a job share; JAX has no public name for it.
  # Tried with jax 0.10.2.
  from jax._src import distributed

  client: Any = distributed.global_state.client
  # A key of the store is written once.
  key = f'byol_jax/{name}/{_num_gathered[name]}'
  _num_gathered[name] += 1
  client.key_value_set(f'{key}/{jax.process_index()}', value)
  return [
    client.blocking_key_value_get(f'{key}/{i}', _GATHER_TIMEOUT_MS)
    for i in range(jax.process_count())
  ]


def broadcast_json(name: str, value: Any) -> Any:
  """Returns process 0's value, of JSON types; see `gather_strings`."""
  return json.loads(gather_strings(name, json.dumps(value))[0])


def raise_on_all(name: str, work: Callable[[], T]) -> T:
  """Returns what `work` does; raises the error of one process on all of them.

  Args:
    name: of the work; see `gather_strings`.
    work: takes part in nothing that other processes wait for.

  Raises:
    UserError: this process's own, else the first other one, naming its process.
  """
  error = None
  try:
    result = work()
  except errors.UserError as caught:
    if jax.process_count() == 1:
      raise
    error = caught
  _compare_reports(name, rendezvous.make_report(error), error)
  return result


def require_agreement(name: str, facts: Mapping[str, str]) -> None:
  """Raises, on all processes, if facts are not the same on all of them.

  Args:
    name: of this comparison; see `gather_strings`.
    facts: {what: value}.

  Raises:
    ConfigError: names the first fact, both values and both hosts.
  """
  _compare_reports(name, rendezvous.make_report(None, facts))


def _compare_reports(
  name: str, report: rendezvous.Report, own: errors.UserError | None = None
) -> None:
  """Raises `own`, or else what any process reports or differs in."""
  texts = gather_strings(name, json.dumps(report))
  found = rendezvous.find_difference(dict(enumerate(map(json.loads, texts))))
  if found is not None:
    raise mark_collective(own or found)


def mark_collective(error: errors.UserError) -> errors.UserError:
  """Marks an error as one that every process raises at this point."""
  error.is_everywhere = True
  return error


def check_devices() -> None:
  """Makes JAX find its devices.

  Raises:
    ConfigError: it has none of the platforms that it shall use.
  """
  try:
    jax.devices()
  # Of a platform that JAX knows but cannot have it asserts that it is there.
  except (RuntimeError, AssertionError) as error:
    options: Any = jax.config
    raise errors.ConfigError(
      f'JAX_PLATFORMS: no device of {options.jax_platforms or "any"!r}'
      f' ({errors.first_line(error).removesuffix(": ")}); give cpu, or cuda or'
      ' tpu where its extra is installed, or leave the variable out'
    ) from error


def _describe_devices() -> str:
  check_devices()
  return f'{jax.device_count()} devices ({jax.devices()[0].device_kind})'
