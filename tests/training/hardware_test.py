"""What a run says of its devices, of their speed and of their memory."""

import importlib.machinery
import itertools
import os
import platform
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import api, errors
from byol_jax.training import hardware, multi_step
from tests.helpers import tiny_run
from tests.helpers.tiny_config import ArraySet, tiny

HOURS = 3600.0


def config_of(encoder):
  network, images = {'encoder': encoder}, {'engine': 'auto'}
  batch = {'precision': 'float32', 'batch_size': 8}
  batch['batch'] = {'accumulate': 2}
  return {'network': network, 'input': images, **batch}


def measure(encoder, seconds_per_call, num_steps, calls=30):
  """Returns the notes of a run, and after which of its calls they came."""
  notes, now = [], itertools.count(0.0, seconds_per_call)
  after_call = hardware.observe_first_calls(
    *(config_of(encoder), num_steps, notes.append), clock=lambda: next(now)
  )
  counts = []
  for _ in range(calls):
    after_call({'loss': jnp.zeros(1)})
    counts.append(len(notes))
  return notes, counts.index(1) + 1 if notes else None


def test_a_run_says_where_it_runs_and_that_memory_is_short(
  tmp_path, monkeypatch, capsys
):
  def compile_update(update):
    return lambda state, batch: jnp.zeros(2**44)  # more than there is

  monkeypatch.setattr(multi_step, '_compile_update', compile_update)
  with pytest.raises(errors.ConfigError) as caught:
    api.pretrain_on(ArraySet(), tiny(), tmp_path)
  first, *others = capsys.readouterr().out.splitlines()
  count = jax.device_count()
  assert first == (
    f'{count} device{"s" * (count > 1)} (cpu, {os.cpu_count()} cores),'
    ' 1 process; float32, matrix products in default precision; batch 8,'
    f' {8 // count} a device'
  )
  assert not any('on a CPU' in line or 'this CPU' in line for line in others)
  text = str(caught.value)
  assert text.startswith(f'batch_size: out of memory with {8 // count} images')
  assert 'RESOURCE_EXHAUSTED' in text and 'smaller multiple of' in text
  assert '; give --config.batch.accumulate=2, a smaller multiple of' in text


def test_a_long_run_on_a_cpu_warns_after_its_first_steps():
  (text,), call = measure('MiniResNet', 2.5, num_steps=40_000)
  assert 'at 3.2 images/s on this CPU the run takes 28 hours;' in text
  assert call == 9  # eight calls after the first one are 20 s
  (text,), call = measure('MiniResNet', 0.5, num_steps=400_000)
  assert 'at 16 images/s' in text and 'takes 2 days;' in text
  assert call == 10
  assert measure('MiniResNet', 0.5, num_steps=2_000) == ([], None)


def test_a_network_for_an_accelerator_always_warns(monkeypatch):
  where, start = hardware.describe_run(config_of('ResNet50'))
  assert where.endswith(
    f', {8 // jax.device_count()} a device in 2 sub-batches'
  )
  assert 'warning: ResNet50' in start and ':cpu' in start
  (text,), _ = measure('ResNet50', 0.5, num_steps=2_000)
  assert 'takes 17 minutes; presets for a CPU: shapes' in text
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert len(hardware.describe_run(config_of('ResNet50'))) == 1
  assert measure('ResNet50', 1e9, num_steps=2_000) == ([], None)
  stats = {'peak_bytes_in_use': 3 * 2**30, 'bytes_limit': 12 * 2**30}
  device = types.SimpleNamespace(memory_stats=lambda: stats)
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])
  (text,), call = measure('ResNet50', 1e9, num_steps=2_000)
  assert 'at most 3.0 GiB used of 12.0 GiB' in text and call == 1


def test_only_errors_of_memory_are_explained():
  explain = hardware.explain_out_of_memory
  with pytest.raises(errors.ConfigError, match='Unable to allo'), explain(8):
    np.empty(2**60, np.uint8)
  with pytest.raises(jax.errors.JaxRuntimeError, match='INTERN'), explain(8):
    raise jax.errors.JaxRuntimeError('INTERNAL: broken')


