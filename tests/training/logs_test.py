"""What a run says: no step lost or double, valid JSON, and it never stops."""

import io
import json
import math
import os
import pathlib
import resource
import subprocess
import sys

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from byol_jax.training import logs

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Clock:
  """Time that passes when told."""

  def __init__(self, now=1000.0):
    self.now = now

  def __call__(self):
    return self.now


class Terminal(io.StringIO):
  def isatty(self):
    return True


def lines(folder):
  return [
    json.loads(line, parse_constant=pytest.fail)
    for line in (folder / 'scalars.jsonl').read_text().splitlines()
  ]


def events(folder):
  """All events: length, its CRC, an event, its CRC, and so on."""
  found = []
  for path in sorted((folder / 'tensorboard').iterdir()):
    data = path.read_bytes()
    while data:
      size = int.from_bytes(data[:8], 'little')
      if len(data) < 16 + size:
        break
      found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
      data = data[16 + size :]
  return found


def make(folder, steps=100, **more):
  stream = io.StringIO()
  return logs.Logs(folder, steps, stream=stream, **more), stream


def test_scalars_reach_all_three_places(tmp_path):
  clock = Clock()
  writer, stream = make(tmp_path, clock=clock)
  writer.write(10, {'loss': np.float32(1.5), 'accuracy': 1})
  writer.close()
  assert lines(tmp_path) == [
    {'accuracy': 1.0, 'loss': 1.5, 'step': 10, 'time': 1000.0}
  ]
  scalars = {
    (event.step, value.tag, value.simple_value)
    for event in events(tmp_path)
    for value in event.summary.value
  }
  assert scalars == {(10, 'loss', 1.5), (10, 'accuracy', 1.0)}
  assert stream.getvalue().startswith('step 10/100  loss 1.5  accuracy 1')


def test_keys_of_a_line_are_sorted(tmp_path):
  writer, _ = make(tmp_path, tensorboard=False)
  writer.write(1, {'z': 1, 'a': 2, 'top1': 3})
  writer.close()
  assert list(lines(tmp_path)[0]) == ['a', 'step', 'time', 'top1', 'z']
  assert not (tmp_path / 'tensorboard').exists()


def test_numbers_that_are_not_finite_are_valid_json(tmp_path):
  writer, stream = make(tmp_path)
  writer.write(1, {'a': math.nan, 'b': -math.inf, 'c': math.inf})
  writer.close()
  (line,) = lines(tmp_path)
  assert [line[key] for key in 'abc'] == ['nan', '-inf', 'inf']
  assert float(line['b']) == -math.inf
  assert 'a nan  b -inf  c inf' in stream.getvalue()


def test_a_plain_line_reads_as_promised(tmp_path):
  clock = Clock()
  writer, stream = make(tmp_path, steps=2000, clock=clock)
  scalars = {
    'loss': 3.2149,
    'images_per_second': 812.3,
    'learning_rate': 0.0012,
    'data_wait': 0.03,
  }
  clock.now += 60  # The first step compiles: its pace is not the run's.
  writer.write(100, scalars)
  clock.now += 4
  writer.write(200, scalars)
  writer.note('a word')
  writer.close()
  first, second, word = stream.getvalue().splitlines()
  assert second == (
    'step 200/2000  loss 3.215  learning_rate 0.0012  812.3 images/s'
    '  data wait 3 %  eta 1m12s'
  )
  assert first.endswith('eta 19m00s')
  assert word == 'a word'


@pytest.mark.parametrize(
  'seconds, text',
  [
    (0, '0s'),
    (59.4, '59s'),
    (59.6, '1m00s'),
    (72, '1m12s'),
    (3599.7, '1h00m'),
    (3725, '1h02m'),
    (2 * 86400 + 3 * 3600, '2d03h'),
    (-5, '0s'),
  ],
)
def test_lengths_of_time(seconds, text):
  assert logs.format_seconds(seconds) == text


def test_a_resumed_run_has_each_step_once(tmp_path):
  writer, _ = make(tmp_path)
  for step in (10, 20, 30):
    writer.write(step, {'run': 1})
  writer.close()
  # The checkpoint was of step 20; a kill tore the last line.
  with open(tmp_path / 'scalars.jsonl', 'a') as file:
    file.write('{"run": 1, "st')
  writer, _ = make(tmp_path, start_step=20)
  for step in (30, 40):
    writer.write(step, {'run': 2})
  writer.close()
  found = [(line['step'], line['run']) for line in lines(tmp_path)]
  assert found == [(10, 1), (20, 1), (30, 2), (40, 2)]
  starts = [
    event.step
    for event in events(tmp_path)
    if event.session_log.status == event_pb2.SessionLog.START
  ]
  assert sorted(starts) == [1, 21]  # TensorBoard hides what follows, before.


def test_a_run_from_the_start_drops_all(tmp_path):
  writer, _ = make(tmp_path)
  writer.write(10, {'run': 1})
  writer.close()
  writer, _ = make(tmp_path)
  writer.close()
  assert lines(tmp_path) == []


