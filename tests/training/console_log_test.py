"""The console: a bar that fits a terminal, lines when they are due."""

import fcntl
import io
import os
import re
import struct
import termios
import threading

import pytest

from byol_jax.training import console_log

VALUES = {
  **{'byol_loss': 0.64382, 'projection_std': 0.951, 'learning_rate': 0.0012},
  **{'images_per_second': 44485.3, 'data_wait': 0.031},
}


class Clock:
  now = 1000.0

  def __call__(self):
    return self.now


def open_console(stream, num_steps=2000, start_step=0, every_seconds=10.0):
  """(console, its clock, what it records)."""
  clock, recorded = Clock(), []
  console = console_log.Console(
    *(stream, num_steps, start_step, every_seconds, clock, recorded.append)
  )
  return console, clock, recorded


def test_a_pipe_gets_a_line_after_the_first_step_and_then_when_due():
  stream = io.StringIO()
  console, clock, recorded = open_console(stream)
  console.start_phase('reading', has_line=False)
  clock.now += 5
  console.start_phase('compiling')
  clock.now += 60
  peeked = []

  def peek():
    peeked.append(clock.now)
    return VALUES | {'byol_loss': len(peeked)}

  for step in range(1, 162):  # an eighth of a second a step
    if step % 50 == 0:
      console.write(step, VALUES)  # with the means of a log line
    console.tick(step, peek)
    clock.now += 0.125
  lines = stream.getvalue().splitlines()
  assert lines == recorded
  assert lines == [
    'compiling ...',
    'step 1/2000  byol_loss 1.0000  44,485 images/s  data wait 3 %  compiling'
    ' took 60 s  projection_std 0.951  learning_rate 0.0012',
    'step 81/2000  byol_loss 2.0000  44,485 images/s  data wait 3 %'
    '  eta 03:59  projection_std 0.951  learning_rate 0.0012',
    'step 161/2000  byol_loss 3.0000  44,485 images/s  data wait 3 %'
    '  eta 03:49  projection_std 0.951  learning_rate 0.0012',
  ]
  # Scalars are fetched for these lines alone.
  assert len(peeked) == 3


def test_what_follows_the_first_line_is_not_part_of_the_pace():
  stream = io.StringIO()
  console, clock, _ = open_console(stream, num_steps=11)
  console.tick(1, dict)
  clock.now += 100  # the monitor compiles
  console.write(1, {})
  console.tick(1, dict)
  clock.now += 10
  console.tick(2, dict)
  expected = ['step 1/11', 'step 2/11  eta 01:30']
  assert stream.getvalue().splitlines() == expected


def test_several_devices_and_a_known_peak_have_fields():
  stream = io.StringIO()
  console, _, _ = open_console(stream, num_steps=9)
  rates = {'images_per_second': 400.0, 'images_per_second_per_device': 100.0}
  console.tick(1, lambda: rates | {'flop_utilization': 0.25})
  expected = 'step 1/9  400 images/s (100 a device)  25 % of peak\n'
  assert stream.getvalue() == expected


def test_a_line_for_each_point_where_seconds_are_zero():
  stream = io.StringIO()
  console, _, _ = open_console(stream, every_seconds=0.0)
  for step in range(1, 31):
    if step % 10 == 0:
      console.write(step, VALUES)
    console.tick(step, dict)
  steps = re.findall(r'^step (\d+)/', stream.getvalue(), re.M)
  assert steps == ['1', '10', '20', '30']


@pytest.fixture
def terminal():
  """(a terminal of 80 columns as a stream, a function that reads it)."""
  reader, end = os.openpty()
  fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 80, 0, 0))
  found = []

  def drain():
    while not found or b'the end' not in found[-1]:
      found.append(os.read(reader, 65536))

  thread = threading.Thread(target=drain, daemon=True)
  thread.start()
  with os.fdopen(end, 'w') as stream:

    def read():
      stream.write('\nthe end')
      stream.flush()
      thread.join(10)
      text = b''.join(found).decode().replace('\r\n', '\n')
      return [part for part in re.split('[\r\n]', text) if part.strip()]

    yield stream, read
  os.close(reader)


def test_a_bar_of_80_columns_shows_all_of_the_largest_numbers(terminal):
  stream, read = terminal
  console, clock, recorded = open_console(stream, 703_100, 100_000)
  for step in range(100_001, 100_101):
    console.write(step, VALUES)
    console.tick(step, dict)
    clock.now += 0.9
  console.note('some \x1b[31m text')
  console.close()
  parts = read()
  assert max(map(len, parts)) <= 80
  bars = [x for x in parts if re.match(r'100\d+/703100 ', x)]
  assert 'byol_loss 0.6438  44,485 images/s  data wait 3 %  eta 150' in bars[-1]
  assert bars[-1].rstrip().endswith('|') or re.search(
    r'eta [\d:]+ *$', bars[-1]
  )
  # Lines that stay: one after the first step, then every ten seconds.
  lines = [part for part in parts if part.startswith('step ')]
  assert len(lines) == 9 and all('images/s' in line for line in lines)
  assert 'learning_rate 0.0012' in recorded[0]
  assert 'some \\x1b[31m text' in parts


def test_the_time_of_a_compilation_goes_on_in_a_terminal(terminal):
  stream, read = terminal
  console, clock, _ = open_console(stream)
  console._bar.mininterval = 0
  shown = threading.Event()
  show = console._show
  console._show = lambda text: (show(text), '7 s' in text and shown.set())
  console.start_phase('compiling')
  clock.now += 7
  assert shown.wait(10)
  console.tick(1, lambda: {'byol_loss': 4})
  console.close()
  parts = read()
  assert any(part.startswith('compiling ... 0 s') for part in parts)
  assert any(part.startswith('compiling ... 7 s') for part in parts)
  assert any(
    part.startswith('step 1/2000') and 'compiling took 7 s' in part
    for part in parts
  )
