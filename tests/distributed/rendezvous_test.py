"""All processes report, in threads here: who is missing or unlike is named."""

import concurrent.futures
import socket
import time

import pytest

from byol_jax import errors
from byol_jax.distributed import processes, rendezvous
from tests.helpers import tiny_run


def place(count, index, port):
  return processes.Place(f'localhost:{port}', count, index)


def hold(reports, *, count=None, seconds=20.0, first=0):
  """Each process's result, or its error; `reports` gives facts or an error."""
  port = tiny_run.free_port()
  count = count or len(reports)

  def one(index, report):
    def load():
      if isinstance(report, errors.UserError):
        raise report
      return index, report

    try:
      return rendezvous.hold(place(count, index, port), load, seconds)
    except errors.UserError as error:
      return error

  with concurrent.futures.ThreadPoolExecutor(len(reports)) as pool:
    return list(pool.map(one, range(first, first + len(reports)), reports))


@pytest.mark.parametrize('count', (2, 5))
def test_all_alike_go_on(count):
  assert hold([{'jax': '1', 'seed': '0'}] * count) == list(range(count))


def test_the_first_difference_is_named_on_all():
  alike = {'jax': '0.10.2', 'config.epochs': '300.0'}
  found = hold([alike, alike, alike | {'config.epochs': '100.0'}])
  for error in found:
    assert isinstance(error, errors.ConfigError)
    for part in ('config.epochs is 300.0', 'process 0', '100.0', 'process 2'):
      assert part in str(error)
    assert '\n' not in str(error)


def test_a_fact_that_only_one_has_is_a_difference():
  found = hold([{'a': '1'}, {'a': '1', 'b': '2'}])
  assert all('b is None on process 0' in str(error) for error in found)


def test_a_difference_is_told_before_everybody_is_there(monkeypatch):
  monkeypatch.setattr(rendezvous, '_LAST_CALL', 1.0)
  began = time.monotonic()
  found = hold([{'a': '1'}, {'a': '2'}], count=3, seconds=60)
  assert time.monotonic() - began < 30
  assert all(isinstance(error, errors.ConfigError) for error in found)


@pytest.mark.parametrize('failing', (0, 1))
def test_what_one_cannot_load_is_told_by_all(failing):
  reports = [{'a': '1'}, {'a': '1'}, {'a': '1'}]
  reports[failing] = errors.DataError('/data/train: no such folder')
  found = hold(reports)
  for index, error in enumerate(found):
    assert isinstance(error, errors.DataError) and error.exit_code == 3
    assert '/data/train: no such folder' in str(error)
    named = f'process {failing} ({socket.gethostname()})' in str(error)
    assert named == (index != failing)


def test_who_is_missing_is_named_after_the_time():
  found = hold([{'a': '1'}, {'a': '1'}], count=4, seconds=2.0)
  for error in found:
    assert isinstance(error, errors.CheckFailed)
    assert 'after 2 s 2 of 4 processes have not reported: process 2, 3' in str(
      error
    )
    assert f'here are 0 ({socket.gethostname()}), 1' in str(error)


def test_a_process_0_that_is_missing_is_named_with_its_address():
  (error,) = hold([{'a': '1'}], count=2, seconds=1.0, first=1)
  assert isinstance(error, errors.CheckFailed)
  assert 'process 0 did not answer at localhost:' in str(error)


def test_strangers_at_the_port_change_nothing():
  port = tiny_run.free_port()
  load = lambda: ('result', {'a': '1'})
  said = (b'GET / HTTP/1.1\r\n\r\n', b'', b'[1, 2]\n', b'{"a": 1}\n') * 3
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    first = pool.submit(rendezvous.hold, place(2, 0, port), load, 30)
    # While one says nothing the others wait in the queue of connections.
    with knock(port):
      for text in said:
        with knock(port) as line:
          line.sendall(text)
      second = pool.submit(rendezvous.hold, place(2, 1, port), load, 30)
      assert first.result() == second.result() == 'result'


def knock(port):
  """A connection, once somebody listens.

  One second is too short for a second try: a full queue fails.
  """
  deadline = time.monotonic() + 10
  while time.monotonic() < deadline:
    try:
      return socket.create_connection(('localhost', port), timeout=1)
    except ConnectionRefusedError:
      time.sleep(0.05)
  raise AssertionError('nobody listens')


def test_a_port_that_is_taken_is_named():
  with socket.create_server(('', 0)) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(errors.CheckFailed, match=f'cannot listen at .*{port}'):
      rendezvous.hold(place(2, 0, port), lambda: (None, {}), 0.5)


def test_the_port_is_free_for_jax_afterwards():
  port = tiny_run.free_port()
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    calls = [
      pool.submit(rendezvous.hold, place(2, i, port), lambda: (1, {}), 20)
      for i in range(2)
    ]
    assert [call.result() for call in calls] == [1, 1]
  socket.create_server(('', port)).close()
