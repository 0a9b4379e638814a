"""Addresses: how they are written, and from where they are reached."""

import contextlib
import socket

import pytest

from byol_jax import errors
from byol_jax.distributed import sockets
from tests.helpers import tiny_run


@pytest.mark.parametrize(
  'host, address',
  (('10.0.0.1', '10.0.0.1:1'), ('a-0.b', 'a-0.b:65535'), ('::1', '[::1]:80')),
)
def test_an_address_is_split_and_joined(host, address):
  found, port = sockets.split_address(address)
  assert (found, sockets.join_address(found, port)) == (host, address)


@pytest.mark.parametrize(
  'port', ('0', '65536', '-1', '+1', '1e3', '', ' 80', '\u0663', '9' * 5000)
)
def test_a_port_out_of_range_is_refused(port):
  with pytest.raises(errors.ConfigError, match='port in 1 to 65535') as caught:
    sockets.split_address(f'host:{port}')
  assert len(str(caught.value)) < 300


def find_own_address():
  """This machine's address towards another one; nothing is sent."""
  with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    try:
      probe.connect(('198.51.100.1', 9))
    except OSError:
      pytest.skip('needs a network interface')
    return probe.getsockname()[0]


def is_reached(address, port):
  with contextlib.suppress(OSError):
    socket.create_connection((address, port), timeout=5).close()
    return True
  return False


@pytest.mark.parametrize(
  'host, loopback, outside',
  (
    *(('localhost', True, False), ('127.0.0.1', True, False)),
    ('own address', False, True),
    # Of another machine, or one whose table has a loopback address for it.
    *(('198.51.100.1', True, True), ('this-machine', True, True)),
  ),
)
def test_process_0_listens_where_its_name_says(
  monkeypatch, host, loopback, outside
):
  own = find_own_address()
  found = socket.getaddrinfo('127.0.1.1', 0, type=socket.SOCK_STREAM)
  if host == 'this-machine':
    monkeypatch.setattr(socket, 'getaddrinfo', lambda *_, **__: found)
  bind_host = sockets.choose_bind_host(own if host == 'own address' else host)
  monkeypatch.undo()
  port = tiny_run.free_port()
  with sockets.listen(bind_host, port, 5):
    assert is_reached('127.0.0.1', port) == loopback
    assert is_reached(own, port) == outside


def test_a_line_that_has_arrived_is_read_before_its_connection_is_closed():
  with sockets.listen('127.0.0.1', 0, 5) as listener:
    receiver = sockets.LineReceiver(listener, 1)
    address = listener.getsockname()
    with socket.create_connection(address, timeout=5) as first:
      assert [*receiver.receive()] == []
      first.sendall(b'line\n')
      with socket.create_connection(address, timeout=5):
        ((connection, line),) = receiver.receive()
        assert line == b'line\n'
        connection.close()
        receiver.close()
