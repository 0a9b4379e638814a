"""A trace of some steps of a run, and its operations and rate."""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import api, errors
from byol_jax.distributed import placement, processes
from byol_jax.planning import topologies
from byol_jax.training import (
  hardware,
  logs,
  loop,
  profiling,
  recovery,
  scalar_buffer,
  scalars,
  train,
)
from tests.helpers import wiring
from tests.helpers.tiny_config import ArraySet, tiny

pytestmark = pytest.mark.usefixtures('compiled_once')


def test_a_run_traces_its_sixth_to_tenth_step(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(hardware, 'find_peak', lambda kind: 1e12)
  counted = wiring.spy(monkeypatch, hardware, 'count_flops')
  config, folder = tiny(), tmp_path / 'trace'
  api.pretrain_on(ArraySet(), config, tmp_path / 'run', profile=folder)
  assert f'profile: tensorboard --logdir={folder}' in capsys.readouterr().out
  times = profiling.sum_times(folder)
  assert any('conv' in name for name in times) and min(times.values()) > 0
  (path,) = folder.rglob('*.xplane.pb')
  steps = [
    dict(event.stats)['step_num']
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes
    for line in plane.lines
    for event in line.events
    if event.name == 'train'
  ]
  assert sorted(steps) == [5, 6, 7, 8, 9]
  (folder / 'older.xplane.pb').touch()
  os.utime(folder / 'older.xplane.pb', (0, 0))
  assert profiling.sum_times(folder) == times
  *_, record = scalars.read(tmp_path / 'run')
  assert record.keys() >= {*scalars.RATES}
  flops_per_image = counted[0].result / config.batch_size
  assert record['flop_utilization'] == pytest.approx(
    record['images_per_second'] * flops_per_image / 1e12
  )


def test_a_process_without_a_folder_takes_part_in_its_check(monkeypatch):
  """Else process 0 of a job, to which alone it was given, would wait."""
  names = wiring.spy(monkeypatch, processes, 'gather_strings')
  api._check_profile(None)
  api._check_profile('.')
  assert [call.arguments['name'] for call in names] == ['profile'] * 2


@pytest.mark.parametrize(
  'folder, kind, message',
  [
    ('gs://b/c', errors.ConfigError, "profile 'gs://b/c': expected a folder"),
    ('', errors.ConfigError, "profile: expected .*, found ''"),
    ('file', errors.DataError, 'file.: cannot be written: Not a directory'),
    ('file/a', errors.DataError, 'file/a.: cannot be written: Not a directory'),
  ],
)
def test_a_folder_of_no_use_is_refused_before_images(
  tmp_path, monkeypatch, folder, kind, message
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').touch()
  config, workdir = tiny(dataset=str(tmp_path / 'none')), tmp_path / 'run'
  for call in (api.pretrain, functools.partial(api.pretrain_on, ArraySet())):
    with pytest.raises(kind, match=message):
      call(config, workdir, profile=folder)
  assert os.listdir(tmp_path) == ['file']


def test_a_trace_begins_and_ends_between_calls(monkeypatch, tmp_path):
  seen = []
  monkeypatch.setattr(jax, 'block_until_ready', seen.append)
  for name in ('start_trace', 'stop_trace'):
    note = lambda *_, name=name: seen.append(name)
    monkeypatch.setattr(jax.profiler, name, note)
  profiler = profiling.Profiler(tmp_path, lambda text: seen.append(text[:8]))
  for call in range(1, 13):
    profiler.after_call(call)
  profiler.close()
  assert seen == [5, 'start_trace', 10, 'stop_trace', 'profile:']


@pytest.mark.parametrize('name', ['start_trace', 'stop_trace'])
def test_a_trace_that_cannot_be_written_ends_no_run(
  monkeypatch, tmp_path, name
):
  """As on a full disk, or beside another profiler; an error of a step does."""

  def fail(*_):
    raise jax.errors.JaxRuntimeError('OUT_OF_RANGE: a/vm.pb; too large\n...')

  for other in ('start_trace', 'stop_trace'):
    monkeypatch.setattr(jax.profiler, other, lambda *_: None)
  monkeypatch.setattr(jax.profiler, name, fail)
  notes = []
  profiler = profiling.Profiler(tmp_path, notes.append)
  for _ in range(12):
    profiler.after_call(None)
  profiler.close()
  (note,) = notes
  assert note.startswith('warning: no profile: ')
  assert note.endswith('OUT_OF_RANGE: a/vm.pb; too large')
  profiler = profiling.Profiler(tmp_path, notes.append)
  monkeypatch.setattr(jax, 'block_until_ready', fail)
  for _ in range(profiling.SKIPPED - 1):
    profiler.after_call(None)
  with pytest.raises(jax.errors.JaxRuntimeError):
    profiler.after_call(None)


def test_a_folder_without_a_trace_is_named(tmp_path):
  with pytest.raises(errors.DataError, match=r'trace, .*\.pb, found none'):
    profiling.sum_times(tmp_path)


def test_rates_of_a_run_are_divided_by_all_devices(monkeypatch):
  context = loop.TrainingContext(None, None, 9, 8, None)
  monkeypatch.setattr(jax, 'device_count', lambda: 4)
  buffer = scalar_buffer.ScalarBuffer(0)
  buffer.add({'byol_loss': jnp.zeros((1, 1))}, 1)
  log = logs.Logs('', 9, silent=True)
  progress = loop._Progress(context, log, buffer)
  progress.finish_first_call(None, None, 1)
  assert progress.meter.devices == 4


class Stop(Exception):
  """An error of the caller's."""


def test_a_run_that_ends_early_ends_its_trace(monkeypatch, tmp_path):
  seen = []
  for name in ('start_trace', 'stop_trace'):
    note = lambda *_, name=name: seen.append(name)
    monkeypatch.setattr(jax.profiler, name, note)

  def fail_while_tracing():
    log = logs.Logs(tmp_path, 1, silent=True)
    with train._open_profiler(str(tmp_path), log) as profiler:
      for _ in range(profiling.SKIPPED):
        profiler.after_call(None)
      raise Stop

  with pytest.raises(Stop):
    fail_while_tracing()
  assert seen == ['start_trace', 'stop_trace']


def test_process_0_alone_traces(monkeypatch, tmp_path):
  for index in range(2):
    monkeypatch.setattr(jax, 'process_index', lambda i=index: i)
    with train._open_profiler(
      str(tmp_path), logs.Logs(tmp_path, 1, silent=True)
    ) as profiler:
      assert (profiler is None) == (index > 0)


def test_a_run_that_is_too_short_says_so():
  notes = []
  profiler = profiling.Profiler('.', notes.append)
  profiler.after_call(None)
  profiler.close()
  assert notes == ['warning: no profile: fewer than 5 calls of devices']


def test_operations_are_those_of_a_step_on_a_device(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  batch = np.ones((1, 5, 6), np.float32)
  weights = placement.replicate(np.ones((6, 7), np.float32))
  product = placement.pmap(lambda w, x: x @ w)
  many = placement.pmap(
    lambda w, x: jax.lax.scan(lambda w, _: (w, x @ w), w, None, length=9)
  )
  flops = 2 * 5 * 6 * 7
  found = [
    hardware.count_flops(f, weights, batch, accumulate=3)
    for f in (product, many)
  ]
  assert found == pytest.approx([3 * flops] * 2, rel=0.01)  # as XLA rounds


def test_a_run_counts_the_operations_of_all_its_sub_batches(monkeypatch):
  count = lambda *arguments, **options: 1.0
  counted = wiring.spy(monkeypatch, hardware, 'count_flops', count)
  context = loop.TrainingContext('update', None, 9, 8, None)
  start, log = recovery.StartPoint(None, step=0), logs.Logs('', 9, silent=True)
  config = tiny(batch__accumulate=2)
  with train._observe(context, start, config, log) as observed:
    observed.count_flops('state', 'batch')
  (call,) = counted
  assert call.arguments.pop('arguments') == ('state', 'batch')
  assert call.arguments == {'update': 'update', 'accumulate': 2}


def test_a_part_of_a_gpu_has_no_known_peak():
  assert hardware.find_peak('NVIDIA H100 80GB HBM3') == 989e12
  assert hardware.find_peak('NVIDIA H100 80GB HBM3 MIG 1g.10gb') is None
  assert hardware.find_peak('cpu') is None
  assert hardware.find_peak('NVIDIA L4') == 121e12
  assert hardware.find_peak('NVIDIA L40') is None
  for row in topologies.TOPOLOGIES.values():
    kind = 'TPU ' + {'v5e': 'v5 lite', 'v6e': 'v6 lite'}.get(
      row.generation, row.generation
    )
    assert hardware.find_peak(kind) == row.peak_flops
