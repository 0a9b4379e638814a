"""TCP for the report of processes: where to listen, and one line a connection.

Anybody who reaches the port may connect, so each connection has a deadline,
and the bytes and the number of those that are still read are limited.
"""

from collections.abc import Iterator
import contextlib
import ipaddress
import re
import selectors
import socket
import time

from byol_jax import errors

MAX_LINE_BYTES = 1 << 18
READ_SECONDS = 5.0  # for the line of one connection, from accepting it
_POLL_SECONDS = 0.1
_LOOPBACK_NAMES = ('localhost', 'localhost.localdomain', 'ip6-localhost')


def split_address(address: str) -> tuple[str, int]:
  """Returns (host, port); an IPv6 address without its brackets.

  Raises:
    ConfigError: not HOST:PORT, or the port is not in 1 to 65535.
  """
  host, _, port = address.rpartition(':')
  is_port = re.fullmatch('[0-9]{1,5}', port) and 0 < int(port) < 65536
  if not (host and is_port):
    raise errors.ConfigError(
      '--distributed: expected HOST:PORT with a port in 1 to 65535, found'
      f' {errors.quote(address)}'
    )
  return host.removeprefix('[').removesuffix(']'), int(port)


def join_address(host: str, port: int) -> str:
  """Returns HOST:PORT, an IPv6 address in brackets."""
  return f'[{host}]:{port}' if ':' in host else f'{host}:{port}'


def choose_bind_host(host: str) -> str:
  """Returns the address at which process 0 listens if it is called `host`.

  A loopback address for a loopback name, else an address of this machine that
  is none. Without such, '', all interfaces: addresses may be translated, and
  the name of a machine is often a loopback address on that machine alone.
  """
  wants_loopback = host in _LOOPBACK_NAMES or _is_loopback(host)
  with contextlib.suppress(OSError):
    found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    for family, *_, (address, *_) in sorted(found):  # IPv4 first
      if _is_loopback(str(address)) == wants_loopback:
        # An address of another machine cannot be bound.
        with (
          contextlib.suppress(OSError),
          socket.create_server((address, 0), family=family),
        ):
          return str(address)
  return ''


def _is_loopback(address: str) -> bool:
  try:
    return ipaddress.ip_address(address).is_loopback
  except ValueError:
    return False


def listen(bind_host: str, port: int, backlog: int) -> socket.socket:
  """Returns a listening socket; '' as host: all interfaces, both families."""
  both = not bind_host and socket.has_dualstack_ipv6()
  return socket.create_server(
    (bind_host, port),
    family=socket.AF_INET6 if both or ':' in bind_host else socket.AF_INET,
    dualstack_ipv6=both,
    backlog=backlog,
  )


def read_line(connection: socket.socket, seconds: float) -> bytes:
  """Returns one line.

  Raises:
    OSError: no line within `seconds` or MAX_LINE_BYTES.
  """
  deadline, line = time.monotonic() + seconds, b''
  while not line.endswith(b'\n'):
    connection.settimeout(max(0.01, deadline - time.monotonic()))
    received = connection.recv(MAX_LINE_BYTES)
    line += received
    if not received or len(line) > MAX_LINE_BYTES:
      raise ConnectionError(f'no line in {len(line)} bytes')
    if time.monotonic() > deadline:
      raise TimeoutError
  return line


class LineReceiver:
  """Reads one line from each connection, from all of them at once.

  Of more than `max_connections` whose line is incomplete, the oldest is closed:
  silent ones do not keep out those that send theirs.
  """

  def __init__(self, listener: socket.socket, max_connections: int):
    self._listener = listener
    self._max_connections = max_connections
    # In the order in which they were accepted.
    self._deadlines: dict[socket.socket, float] = {}
    self._selector = selectors.DefaultSelector()
    listener.setblocking(False)
    self._selector.register(listener, selectors.EVENT_READ)

  def receive(self) -> Iterator[tuple[socket.socket, bytes]]:
    """Yields each connection with its line, for at most a tenth of a second.

    The caller closes what it gets.
    """
    ready = [key for key, _ in self._selector.select(_POLL_SECONDS)]
    # Last the listener: a new connection may close an old one.
    for key in sorted(ready, key=lambda key: key.fileobj is self._listener):
      connection = key.fileobj
      assert isinstance(connection, socket.socket)
      if connection is self._listener:
        self._accept()
      else:
        line = self._read(connection, key.data)
        if line is not None:
          yield connection, line
    now = time.monotonic()
    for connection, deadline in [*self._deadlines.items()]:
      if now > deadline:
        self._forget(connection).close()

  def _accept(self) -> None:
    try:
      connection, _ = self._listener.accept()
    except OSError:  # it is gone again
      return
    connection.setblocking(False)
    self._deadlines[connection] = time.monotonic() + READ_SECONDS
    self._selector.register(connection, selectors.EVENT_READ, bytearray())
    if len(self._deadlines) > self._max_connections:
      self._forget(next(iter(self._deadlines))).close()

  def _read(self, connection: socket.socket, line: bytearray) -> bytes | None:
    """Adds what has arrived to `line`; returns it once it is complete."""
    try:
      received = connection.recv(MAX_LINE_BYTES)
    except OSError:
      received = b''
    line += received
    if b'\n' in received:
      self._forget(connection)
      return bytes(line)
    if not received or len(line) > MAX_LINE_BYTES:
      self._forget(connection).close()
    return None

  def _forget(self, connection: socket.socket) -> socket.socket:
    self._selector.unregister(connection)
    del self._deadlines[connection]
    return connection

  def close(self) -> None:
    """Closes all connections whose line is incomplete."""
    for connection in [*self._deadlines]:
      self._forget(connection).close()
    self._selector.close()
