"""Compares all processes of a job before JAX joins them.

JAX aborts where a process is missing, without naming it, and does not notice
one that runs something else. So each process first reports what it runs to
process 0, which answers all of them with the same result: one JSON line each
way over TCP, on the coordinator's port, which JAX takes over afterwards.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import json
import socket
import time
from typing import Any, TypeVar

from byol_jax import errors

T = TypeVar('T')
Report = dict[str, Any]

_MAX_REPORT_BYTES = 1 << 20
_RETRY_SECONDS = 0.2
_READ_SECONDS = 5.0  # for one report, once its process has connected
# After a failure: for processes that are about to report, to answer them too.
_LAST_REPORTS_SECONDS = 10.0
# Connections that are not from our processes and may wait beside them.
_EXTRA_BACKLOG = 64


@dataclasses.dataclass(frozen=True)
class ProcessAddress:
  """One process of a job, and where process 0 is."""

  address: str  # of process 0, HOST:PORT
  count: int
  index: int
  local_device_ids: Sequence[int] | None = None


def exchange_reports(
  process: ProcessAddress,
  load: Callable[[], tuple[T, Mapping[str, str]]],
  seconds: float,
) -> T:
  """Returns what `load` returns first, once all processes have loaded the same.

  Args:
    process: this one.
    load: see `processes.join_job`.
    seconds: timeout for all processes to report once this one has loaded. A
      difference is reported before that.

  Raises:
    CheckFailed: processes are missing; names them.
    ConfigError: two processes differ; names the fact, both values and hosts.
    UserError: what `load` raised here or elsewhere.
  """
  error, facts, result = None, None, None
  try:
    result, facts = load()
  except errors.UserError as caught:
    error = caught
  report = make_report(error, facts) | {'index': process.index}
  exchange = _run_coordinator if process.index == 0 else _report_to_coordinator
  answer = exchange(process, report, seconds)
  error = error or read_error(answer)
  if error is not None:
    raise error
  return result  # type: ignore[return-value]


def make_report(
  error: errors.UserError | None, facts: Mapping[str, str] | None = None
) -> Report:
  """Returns this host's name, an error, if any, and facts, as JSON values."""
  report = {'host': socket.gethostname(), 'error': None, 'facts': facts or {}}
  if error is None:
    return report
  return report | {'error': str(error), 'code': error.exit_code}


def read_error(
  report: Report, index: int | None = None
) -> errors.UserError | None:
  """Returns the error of a report; names its process if `index` is given."""
  if report['error'] is None:
    return None
  kinds = {kind.exit_code: kind for kind in errors.UserError.__subclasses__()}
  where = '' if index is None else f'process {index} ({report["host"]}): '
  return kinds[report['code']](where + report['error'])


def find_difference(reports: Mapping[int, Report]) -> errors.UserError | None:
  """Returns the first error of the processes, or the first fact that differs.

  `reports` are by process; that of process 0 is present.
  """
  first = reports[0]
  for index, report in sorted(reports.items()):
    error = read_error(report, index)
    if error is not None:
      return error
  for index, report in sorted(reports.items()):
    for key in first['facts'] | report['facts']:
      expected, found = first['facts'].get(key), report['facts'].get(key)
      if expected != found:
        return errors.ConfigError(
          f'the processes differ: {key} is {expected} on process 0'
          f' ({first["host"]}) and {found} on process {index}'
          f' ({report["host"]}); start the same command, code and packages'
          ' on all of them'
        )
  return None


def _run_coordinator(
  process: ProcessAddress, report: Report, seconds: float
) -> Report:
  """Receives the reports of all processes and answers each of them."""
  deadline = time.monotonic() + seconds
  reports, error = {0: report}, read_error(report, 0)
  with contextlib.ExitStack() as stack:
    listener = stack.enter_context(_listen(process, deadline))
    connections = []
    while len(reports) < process.count:
      if error is not None:
        deadline = min(deadline, time.monotonic() + _LAST_REPORTS_SECONDS)
      listener.settimeout(max(0.01, deadline - time.monotonic()))
      try:
        connection = stack.enter_context(listener.accept()[0])
        connection.settimeout(_READ_SECONDS)
        received = _receive_json(connection)
        reports[int(received['index'])] = received
        connections.append(connection)
      except TimeoutError:
        if time.monotonic() >= deadline:
          break
      except (OSError, ValueError, KeyError, TypeError):
        continue  # not one of our processes
      error = error or find_difference(reports)
    missing = [str(i) for i in range(process.count) if i not in reports]
    if missing and error is None:
      present = [f'{i} ({r["host"]})' for i, r in sorted(reports.items())]
      error = errors.CheckFailed(
        f'after {seconds:g} s {len(missing)} of {process.count} processes have'
        f' not reported: process {", ".join(missing)}; present are'
        f' {", ".join(present)}'
      )
    answer = make_report(error)
    for connection in connections:
      with contextlib.suppress(OSError):
        _send_json(connection, answer)
  return answer


def _report_to_coordinator(
  process: ProcessAddress, report: Report, seconds: float
) -> Report:
  """Sends this process's report and returns the answer to all processes."""
  deadline = time.monotonic() + seconds
  host, port = process.address.rsplit(':', 1)
  while time.monotonic() < deadline:
    try:
      with socket.create_connection((host, int(port)), timeout=2) as connection:
        _send_json(connection, report)
        # Process 0 waits for the others until its own deadline.
        connection.settimeout(seconds + 5)
        return _receive_json(connection)
    except (OSError, ValueError):
      time.sleep(_RETRY_SECONDS)
  raise errors.CheckFailed(
    f'process {process.index} ({report["host"]}): process 0 did not answer at'
    f' {process.address} within {seconds:g} s; check that it runs and that its'
    ' port is open'
  )


def _listen(process: ProcessAddress, deadline: float) -> socket.socket:
  port = int(process.address.rsplit(':', 1)[1])
  while True:
    try:
      # For both address families, as JAX's own service.
      return socket.create_server(
        ('', port),
        family=socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET,
        dualstack_ipv6=socket.has_dualstack_ipv6(),
        backlog=process.count + _EXTRA_BACKLOG,
      )
    except OSError as error:
      if time.monotonic() > deadline:
        raise errors.CheckFailed(
          f'process 0 cannot listen at {process.address}: {error.strerror};'
          ' give a free port'
        ) from error
      time.sleep(_RETRY_SECONDS)


def _send_json(connection: socket.socket, report: Report) -> None:
  connection.sendall(json.dumps(report).encode() + b'\n')


def _receive_json(connection: socket.socket) -> Report:
  with connection.makefile('rb') as stream:
    text = stream.readline(_MAX_REPORT_BYTES)
  report = json.loads(text)
  if not isinstance(report, dict) or 'host' not in report:
    raise ValueError('not a report')
  return report