@pytest.mark.parametrize(
  'text',
  [
    'RESOURCE_EXHAUSTED: while trying to allocate 9 bytes',
    # A CPU whose program needs more than there is, and CUDA.
    'INTERNAL: Error dispatching computation: Out of memory allocating 9 bytes',
    'INTERNAL: CUDA error: CUDA_ERROR_OUT_OF_MEMORY: out of memory',
  ],
)
def test_errors_of_memory_have_several_names(text):
  explain, found = hardware.explain_out_of_memory, 'batch_size: out of memory'
  with pytest.raises(errors.ConfigError, match=found), explain(8):
    raise jax.errors.JaxRuntimeError(text)


KEPT = """
from concurrent import futures
import resource
import sys
import numpy as np
from byol_jax import configuration
from byol_jax.training import hardware
_, encoder, size = sys.argv
config = configuration.load('pretrain', {'network.encoder': encoder})
hardware.share_one_heap(config)
hardware.keep_freed_memory()

def count_faults():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  [np.ones(int(size) << 20, np.uint8) for _ in range(3)]
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = count_faults()
thread = futures.ThreadPoolExecutor(1)
for count in count_faults, lambda: thread.submit(count_faults).result():
  count()
  print(sum(count() for _ in range(5)) < first / 2)
"""


@pytest.mark.skipif('glibc' not in platform.libc_ver(), reason='not glibc')
@pytest.mark.parametrize(
  ('encoder', 'size'),
  [('MiniResNet', 40), ('ResNet50', 100)],  # 100 MB is no heap of a thread
)
def test_memory_that_a_step_frees_is_not_cleared_again(
  encoder, size, monkeypatch
):
  """By the pages that the system gives: the first time only.

  Those of the main thread, and those of another.
  """
  monkeypatch.delenv('MALLOC_ARENA_MAX', raising=False)
  process = tiny_run.start_python('-c', KEPT, encoder, size)
  assert tiny_run.finish(process) == 2 * 'True\n'


@pytest.mark.parametrize(
  ('encoder', 'platforms', 'found', 'variable', 'is_shared'),
  [
    ('ResNet50', None, None, '', True),
    ('ResNet50', 'cpu', 'jax_plugins', '', True),
    ('ResNet50', None, 'jax_plugins', '', False),
    ('ResNet50', None, 'libtpu', '', False),
    ('ResNet50', 'cuda,cpu', None, '', False),
    ('ResNet50', None, None, 'MALLOC_ARENA_MAX', False),  # the user's choice
    ('MiniResNet', None, None, '', False),
  ],
)
def test_large_networks_share_a_heap_where_there_are_only_cpus(
  encoder, platforms, found, variable, is_shared, monkeypatch
):
  calls = []
  monkeypatch.delenv('MALLOC_ARENA_MAX', raising=False)
  if variable:
    monkeypatch.setenv(variable, '4')
  for owner, name, value in (
    (hardware, '_set_malloc', calls.append),
    (jax, 'config', types.SimpleNamespace(jax_platforms=platforms)),
    (importlib.machinery.PathFinder, 'find_spec', lambda name: name == found),
  ):
    monkeypatch.setattr(owner, name, value)
  hardware.share_one_heap(config_of(encoder))
  monkeypatch.undo()
  assert bool(calls) == is_shared


EARLY = """
import sys
from jax._src import xla_bridge
from byol_jax import __main__, api
from byol_jax.training import hardware

def end(*options):
  sys.exit(f'devices in use: {xla_bridge.backends_are_initialized()}')

hardware._set_malloc = end
work = f'{sys.argv[1]}/run'
"""
COMMAND = "__main__.main([{}, '--config', 'pretrain:1000'])"


@pytest.mark.parametrize(
  'call',
  [
    COMMAND.format("'pretrain', '--workdir', work"),
    COMMAND.format("'bench', 'step'"),
    "api.pretrain('pretrain:1000', work)",
  ],
)
def test_the_heap_is_chosen_before_the_threads_of_the_devices(
  call, monkeypatch, tmp_path
):
  monkeypatch.delenv('MALLOC_ARENA_MAX', raising=False)
  process = tiny_run.start_python('-c', EARLY + call, tmp_path)
  assert tiny_run.finish(process, code=1) == 'devices in use: False\n'
