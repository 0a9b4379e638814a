"""Logs: each step once, valid JSON, and no failure that ends a run."""

import contextlib
import io
import json
import logging
import math
import os
import time

import numpy as np
import pytest
import tensorboardX
from tensorboardX.proto import event_pb2

from byol_jax.training import logs, scalars as scalars_lib
from tests.helpers import full_disk, pods


class Clock:
  """Time that passes when told."""

  def __init__(self, now=1000.0):
    self.now = now

  def __call__(self):
    return self.now


class Terminal(io.StringIO):
  def isatty(self):
    return True


def read_lines(folder):
  return [
    json.loads(line, parse_constant=pytest.fail)
    for line in (folder / 'scalars.jsonl').read_text().splitlines()
  ]


def read_events(folder):
  """All events; a record is length, its CRC, the event, its CRC."""
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


def open_logs(folder, steps=100, kind=io.StringIO, **more):
  stream = kind()
  return logs.Logs(folder, steps, stream=stream, **more), stream


def write_steps(folder, steps, scalars, **more):
  """Returns what the console shows."""
  writer, stream = open_logs(folder, **more)
  for step in steps:
    writer.write(step, scalars)
    writer.tick(step)
  writer.close()
  return stream.getvalue()


def test_scalars_reach_all_three_places(tmp_path, monkeypatch):
  """Also tools that patch the writer of TensorBoard."""
  seen, add = [], tensorboardX.SummaryWriter.add_scalar
  monkeypatch.setattr(
    *(tensorboardX.SummaryWriter, 'add_scalar'),
    lambda self, *x, **more: seen.append(x) or add(self, *x, **more),
  )
  scalars = {'accuracy': 1, 'byol_loss': np.float32(1.5)}
  for kind in (io.StringIO, Terminal):
    options = {'silent': True, 'kind': kind}
    assert write_steps(tmp_path, [10], scalars, **options) == ''
  assert not seen and not list(tmp_path.iterdir())
  output = write_steps(tmp_path, [10], scalars, clock=Clock())
  (line,) = read_lines(tmp_path)
  assert line == {
    **{'accuracy': 1.0, 'byol_loss': 1.5, 'step': 10, 'time': 1000.0}
  }
  assert list(line) == sorted(line)
  events = [
    (value.tag, value.simple_value, event.step, event.wall_time)
    for event in read_events(tmp_path)
    for value in event.summary.value
  ]
  assert events == seen
  assert seen == [
    ('byol_loss', 1.5, 10, 1000.0),
    ('accuracy', 1.0, 10, 1000.0),
  ]
  assert output.startswith('step 10/100  byol_loss 1.5000  accuracy 1')


def test_tensorboard_says_once_what_a_scalar_means(tmp_path):
  write_steps(tmp_path, [10, 20], {'byol_loss': 1, 'x': 2})
  found = [
    (event.step, value.tag, value.metadata.summary_description)
    for event in read_events(tmp_path)
    for value in event.summary.value
  ]
  assert found == [
    (10, 'byol_loss', scalars_lib.describe('byol_loss')),
    (10, 'x', ''),
    (20, 'byol_loss', ''),
    (20, 'x', ''),
  ]


def test_numbers_that_are_not_finite_are_valid_json(tmp_path):
  scalars = {'a': math.nan, 'b': -math.inf, 'c': math.inf}
  output = write_steps(tmp_path, [1], scalars, tensorboard=False)
  (line,) = read_lines(tmp_path)
  assert [line[key] for key in 'abc'] == ['nan', '-inf', 'inf']
  assert float(line['b']) == -math.inf
  assert 'a nan  b -inf  c inf' in output
  assert not (tmp_path / 'tensorboard').exists()


def test_a_slow_input_is_named_once(tmp_path):
  writer, stream = open_logs(tmp_path)
  writer.tick(1)
  for step, wait in ((2, 0.03), (3, 0.6), (4, 0.6)):
    writer.write(step, {'byol_loss': 1, 'data_wait': wait})
  writer.close()
  assert stream.getvalue().count('the input is the bottleneck: 60 %') == 1


