"""Says where a run runs, and what goes wrong there: too slow, out of memory."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import ctypes
import importlib.machinery
import importlib.util
import os
import re
import time
from typing import Any

import jax

from byol_jax import errors

# Networks that two CPU cores train in minutes.
_FOR_CPUS = ('MiniResNet', 'TinyResNet')
_CPU_PRESETS = 'presets for a CPU: shapes, and those that end in :cpu'
_LONG_SECONDS = 12 * 3600
# Operations in bfloat16 a second of a device, by the beginning of its name, as
# the vendors state them, without sparsity: cloud.google.com/tpu/docs (see
# `planning.topologies`) and NVIDIA's data sheets.
_PEAKS = {
  **{'TPU v3': 61.5e12, 'TPU v4': 275e12, 'TPU v5 lite': 197e12},
  **{'TPU v5e': 197e12, 'TPU v5': 459e12, 'TPU v6 lite': 918e12},
  **{'TPU v6e': 918e12, 'NVIDIA A100': 312e12, 'NVIDIA H200': 989e12},
  **{'NVIDIA H100 80GB HBM3': 989e12, 'NVIDIA H100 PCIe': 756e12},
  **{'NVIDIA L40S': 362e12, 'NVIDIA L4': 121e12, 'NVIDIA H200 NVL': 835e12},
}
# Parameters of glibc's mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
# The speed is measured over this many calls after the first one, which
# compiles, or over fewer that take this long.
_CALLS = 9
_SECONDS = 20.0


def describe_run(config: Mapping[str, Any]) -> list[str]:
  """Returns a line of devices, processes, precision and the batch of a run.

  And a warning with advice if a network made for an accelerator starts on a
  CPU, and a line if images are decoded by the slower engine.
  """
  device, count = jax.devices()[0], jax.device_count()
  batch_size, encoder = config['batch_size'], config['network']['encoder']
  kind = device.device_kind
  if device.platform == 'cpu':
    kind += f', {os.cpu_count()} cores'
  options: Any = jax.config
  precision = options.jax_default_matmul_precision or 'default'
  lines = [
    f'{errors.format_count(count, "device")} ({kind}),'
    f' {errors.format_count(jax.process_count(), "process")};'
    f' {config["precision"]}, matrix products in {precision} precision;'
    f' batch {batch_size:,}, {batch_size / count:g} a device'
    f'{_describe_parts(config)}'
  ]
  if jax.default_backend() == 'cpu' and encoder not in _FOR_CPUS:
    lines.append(
      f'warning: {encoder} is a network for an accelerator, on a CPU; how long'
      f' it takes follows after the first steps; {_CPU_PRESETS}'
    )
  if config['input']['engine'] == 'threads':
    advice = "pip install 'byol_jax[tf]'"
    if importlib.util.find_spec('tensorflow'):
      advice = '--config.input.engine=tensorflow'
    lines.append(
      'images are decoded in Python threads; TensorFlow decodes faster:'
      f' {advice}'
    )
  return lines


def share_one_heap(config: Mapping[str, Any]) -> None:
  """Lets all threads of a large network on a CPU share one heap of glibc.

  Call before a device is used, which makes the threads. glibc gives the heap of
  a thread no more than 64 MiB: larger blocks come from the system, which clears
  them in each call. Small networks do not need it, and lose by one lock for
  all threads (docs/speed.md).

  Args:
    config: of the run.
  """
  if config['network']['encoder'] in _FOR_CPUS or not _has_only_cpus():
    return
  if not os.environ.get('MALLOC_ARENA_MAX'):
    _set_malloc((_M_ARENA_MAX, 1))


def _has_only_cpus() -> bool:
  """Whether JAX has no other platform; asking JAX would make the threads."""
  options: Any = jax.config
  if options.jax_platforms:
    return options.jax_platforms == 'cpu'
  find = importlib.machinery.PathFinder.find_spec
  return not any(map(find, ('libtpu', 'jax_plugins')))


def keep_freed_memory() -> None:
  """Lets the process keep the memory that a step frees, on a CPU with glibc.

  Each call of a step allocates what it needs. The system would clear the pages
  again every time, which takes a fifth of the time of the demo's steps.
  """
  if jax.default_backend() == 'cpu':
    _set_malloc(
      (_M_TRIM_THRESHOLD, -1),  # never shrinks the heap
      (_M_TOP_PAD, 2**27),  # nor unmaps those of threads, 64 MB each
      (_M_MMAP_MAX, 0),  # large arrays are in the heap, too
    )


def _set_malloc(*options: tuple[int, int]) -> None:
  # Other C libraries lack the function, or ignore the call.
  with contextlib.suppress(AttributeError, OSError, TypeError):
    libc = ctypes.CDLL(None)
    for name, value in options:
      libc.mallopt(name, value)


def _describe_parts(config: Mapping[str, Any]) -> str:
  parts = config['batch']['accumulate']
  return f' in {parts} sub-batches' if parts > 1 else ''


def observe_first_calls(
  config: Mapping[str, Any],
  num_steps: int,
  note: Callable[[str], None],
  clock: Callable[[], float] = time.monotonic,
) -> Callable[[Any], None]:
  """Returns what measures how long a run will take, and what memory it needs.

  The time on a CPU, the memory on an accelerator.

  Args:
    config: of the run.
    num_steps: that are left of it.
    note: gets a line about the memory; or, on a CPU, if the rest takes long
      or the network is none for CPUs.
    clock: returns seconds.

  Returns:
    To be called after each call of the devices with its scalars, [L] or
    [L, steps].
  """
  began: float | None = None
  calls, is_done = 0, False

  def after_call(scalars: Any) -> None:
    nonlocal began, calls, is_done
    if is_done:
      return
    jax.block_until_ready(scalars)
    if began is None:
      began = clock()
      stats = jax.local_devices()[0].memory_stats() or {}  # a CPU has none
      if {'peak_bytes_in_use', 'bytes_limit'} <= stats.keys():
        peak, limit = stats['peak_bytes_in_use'], stats['bytes_limit']
        note(
          f'memory after the first step: at most {peak / 2**30:.1f} GiB used of'
          f' {limit / 2**30:.1f} GiB that a device gives'
        )
      is_done = jax.default_backend() != 'cpu'
      return
    calls, seconds = calls + 1, clock() - began
    is_done = calls == _CALLS or seconds >= _SECONDS
    if is_done:
      shape = jax.tree.leaves(scalars)[0].shape
      pace = seconds / calls / (shape[1] if len(shape) > 1 else 1)
      left = pace * num_steps
      if left > _LONG_SECONDS or config['network']['encoder'] not in _FOR_CPUS:
        note(
          f'warning: at {config["batch_size"] / pace:.3g} images/s on this CPU'
          f' the run takes {format_duration(left)}; {_CPU_PRESETS}'
        )

  return after_call


def find_peak(device_kind: str) -> float | None:
  """Returns a device's operations a second in bfloat16; None: unknown."""
  names = sorted(_PEAKS, key=len, reverse=True)
  if 'MIG' in device_kind:  # a part of a GPU
    return None
  # An L40 is no L4.
  matches = (x for x in names if re.match(rf'{x}(?!\d)', device_kind))
  name = next(matches, None)
  return _PEAKS[name] if name else None


