"""All processes report, in threads here; the missing and unlike are named."""

import concurrent.futures
import contextlib
import json
import socket
import time

import pytest

from byol_jax import errors
from byol_jax.distributed import rendezvous, sockets
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


def test_processes_that_are_alike_go_on(caplog):
  assert exchange_all([{'jax': '1', 'seed': '0'}] * 5) == [0, 1, 2, 3, 4]
  # Started by hand: one warning of the job.
  (warning,) = caplog.messages
  assert f'{rendezvous.TOKEN} is not set' in warning


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


@pytest.mark.parametrize(
  'members, message',
  (
    (
      ((2, 0), (3, 2)),
      r'number of processes is 2 on process 0 .* 3 on process 2',
    ),
    (((3, 0), (2, 1)), 'is 3 on process 0 .* 2 on process 1'),
    (((3, 0), (3, 1), (3, 1)), 'two processes have index 1: one on '),
  ),
)
def test_another_number_or_a_double_index_is_named_on_all(
  monkeypatch, members, message
):
  monkeypatch.setattr(rendezvous, '_LAST_REPORTS_SECONDS', 0.5)
  port = tiny_run.free_port()

  def one(member):
    with pytest.raises(errors.ConfigError, match=message):
      exchange(port, *member, {'a': '1'})

  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    list(pool.map(one, members))


def test_foreign_text_is_quoted_and_cut():
  fact = rendezvous.make_report(None, {'a': '1'})
  other = fact | {'facts': {'a': '\x1b[2J\n' + 'x' * 10_000}}
  failed = rendezvous.make_report(errors.DataError('\x1b]0;\n' * 1000))
  for report in (other, failed):
    text = str(rendezvous.find_difference({0: fact, 1: report}))
    assert text.isprintable() and len(text) < 500
  assert str(rendezvous.read_error(failed)).isprintable()


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


def make_line(**changes):
  """What process 1 of 2 would send, with another value of some keys."""
  facts = {'number of processes': '2', 'a': '1'}
  report = rendezvous.make_report(None, facts)
  report |= {'index': 1, 'sender': 'x', 'token': TOKEN} | changes
  return json.dumps(report).encode() + b'\n'


def without(key):
  report = json.loads(make_line())
  del report[key]
  return json.dumps(report).encode() + b'\n'


TOKEN = 'of this job'
# Each is one connection to process 0, before that of process 1.
HOSTILE = {
  'nothing': b'',
  'a web browser': b'GET / HTTP/1.1\r\nHost: x\r\n\r\n',
  'gRPC': b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  'TLS': b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\n',
  'an empty line': b'\n',
  'no UTF-8': b'\xff\xfe\x00\n',
  'a half line': make_line()[:-20],
  'a half report': make_line()[:-20] + b'\n',
  'two lines': b'{}\n' + make_line(token='y'),
  '512 KB of [': b'[' * 512_000 + b'\n',
  'nested objects': b'{"a":' * 20_000 + b'\n',
  '1 MB without a newline': b'x' * 1_000_000,
  'a number of 100 KB': b'1' * 100_000 + b'\n',
  'a string of 1 MB': make_line(host='x' * 1_000_000),
  'a list': b'[1, 2]\n',
  'a string': b'"host"\n',
  'no key': b'{}\n',
  **{f'without {key}': without(key) for key in json.loads(make_line())},
  'host null': make_line(host=None),
  'host ESC': make_line(host='\x1b[2J'),
  'host of 201': make_line(host='x' * 201),
  'error a list': make_line(error=['e'], code=2),
  'code unknown': make_line(error='e', code=99),
  'code 0': make_line(error='e', code=0),
  'facts null': make_line(facts=None),
  'facts of numbers': make_line(facts={'a': 1}),
  'facts with ESC': make_line(facts={'\x1b[2J': '1'}),
  'index Infinity': make_line(index=float('inf')),
  'index true': make_line(index=True),
  'index text': make_line(index='1'),
  'index -1': make_line(index=-1),
  'index outside': make_line(index=2),
  'index of 5000 digits': make_line().replace(b'1,', b'1' * 5000 + b',', 1),
  'index 0 without the token': make_line(index=0, token=''),
  'index 1 without the token': make_line(token=''),
  'index 1 with another token': make_line(token='of another job'),
  'index 1 with half the token': make_line(token=TOKEN[:-1]),
  'an odd token': make_line(token='\ud800é'),
  'token a list': make_line(token=[TOKEN]),
  'an error without the token': make_line(token='', error='e', code=2),
  'other facts without the token': make_line(token='', facts={'a': '2'}),
  'another number without the token': make_line(
    token='', index=2, facts={'number of processes': '3'}
  ),
}