def test_what_is_printed_is_in_run_log_with_its_time(tmp_path, monkeypatch):
  """Warnings too, and whole lines; a resumed run goes on in it."""
  monkeypatch.setenv('COLUMNS', '60')
  others = {f'scalar_{i}': i for i in range(30)}
  for start in (0, 20):
    writer, stream = open_logs(tmp_path, kind=Terminal, start_step=start)
    writer.note('a note')
    logging.getLogger().warning('a.png: no image\n')
    logging.getLogger().info('no warning')
    writer.tick(start + 1, lambda: {'byol_loss': 1.0, **others})
    writer.note_end('done')
    writer.close()
    assert 'scalar_29' not in stream.getvalue()
  logging.getLogger().warning('after the end')
  lines = (tmp_path / 'run.log').read_text().splitlines()
  assert len(lines) == 10
  for line in lines:
    time.strptime(line[:19], '%Y-%m-%d %H:%M:%S')
  texts = [line[21:] for line in lines]
  assert texts[:2] == ['a note', 'a.png: no image\\n']
  assert texts[2].startswith('step 1/100  byol_loss 1.0000  scalar_0 0')
  assert texts[2].endswith('scalar_29 29') and texts[7].startswith('step 21/')
  assert texts[3] == 'done'
  assert texts[4].startswith(
    f'curves: tensorboard --logdir={tmp_path}/tensorboard'
  )
  assert 'curves' not in write_steps(tmp_path, [1], {}, tensorboard=False)


def test_a_caller_gets_the_scalars_of_each_line(tmp_path):
  seen = []
  more = {'tensorboard': False, 'on_log': lambda *x: seen.append(x)}
  write_steps(tmp_path, [10, 20], {'b': np.float32(1), 'byol_loss': 2}, **more)
  assert seen == [(step, {'byol_loss': 2.0, 'b': 1.0}) for step in (10, 20)]
  write_steps(tmp_path, [30], {'b': 1}, silent=True, **more)
  assert len(seen) == 2

  def stop(*_):
    raise KeyError

  with pytest.raises(KeyError):
    write_steps(tmp_path, [30], {'b': 1}, on_log=stop)


def test_tools_that_replace_the_writer_of_events_see_the_folder(
  tmp_path, monkeypatch
):
  """As the synchronisation of Weights & Biases does."""
  folders, kind = [], tensorboardX.writer.EventFileWriter

  class Spy(kind):
    def __init__(self, logdir, *arguments, **more):
      folders.append(logdir)
      super().__init__(logdir, *arguments, **more)

  monkeypatch.setattr(tensorboardX.writer, 'EventFileWriter', Spy)
  write_steps(tmp_path, [1], {'byol_loss': 1})
  assert folders == [str(tmp_path / 'tensorboard')]


def test_a_resumed_run_has_each_step_once(tmp_path):
  write_steps(tmp_path, [10, 20, 30], {'run': 1})
  # The checkpoint was of step 20; a kill tore the last line.
  with open(tmp_path / 'scalars.jsonl', 'a') as file:
    file.write('{"run": 1, "st')
  write_steps(tmp_path, [30, 40], {'run': 2}, start_step=20)
  found = [(line['step'], line['run']) for line in read_lines(tmp_path)]
  assert found == [(10, 1), (20, 1), (30, 2), (40, 2)]
  starts = [
    event.step
    for event in read_events(tmp_path)
    if event.session_log.status == event_pb2.SessionLog.START
  ]
  assert sorted(starts) == [1, 21]  # TensorBoard hides what came before
  assert len(os.listdir(tmp_path / 'tensorboard')) == 2
  write_steps(tmp_path, [], {})
  assert read_lines(tmp_path) == []


def test_kept_lines_keep_their_bytes(tmp_path):
  file = tmp_path / 'scalars.jsonl'
  old = b'{"step":1, "x": 0.10, "word": "\xc3\xbc"}\n'
  # The last lacks its end of line: the next would be appended to it.
  for torn in (
    *(b'{"step": 2}\n', b'[]\n', b'nonsense\n', b'{"step": 1}'),
    *(
      b'{"step": "x"}\n',
      b'[' * 200_000 + b'\n',
      b'{"step": 1%s}\n' % (b'0' * 400),
    ),
  ):
    file.write_bytes(old + torn)
    write_steps(tmp_path, [], {}, start_step=1, tensorboard=False)
    assert file.read_bytes() == old


def test_a_run_goes_on_where_nothing_can_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  output = write_steps(tmp_path / 'file', range(1, 30), {'loss': 1})
  assert output.count('warning: scalars.jsonl') == 1
  assert output.count('warning: tensorboard') == 1
  assert output.count('step ') == 29