def count_flops(update: Any, *arguments: Any, accumulate: int = 1) -> float:
  """Returns the operations of a call on one device, before optimization.

  A multiplication and an addition are two. The steps of a call of several are
  a loop, of which one counts.

  Args:
    update: as `jax.pmap` returns it, with `arguments` of these shapes.
    accumulate: sub-batches of a step, a loop too but on CPUs.
  """
  cost = update.lower(*arguments).cost_analysis() or {}
  loops = 1 if jax.default_backend() == 'cpu' else accumulate
  return loops * float(cost.get('flops', 0.0))


def format_duration(seconds: float) -> str:
  """Returns '212 days', '3 hours', '1 minute'."""
  units = (('day', 86_400), ('hour', 3600), ('minute', 60))
  name, size = next((x for x in units if seconds >= 2 * x[1]), units[-1])
  return errors.format_count(max(1, round(seconds / size)), name)


@contextlib.contextmanager
def explain_out_of_memory(
  batch_size: int, accumulate: int = 1
) -> Iterator[None]:
  """Turns an error about memory into a ConfigError of one line.

  Args:
    batch_size: of all devices.
    accumulate: sub-batches of a step.
  """
  try:
    yield
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    # Errors of a CPU and of CUDA may be INTERNAL, with these words.
    found = re.search('RESOURCE_EXHAUSTED|(?i:out.of.memory)', str(error))
    if not found and not isinstance(error, MemoryError):
      raise
    count = jax.device_count()
    images = batch_size // count
    more = range(accumulate + 1, images // 2 + 1)
    divisor = next((n for n in more if images % n == 0), None)
    parts = f'--config.batch.accumulate={divisor}, ' if divisor else ''
    raise errors.ConfigError(
      f'batch_size: out of memory with {images / accumulate:g} images a device'
      f' ({jax.devices()[0].device_kind}), {errors.first_line(error)}; give'
      f' {parts}a smaller multiple of {count * accumulate}, or a smaller'
      ' image_size or network; on a GPU also end other programs that use it'
      ' (docs/one_gpu.md)'
    ) from error
