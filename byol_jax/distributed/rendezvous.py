"""Compares all processes of a job before JAX joins them.

JAX aborts where a process is missing, without naming it, and does not notice
one that runs something else. So each process first reports what it runs to
process 0, which answers all of them with the same result: one JSON line each
way over TCP, on the coordinator's port, which JAX takes over afterwards.

Whatever else reaches the port is refused and changes nothing, if the job has a
token: a text that its launcher gives to all of its processes, and only them.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import hmac
import json
import logging
import os
import re
import secrets
import socket
import time
from typing import Any, TypeVar

from byol_jax import errors
from byol_jax.distributed import sockets

T = TypeVar('T')
Report = dict[str, Any]

_LOG = logging.getLogger(__name__)

TOKEN = 'BYOL_JAX_JOB_TOKEN'
_COUNT = 'number of processes'
MAX_PROCESSES = 1_000_000

_RETRY_SECONDS = 0.2
# After a failure: for processes that are about to report, to answer them too.
_LAST_REPORTS_SECONDS = 10.0
# Connections that are not from our processes and may wait beside them.
_EXTRA_BACKLOG = 64
# What is printed as it is: hosts, names of facts, most values.
_PLAIN = re.compile(r'[A-Za-z0-9_.:/ -]{1,200}')
_TYPES: dict[str, tuple[type, ...]] = {
  **{'host': (str,), 'index': (int,), 'sender': (str,), 'token': (str,)},
  **{'error': (str, type(None)), 'code': (int,), 'facts': (dict,)},
}


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
    ConfigError: two processes differ, or have one index; names the fact, both
      values and hosts.
    UserError: what `load` raised here or elsewhere.
  """
  error, result = None, None
  facts: Mapping[str, str] = {}
  try:
    result, facts = load()
  except errors.UserError as caught:
    error = caught
  facts = {_COUNT: str(process.count), **facts}
  report = make_report(error, facts) | {
    'index': process.index,
    # A process that reports again, since its connection broke, is the same.
    'sender': secrets.token_hex(),
    'token': os.environ.get(TOKEN, ''),
  }
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
  return {
    'host': re.sub(r'[^\w.-]', '_', socket.gethostname(), flags=re.ASCII),
    'error': None if error is None else str(error),
    'code': 0 if error is None else error.exit_code,
    'facts': facts or {},
    **{'index': 0, 'sender': '', 'token': ''},
  }


def parse_report(line: bytes) -> Report:
  """Returns a report that was received.

  Raises:
    ValueError: it is not what `exchange_reports` sends; says what is wrong.
  """
  try:
    report = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise ValueError(errors.first_line(error)) from None
  if not isinstance(report, dict) or not report.keys() >= _TYPES.keys():
    raise ValueError(f'expected the keys {[*_TYPES]}')
  for key, types in _TYPES.items():
    if type(report[key]) not in types:  # isinstance would take True for 1
      raise ValueError(f'{key}: another type')
  facts = report['facts']
  if not all(map(_PLAIN.fullmatch, (report['host'], *facts))):
    raise ValueError('host or facts: another character')
  if not all(isinstance(value, str) for value in facts.values()):
    raise ValueError('facts: another type')
  if report['error'] is not None and report['code'] not in _find_kinds():
    raise ValueError('code: unknown')
  if not 0 <= report['index'] < MAX_PROCESSES:
    raise ValueError('index: out of range')
  return report


def _find_kinds() -> dict[int, type[errors.UserError]]:
  return {kind.exit_code: kind for kind in errors.UserError.__subclasses__()}


def read_error(
  report: Report, index: int | None = None
) -> errors.UserError | None:
  """Returns the error of a report; names its process if `index` is given."""
  text = report['error']
  if text is None:
    return None
  if index is not None:  # else an answer: what it quotes is cut already
    text = f'process {index} ({report["host"]}): {errors.quote(text)}'
  return _find_kinds()[report['code']](text)


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
          f'the processes differ: {key} is {_show(expected)} on process 0'
          f' ({first["host"]}) and {_show(found)} on process {index}'
          f' ({report["host"]}); start the same command, code and packages'
          ' on all of them'
        )
  return None


def _show(value: str | None) -> str:
  if value is not None and _PLAIN.fullmatch(value):
    return value
  return errors.quote(value)