def test_links_and_pipes_are_left_alone(tmp_path):
  """A pipe without a reader, and a file of the user behind a link."""
  target, lines = tmp_path / 'target', tmp_path / 'scalars.jsonl'
  target.write_text('kept')
  for make in (os.mkfifo, lambda path: path.symlink_to(target)):
    make(lines)
    output = write_steps(tmp_path, [1, 2], {'loss': 1}, tensorboard=False)
    assert output.count('scalars.jsonl cannot be written') == 1
    assert 'is a symbolic link, a pipe or a device' in output
    assert output.count('step ') == 2
    lines.unlink()
  assert target.read_text() == 'kept'


def test_a_full_disk_warns_once_and_leaves_whole_lines(tmp_path, monkeypatch):
  """A limit on the size of files stands for the disk: root has it too."""
  add, added = tensorboardX.SummaryWriter.add_scalar, []
  events_writer, taken = tensorboardX.event_file_writer.EventsWriter, []
  write_event = events_writer.write_event

  def count(self, *arguments, **more):
    added.append(arguments)
    add(self, *arguments, **more)

  def take(self, event):  # in the thread that writes events
    try:
      write_event(self, event)
    finally:
      taken.append(event.step)

  monkeypatch.setattr(tensorboardX.SummaryWriter, 'add_scalar', count)
  monkeypatch.setattr(events_writer, 'write_event', take)
  writer, stream = open_logs(tmp_path)
  with full_disk.limit_files(1000):
    for step in range(1, 101):
      writer.write(step, {'loss': step / 7})
      if len(added) == step:
        pods.wait_until(lambda step=step: step in taken)
  # Room again: the lines go on.
  writer.write(101, {'loss': 0})
  writer.close()
  steps = [line['step'] for line in read_lines(tmp_path)]
  assert 5 < len(steps) < 50
  assert steps == sorted(set(steps)) and steps[-1] == 101
  assert stream.getvalue().count('warning: scalars.jsonl') == 1
  assert stream.getvalue().count('warning: tensorboard') == 1
  # No events are queued for a thread that may have ended.
  assert 5 < max(event.step for event in read_events(tmp_path)) < 50
  assert len(added) < 50


@pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnhandledThreadExceptionWarning'
)
def test_a_tensorboard_thread_that_ended_does_not_block_the_run(
  tmp_path, monkeypatch
):
  writer, _ = open_logs(tmp_path)

  def fail(self, event):
    raise OSError('no space')

  events_writer = tensorboardX.event_file_writer.EventsWriter
  monkeypatch.setattr(events_writer, 'write_event', fail)
  for step in range(50):
    writer.write(step, {'loss': 1})
  writer.close()
  assert len(read_lines(tmp_path)) == 50


def test_the_reader_of_a_pipe_may_leave(tmp_path):
  reader, pipe = os.pipe()
  with contextlib.suppress(BrokenPipeError), open(pipe, 'w') as stream:
    writer = logs.Logs(tmp_path, 5, stream=stream)
    writer.tick(1, lambda: {'loss': 1})
    assert os.read(reader, 100).startswith(b'step 1/5')
    os.close(reader)
    for step in range(2, 6):
      writer.write(step, {'loss': 1})
    writer.close()
  assert len(read_lines(tmp_path)) == 4


def test_the_meter_measures_rates_and_waiting():
  clock = Clock(0.0)
  meter = logs.Meter(clock)
  meter.devices = 4
  clock.now += 100
  meter.restart()
  for _ in range(3):
    with contextlib.suppress(StopIteration), meter.waiting():
      clock.now += 1  # the input takes one second a batch,
      raise StopIteration
    clock.now += 3  # the step three
  names = 'images_per_second', 'images_per_second_per_device', 'data_wait'
  assert meter.read(48) == dict(zip(names, (4.0, 1.0, 0.25)))
  meter.restart(images=8)  # as after the first step, which compiled
  clock.now += 2
  assert meter.peek(8) == {}
  assert meter.peek(16) == dict(zip(names, (4.0, 1.0, 0.0)))
  assert meter.read(24)['images_per_second'] == 8.0
  # A new interval: nothing of the old one is left in it.
  clock.now += 2
  meter.peak_seconds = 0.1  # an image keeps all devices busy so long
  found = meter.read(10)
  assert found.pop('flop_utilization') == pytest.approx(0.5)
  assert found == dict(zip(names, (5.0, 1.25, 0.0)))
