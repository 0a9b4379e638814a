"""All processes report, in threads here; the missing and unlike are named."""

import concurrent.futures
import socket
import time

import pytest

from byol_jax import errors
from byol_jax.distributed import rendezvous
from tests.helpers import tiny_run


def exchange(port, count, index, report, seconds=20.0):
  """`report` gives facts, or an error to raise."""

  def load():
    if isinstance(report, errors.UserError):
      raise report
    return index, report

  process = rendezvous.ProcessAddress(f'localhost:{port}', count, index)
  return rendezvous.exchange_reports(process, load, seconds)


def exchange_all(reports, *, count=None, seconds=20.0, first=0):
  """Each process's result, or its error."""
  port = tiny_run.free_port()

  def one(index, report):
    try:
      return exchange(port, count or len(reports), index, report, seconds)
    except errors.UserError as error:
      return error

  with concurrent.futures.ThreadPoolExecutor(len(reports)) as pool:
    found = list(pool.map(one, range(first, first + len(reports)), reports))
  socket.create_server(('', port)).close()  # free for JAX
  return found


def test_processes_that_are_alike_go_on():
  assert exchange_all([{'jax': '1', 'seed': '0'}] * 5) == [0, 1, 2, 3, 4]


def test_the_first_difference_is_named_on_all(monkeypatch):
  # The fourth process does not report, and is not waited for.
  monkeypatch.setattr(rendezvous, '_LAST_REPORTS_SECONDS', 1.0)
  alike = {'jax': '0.10.2', 'config.epochs': '300.0'}
  reports = [alike, alike, alike | {'config.epochs': '100.0'}]
  started = time.monotonic()
  for error in exchange_all(reports, count=4, seconds=60):
    assert isinstance(error, errors.ConfigError)
    for part in ('config.epochs is 300.0', 'process 0', '100.0', 'process 2'):
      assert part in str(error)
    assert '\n' not in str(error)
  assert time.monotonic() - started < 30
  found = exchange_all([{'a': '1'}, {'a': '1', 'b': '2'}])
  assert all('b is None on process 0' in str(error) for error in found)


@pytest.mark.parametrize('failing', (0, 1))
def test_what_one_process_cannot_load_is_reported_by_all(failing):
  reports = [{'a': '1'}, {'a': '1'}, {'a': '1'}]
  reports[failing] = errors.DataError('/data/train: no such folder')
  for index, error in enumerate(exchange_all(reports)):
    assert isinstance(error, errors.DataError) and error.exit_code == 3
    assert '/data/train: no such folder' in str(error)
    named = f'process {failing} ({socket.gethostname()})' in str(error)
    assert named == (index != failing)


def test_missing_processes_are_named_after_the_timeout():
  for error in exchange_all([{'a': '1'}, {'a': '1'}], count=4, seconds=1.0):
    assert isinstance(error, errors.CheckFailed)
    assert 'after 1 s 2 of 4 processes have not reported: process 2, 3' in str(
      error
    )
    assert f'present are 0 ({socket.gethostname()}), 1' in str(error)
  (error,) = exchange_all([{'a': '1'}], count=2, seconds=0.5, first=1)
  assert isinstance(error, errors.CheckFailed)
  assert 'process 0 did not answer at localhost:' in str(error)


def test_connections_that_are_not_ours_change_nothing(monkeypatch):
  monkeypatch.setattr(rendezvous, '_READ_SECONDS', 1.0)
  port = tiny_run.free_port()
  sent = (b'GET / HTTP/1.1\r\n\r\n', b'', b'[1, 2]\n', b'{"a": 1}\n') * 3
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    first = pool.submit(exchange, port, 2, 0, {'a': '1'})
    # While one sends nothing the others wait in the queue of connections.
    with connect(port):
      for text in sent:
        with connect(port) as connection:
          connection.sendall(text)
      second = pool.submit(exchange, port, 2, 1, {'a': '1'})
      assert (first.result(), second.result()) == (0, 1)


def connect(port):
  """A connection, once the port is open.

  One second is too short for a second try: a full queue fails.
  """
  deadline = time.monotonic() + 10
  while time.monotonic() < deadline:
    try:
      return socket.create_connection(('localhost', port), timeout=1)
    except ConnectionRefusedError:
      time.sleep(0.05)
  raise AssertionError('the port stays closed')


def test_a_port_in_use_is_named():
  with socket.create_server(('', 0)) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(errors.CheckFailed, match=f'cannot listen at .*{port}'):
      exchange(port, 2, 0, {}, 0.5)