@pytest.fixture
def coordinator(monkeypatch):
  """Process 0 of 2, whose job has a token: (port, its future)."""
  monkeypatch.setenv(rendezvous.TOKEN, TOKEN)
  port = tiny_run.free_port()
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    yield port, pool.submit(exchange, port, 2, 0, {'a': '1'})


def connect(port):
  """A connection, once the port is open."""
  deadline = time.monotonic() + 10
  while time.monotonic() < deadline:
    with contextlib.suppress(ConnectionRefusedError):
      return socket.create_connection(('localhost', port), timeout=5)
    time.sleep(0.01)
  raise AssertionError('the port stays closed')


def complete(coordinator):
  """Process 1 reports, and both processes go on."""
  port, first = coordinator
  assert exchange(port, 2, 1, {'a': '1'}) == 1
  assert first.result() == 0


def test_hostile_lines_change_nothing(coordinator, capfd, caplog):
  with contextlib.ExitStack() as stack:
    connections = {}
    for name, line in HOSTILE.items():
      connections[name] = stack.enter_context(connect(coordinator[0]))
      with contextlib.suppress(OSError):  # closed before it has sent 1 MB
        connections[name].sendall(line)
    complete(coordinator)
    for name, connection in connections.items():
      with contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b'', name  # no answer
  assert (*capfd.readouterr(), *caplog.messages) == ('', '')


def send_without_end(connection, text):
  while True:
    connection.sendall(text)
    time.sleep(0.05)


def test_slow_and_silent_connections_keep_nobody_out(coordinator, monkeypatch):
  monkeypatch.setattr(sockets, 'READ_SECONDS', 0.5)
  port = coordinator[0]
  with contextlib.ExitStack() as stack:
    # More than may wait: the first ones are closed at once.
    silent = [stack.enter_context(connect(port)) for _ in range(80)]
    slow = stack.enter_context(connect(port))
    started = time.monotonic()
    with pytest.raises(OSError, match=r'reset|pipe'):  # at its deadline
      send_without_end(slow, b' ')
    assert 0.4 < time.monotonic() - started < 5
    assert all(connection.recv(1) == b'' for connection in silent)
    monkeypatch.setattr(sockets, 'READ_SECONDS', 60.0)
    long = stack.enter_context(connect(port))
    with pytest.raises(OSError, match=r'reset|pipe'):  # above the limit
      send_without_end(long, b' ' * sockets.MAX_LINE_BYTES)
    more = [stack.enter_context(connect(port)) for _ in range(80)]
    assert more[0].recv(1) == b''  # closed for the last one
    complete(coordinator)


def test_a_process_with_another_token_is_told_what_to_look_at(
  coordinator, monkeypatch
):
  port, _ = coordinator
  connect(port).close()  # it has read its own
  monkeypatch.setenv(rendezvous.TOKEN, 'other')
  with pytest.raises(errors.CheckFailed, match=f'same {rendezvous.TOKEN}'):
    exchange(port, 2, 1, {'a': '1'}, 0.5)
  monkeypatch.setenv(rendezvous.TOKEN, TOKEN)
  complete(coordinator)


def test_a_port_in_use_is_named():
  with socket.create_server(('', 0)) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(errors.CheckFailed, match=f'cannot listen at .*{port}'):
      exchange(port, 2, 0, {}, 0.5)