def test_kept_lines_keep_their_bytes(tmp_path):
  file = tmp_path / 'scalars.jsonl'
  old = b'{"step":1, "x": 0.10, "word": "\xc3\xbc"}\n'
  # The last would be glued to the next: its end of line is missing.
  file.write_bytes(old + b'{"step": 2}\n[]\nnonsense\n{"step": 1}')
  writer, _ = make(tmp_path, start_step=1)
  writer.close()
  assert file.read_bytes() == old


def test_a_run_goes_on_where_nothing_can_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  writer, stream = make(tmp_path / 'file')
  for step in range(1, 30):
    writer.write(step, {'loss': 1})
  writer.close()
  said = stream.getvalue()
  assert said.count('warning: scalars.jsonl') == 1
  assert said.count('warning: tensorboard') == 1
  assert said.count('step ') == 29


def test_a_full_disk_warns_once_and_leaves_whole_lines(tmp_path):
  """A limit on the size of files stands for the disk: root has it too."""
  writer, stream = make(tmp_path)
  old = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
  try:
    for step in range(1, 101):
      writer.write(step, {'loss': step / 7})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
  # Room again: the lines go on.
  writer.write(101, {'loss': 0})
  writer.close()
  steps = [line['step'] for line in lines(tmp_path)]
  assert 5 < len(steps) < 50
  assert steps == sorted(set(steps)) and steps[-1] == 101
  assert stream.getvalue().count('warning: scalars.jsonl') == 1
  assert stream.getvalue().count('warning: tensorboard') == 1
  # A record may be cut: nothing is put behind it.
  assert 5 < max(event.step for event in events(tmp_path)) < 50


PIPED = """
import sys, tempfile
from byol_jax.training import logs
with tempfile.TemporaryDirectory() as folder:
  writer = logs.Logs(folder, 5)
  for step in range(1, 6):
    writer.write(step, {'loss': 1})
    if step == 1: sys.stdin.readline()
  writer.close()
  print(open(folder + '/scalars.jsonl').read().count('loss'), file=sys.stderr)
"""


def test_the_reader_of_a_pipe_may_leave(tmp_path):
  process = subprocess.Popen(
    [sys.executable, '-c', PIPED],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline().startswith('step 1/5')
  process.stdout.close()
  process.stdin.write('go on\n')
  process.stdin.flush()
  assert process.stderr.readline() == '5\n'
  process.wait()
  process.stdin.close()
  process.stderr.close()


def test_a_terminal_gets_a_bar(tmp_path):
  stream = Terminal()
  writer = logs.Logs(tmp_path, 50, start_step=10, stream=stream)
  writer.write(30, {'loss': 1.25})
  writer.note('a word')
  writer.close()
  said = stream.getvalue()
  assert '30/50' in said and 'loss 1.25' in said and 'a word\n' in said
  assert '\r' in said


def test_a_tick_moves_the_bar_alone(tmp_path):
  stream = Terminal()
  writer = logs.Logs(tmp_path, 50, stream=stream)
  for step in range(1, 41):
    writer.tick(step)
  writer.close()
  assert '40/50' in stream.getvalue()
  assert lines(tmp_path) == []
  # Without a terminal it says nothing.
  writer, stream = make(tmp_path)
  writer.tick(1)
  writer.close()
  assert stream.getvalue() == ''


def test_a_silent_one_leaves_no_trace(tmp_path):
  writer, stream = make(tmp_path, silent=True)
  writer.tick(1)
  writer.write(1, {'loss': 1})
  writer.note('a word')
  writer.close()
  assert stream.getvalue() == '' and not list(tmp_path.iterdir())


def test_the_meter_knows_rate_and_waiting():
  clock = Clock(0.0)
  meter = logs.Meter(clock)

  def batches():
    for item in 'abc':
      clock.now += 1  # The input takes one second a batch,
      yield item

  seen = []
  for item in meter.iterate(batches()):
    clock.now += 3  # the step three.
    seen.append(item)
  assert seen == ['a', 'b', 'c']
  assert meter.read(48) == {'images_per_second': 4.0, 'data_wait': 0.25}
  # A new interval: nothing of the old one is left in it.
  clock.now += 2
  assert meter.read(10) == {'images_per_second': 5.0, 'data_wait': 0.0}


def test_the_meter_counts_a_block_and_can_restart():
  clock = Clock(0.0)
  meter = logs.Meter(clock)
  clock.now += 100
  meter.restart()
  with meter.waiting():
    clock.now += 2
  assert meter.read(6) == {'images_per_second': 3.0, 'data_wait': 1.0}
  assert meter.read(6) == {'images_per_second': 0.0, 'data_wait': 0.0}


def test_the_meter_hands_on_errors_of_the_input():
  meter = logs.Meter(Clock())

  def broken():
    yield 1
    raise OSError('gone')

  iterator = meter.iterate(broken())
  assert next(iterator) == 1
  with pytest.raises(OSError, match='gone'):
    next(iterator)


def test_two_quick_starts_share_no_event_file(tmp_path):
  for start in (0, 5):
    writer, _ = make(tmp_path, start_step=start)
    writer.close()
  assert len(os.listdir(tmp_path / 'tensorboard')) == 2
