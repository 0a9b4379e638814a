"""Before a job: all processes report to process 0, which compares them.

One JSON line each way over TCP. Process 0 listens on the coordinator's port,
which JAX takes over afterwards.
"""

from collections.abc import Callable, Mapping
import contextlib
import json
import socket
import time
from typing import Any, Protocol, TypeVar

from byol_jax import errors

T = TypeVar('T')
Report = dict[str, Any]

_LONGEST = 1 << 20  # bytes of a report
_RETRY = 0.2  # seconds
_LAST_CALL = 10.0
_STRANGERS = 64  # who may wait to be heard beside the processes


class Place(Protocol):
  """One process of a job; see `hosts.Place`."""

  @property
  def address(self) -> str:
    """HOST:PORT of process 0."""

  @property
  def count(self) -> int:
    """Processes."""

  @property
  def index(self) -> int:
    """Of this process."""


def hold(
  place: Place,
  load: Callable[[], tuple[T, Mapping[str, str]]],
  seconds: float,
) -> T:
  """Loads, reports, and returns once all processes are there and alike.

  Args:
    place: of this process.
    load: (what this process runs, facts that must be the same on all).
    seconds: for all to report. A difference is known as soon as the last one
      did.

  Raises:
    CheckFailed: processes are missing, which are named.
    ConfigError: two differ: names the fact, both values and both hosts.
    UserError: what `load` raised here or elsewhere.
  """
  deadline = time.monotonic() + seconds
  error, facts, result = None, {}, None
  try:
    result, found = load()
    facts = dict(found)
  except errors.UserError as caught:
    error = caught
  report = {
    'index': place.index,
    'facts': facts,
    **describe(error, socket.gethostname()),
  }
  if place.index == 0:
    verdict = _preside(place, report, deadline, seconds)
  else:
    verdict = _attend(place, report, deadline, seconds)
  refusal = revive(verdict, None)
  if error is not None or refusal is not None:
    raise error or refusal  # type: ignore[misc]
  return result  # type: ignore[return-value]


def describe(error: errors.UserError | None, host: str) -> Report:
  """An error, or none, as JSON has it."""
  if error is None:
    return {'host': host, 'error': None}
  return {'host': host, 'error': str(error), 'code': error.exit_code}


def revive(report: Report, index: int | None) -> errors.UserError | None:
  """The error of a report, with its process named unless `index` is None."""
  if report['error'] is None:
    return None
  kinds = {kind.exit_code: kind for kind in errors.UserError.__subclasses__()}
  where = '' if index is None else f'process {index} ({report["host"]}): '
  return kinds[report['code']](where + report['error'])


def differences(reports: Mapping[int, Report]) -> errors.UserError | None:
  """What is wrong between those who reported; None if nothing is."""
  for index, report in sorted(reports.items()):
    found = revive(report, index)
    if found is not None:
      return found
  first = reports[0]
  for index, report in sorted(reports.items()):
    for key in first['facts'] | report['facts']:
      here, there = first['facts'].get(key), report['facts'].get(key)
      if here != there:
        return errors.ConfigError(
          f'the processes differ: {key} is {here} on process 0'
          f' ({first["host"]}) and {there} on process {index}'
          f' ({report["host"]}); start the same command, code and packages'
          ' on all of them'
        )
  return None


def absence(
  reports: Mapping[int, Report], count: int, seconds: float
) -> errors.UserError | None:
  """Who is missing; None if nobody is."""
  missing = [str(index) for index in range(count) if index not in reports]
  if not missing:
    return None
  present = ', '.join(f'{i} ({r["host"]})' for i, r in sorted(reports.items()))
  return errors.CheckFailed(
    f'after {seconds:g} s {len(missing)} of {count} processes have not'
    f' reported: process {", ".join(missing)}; here are {present}'
  )


def _preside(
  place: Place, report: Report, deadline: float, seconds: float
) -> Report:
  """Process 0: hears all, answers all."""
  reports, error = {0: report}, revive(report, 0)
  with contextlib.ExitStack() as stack:
    listener = stack.enter_context(_listen(place, deadline))
    waiting = []
    while len(reports) < place.count:
      if error is not None:  # Whoever is about to report is to hear it too.
        deadline = min(deadline, time.monotonic() + _LAST_CALL)
      listener.settimeout(max(0.01, deadline - time.monotonic()))
      try:
        line = stack.enter_context(listener.accept()[0])
        line.settimeout(5)
        heard = _hear(line)
        reports[int(heard['index'])] = heard
        waiting.append(line)
      except TimeoutError:
        if time.monotonic() >= deadline:
          break
      except (OSError, ValueError, KeyError, TypeError):
        continue  # a stranger at the port
      error = error or differences(reports)
    error = error or absence(reports, place.count, seconds)
    verdict = describe(error, report['host'])
    for line in waiting:
      with contextlib.suppress(OSError):
        _say(line, verdict)
  return verdict


def _attend(
  place: Place, report: Report, deadline: float, seconds: float
) -> Report:
  """The others: report, and wait for the verdict."""
  host, port = place.address.rsplit(':', 1)
  while time.monotonic() < deadline:
    try:
      with socket.create_connection((host, int(port)), timeout=2) as line:
        _say(line, report)
        # Process 0 waits for the others until its own deadline.
        line.settimeout(seconds + 5)
        return _hear(line)
    except (OSError, ValueError):
      time.sleep(_RETRY)
  raise errors.CheckFailed(
    f'process {place.index} ({report["host"]}): process 0 did not answer at'
    f' {place.address} within {seconds:g} s; is it running, and its port open?'
  )


def _listen(place: Place, deadline: float) -> socket.socket:
  port = int(place.address.rsplit(':', 1)[1])
  while True:
    try:
      # Of both address families, like JAX's own service.
      return socket.create_server(
        ('', port),
        family=socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET,
        dualstack_ipv6=socket.has_dualstack_ipv6(),
        backlog=place.count + _STRANGERS,
      )
    except OSError as error:
      if time.monotonic() > deadline:
        raise errors.CheckFailed(
          f'process 0 cannot listen at {place.address}: {error.strerror}; give'
          ' a free port'
        ) from error
      time.sleep(_RETRY)


def _say(line: socket.socket, report: Report) -> None:
  line.sendall(json.dumps(report).encode() + b'\n')


def _hear(line: socket.socket) -> Report:
  with line.makefile('rb') as stream:
    text = stream.readline(_LONGEST)
  report = json.loads(text)
  if not isinstance(report, dict) or 'host' not in report:
    raise ValueError('not a report')
  return report