def _run_coordinator(
  process: ProcessAddress, own: Report, seconds: float
) -> Report:
  """Receives the reports of all processes and answers each of them."""
  if not own['token']:
    _LOG.warning(
      '%s is not set: while the processes report, any program that reaches %s'
      ' can end this job. Set it to the same random text for all of them, as'
      ' the launchers do.',
      *(TOKEN, process.address),
    )
  deadline = time.monotonic() + seconds
  reports, error, refusal = {0: own}, read_error(own, 0), ''
  missing = [*range(1, process.count)]
  with contextlib.ExitStack() as stack:
    listener = stack.enter_context(_listen(process, deadline))
    receiver = sockets.LineReceiver(listener, process.count + _EXTRA_BACKLOG)
    stack.callback(receiver.close)
    connections = []
    while missing and time.monotonic() < deadline:
      for connection, line in receiver.receive():
        try:
          report = _parse_own(line, own, process.count)
        except ValueError as reason:
          connection.close()
          refusal = f'; a connection was refused: {reason}'
          continue
        connections.append(stack.enter_context(connection))
        index = report['index']
        error = error or _find_double(reports.get(index), report)
        error = error or find_difference({0: own, index: report})
        reports[index] = report
      missing = [i for i in range(process.count) if i not in reports]
      if error is not None:
        deadline = min(deadline, time.monotonic() + _LAST_REPORTS_SECONDS)
    if missing and error is None:
      present = [f'{i} ({r["host"]})' for i, r in sorted(reports.items())]
      error = errors.CheckFailed(
        f'after {seconds:g} s {len(missing)} of {process.count} processes have'
        f' not reported: process {", ".join(map(str, missing))}; present are'
        f' {", ".join(present)}; check that the others run and that no firewall'
        f' keeps them from {process.address}{refusal}'
      )
    answer = make_report(error)
    for connection in connections:
      with contextlib.suppress(OSError):
        connection.settimeout(sockets.READ_SECONDS)
        _send_json(connection, answer)
  return answer


def _parse_own(line: bytes, own: Report, count: int) -> Report:
  """Returns a report if it is of a process of this job, else ValueError."""
  report = parse_report(line)
  expected, found = (
    each['token'].encode(errors='surrogatepass') for each in (own, report)
  )
  if expected and not hmac.compare_digest(expected, found):
    raise ValueError(f'another {TOKEN}')
  is_outside = report['index'] >= count
  if is_outside and report['facts'].get(_COUNT) == own['facts'][_COUNT]:
    raise ValueError('index: outside the job')
  return report


def _find_double(
  first: Report | None, second: Report
) -> errors.UserError | None:
  if first is None or first['sender'] == second['sender']:
    return None
  return errors.ConfigError(
    f'two processes have index {second["index"]}: one on {first["host"]}, one'
    f' on {second["host"]}; start each index once'
  )


def _report_to_coordinator(
  process: ProcessAddress, report: Report, seconds: float
) -> Report:
  """Sends this process's report and returns the answer to all processes."""
  deadline = time.monotonic() + seconds
  address = sockets.split_address(process.address)
  while time.monotonic() < deadline:
    try:
      with socket.create_connection(address, timeout=2) as connection:
        _send_json(connection, report)
        # Process 0 waits for the others until its own deadline.
        return parse_report(sockets.read_line(connection, seconds + 5))
    except (OSError, ValueError):
      time.sleep(_RETRY_SECONDS)
  raise errors.CheckFailed(
    f'process {process.index} ({report["host"]}): process 0 did not answer at'
    f' {process.address} within {seconds:g} s; check that it runs with the same'
    f' {TOKEN}, that no firewall closes its port and that no other process has'
    f' index {process.index}'
  )


def _listen(process: ProcessAddress, deadline: float) -> socket.socket:
  host, port = sockets.split_address(process.address)
  bind_host = sockets.choose_bind_host(host)
  while True:
    try:
      return sockets.listen(bind_host, port, process.count + _EXTRA_BACKLOG)
    except OSError as error:
      if time.monotonic() > deadline:
        raise errors.CheckFailed(
          f'process 0 cannot listen at {process.address}: {error.strerror};'
          ' give a free port, and index 0 to one process only'
        ) from error
      time.sleep(_RETRY_SECONDS)


def _send_json(connection: socket.socket, report: Report) -> None:
  connection.sendall(json.dumps(report).encode() + b'\n')
