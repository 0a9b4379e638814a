"""Measures the training step on this machine's devices: `bench step`.

The step is that of a run, augmentation included, on views of noise that stay on
the devices: no input.
"""

from collections import Counter
from collections.abc import Callable
import json
import math
import re
import tempfile
import time
from typing import Any

import jax
import numpy as np

from byol_jax import configuration, errors
from byol_jax.distributed import placement, processes
from byol_jax.planning import compile
from byol_jax.tools import spread
from byol_jax.training import hardware, multi_step, profiling, provenance

_ROUND_SECONDS = 2.0
# Steps of a trace: of short ones more, in which an interruption counts less.
_MIN_TRACED, _MAX_TRACED = 3, 20

# `%name = SHAPE opcode(...), metadata={op_name="PATH"`; paths are those of the
# functions and modules that made an operation. That of a fusion is its root's.
_OPERATION = re.compile(
  r'(?m)^\s*(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\('
  r'(?:.*op_name="([^"]*)")?'
)
OUTER = ('while', 'conditional', 'call')  # of operations that count themselves


def run(
  spec: str, overrides: list[str], *, rounds: int = 5, as_json: bool = False
) -> None:
  """Measures, and prints lines of text; `as_json` prints one line instead.

  Raises:
    ConfigError: a value cannot be used, there is no device, or the step needs
      more memory than there is.
    DataError: the set is not in the catalog and cannot be opened.
  """
  config = configuration.load(spec, overrides)
  parts = config.batch.accumulate
  hardware.share_one_heap(config)
  processes.check_devices()
  placement.check_batch_size(
    *('batch_size', config.batch_size),
    accumulate=parts,
    bn_group=config.network.bn_group,
  )
  with config.unlocked():
    config.data.resident = False  # noise is: no image is read
  planned = compile.open_run(config)
  with hardware.explain_out_of_memory(config.batch_size, parts):
    report = {'config': spec, 'overrides': overrides}
    report |= _measure(planned, rounds)
  print(json.dumps(report) if as_json else '\n'.join(describe_report(report)))


def _measure(planned: compile.PlannedRun, rounds: int) -> dict[str, Any]:
  """Compiles the step, times rounds of it, and traces some steps."""
  config, method = planned.config, planned.experiment
  batch_size, devices = config.batch_size, jax.device_count()
  hardware.keep_freed_memory()
  calls = multi_step.StreamedCalls(lambda *_: iter(()))
  state = placement.place_state(method.init_on_host(), method.shard_optimizer)
  batch = placement.shard(_make_noise(planned))
  began = time.monotonic()
  update: Any = calls.compile(method.update)
  flops = hardware.count_flops(
    *(update, state, batch), accumulate=config.batch.accumulate
  )
  compiled = update.lower(state, batch).compile()
  compile_seconds = time.monotonic() - began

  def take(count: int) -> float:
    nonlocal state
    start = time.perf_counter()
    for _ in range(count):
      state, scalars = compiled(state, batch)
    jax.block_until_ready((state, scalars))
    return time.perf_counter() - start

  take(2)
  steps = max(1, math.ceil(_ROUND_SECONDS / take(1)))
  rates = [batch_size * steps / take(steps) for _ in range(rounds)]
  device = jax.devices()[0]
  report = {
    'device': device.device_kind,
    'devices': devices,
    'precision': config.precision,
    'batch_size': batch_size,
    'image_size': config.image_size,
    'versions': provenance.list_versions(),
    'compile_seconds': round(compile_seconds, 1),
    'rounds': rounds,
    'steps_per_round': steps,
    **spread.summarize(rates),
    'step_flops_per_device': flops,
    'memory_bytes': compile.read_cost(compiled).memory_bytes,
    'peak_memory_bytes': (device.memory_stats() or {}).get('peak_bytes_in_use'),
    'time_share': divide_time(compiled.as_text(), take, steps // 4),
  }
  seconds = batch_size / report['images_per_second']
  report['flops_per_second_per_device'] = flops / seconds
  peak = hardware.find_peak(device.device_kind)
  report['flop_utilization'] = flops / seconds / peak if peak else None
  if not spread.explain(report['spread']):
    report['verdict'] = {
      'steps': method.num_steps,
      'hours': method.num_steps * seconds / 3600,
    }
  return report


def _make_noise(planned: compile.PlannedRun) -> dict[str, np.ndarray]:
  config, devices = planned.config, jax.local_device_count()
  generator = np.random.default_rng(0)
  each = config.batch_size // jax.device_count()
  shape = devices, each, config.image_size, config.image_size, 3
  batch: dict[str, np.ndarray] = {}
  for name in ('view1', 'view2'):
    if config.data.transfer == 'uint8':
      batch[name] = generator.integers(0, 256, shape, np.uint8)
    else:
      batch[name] = generator.random(shape, np.float32)
  if planned.num_classes is not None:
    labels = generator.integers(0, planned.num_classes, shape[:2], np.int32)
    batch['labels'] = labels
  return batch


def divide_time(
  text: str, take: Callable[[int], Any], count: int
) -> dict[str, float]:
  """Returns the share of each part of a step in the time of its operations.

  Args:
    text: the program of the step, as HLO.
    take: runs a number of steps and waits for them.
    count: steps to trace, clipped to [_MIN_TRACED, _MAX_TRACED].
  """
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      take(min(max(count, _MIN_TRACED), _MAX_TRACED))
    times = profiling.sum_times(folder)
  kinds = {name: (opcode, path) for name, opcode, path in list_operations(text)}
  found: Counter[str] = Counter()
  for name, spent in times.items():
    opcode, path = kinds.get(name.partition(' = ')[0].lstrip('%'), ('', ''))
    if opcode not in OUTER:
      found[name_part(opcode, path)] += spent
  total = sum(found.values())
  return {name: spent / total for name, spent in found.most_common()}


def list_operations(text: str) -> list[tuple[str, str, str]]:
  """Returns (name, opcode, path) of the operations of a program, as HLO."""
  return _OPERATION.findall(text)


def name_part(opcode: str, path: str) -> str:
  """Returns the part of a step to which an operation belongs.

  Args:
    opcode: of HLO.
    path: functions and modules; `jvp(MODULE)` are those of a forward pass,
      `transpose(` the backward pass; '' of what has no name. Batch norm is one
      part, forward and backward together.
  """
  if 'psum' in path or opcode.startswith('all-'):
    return 'sums over devices'
  # A product may have lost its name, or got that of a transpose around it.
  is_product = opcode in ('convolution', 'dot') or re.search(
    'conv_general_dilated|dot_general', path
  )
  kind = 'convolutions and products' if is_product else 'the rest'
  if not path:
    return f'{kind if is_product else "operations"} without a name'
  if not is_product and re.search('batch_?norm', path):
    return 'batch norm'
  if 'transpose(' in path:
    return f'backward pass: {kind}'
  if re.search(r'jvp\(\w', path):
    return f'forward passes of both networks: {kind}'
  if 'jvp(' in path:
    return 'augmentation and loss'
  return 'optimizer, moving average and the rest'


def describe_report(report: dict[str, Any]) -> list[str]:
  """Returns a report as lines of text."""
  peak = report['peak_memory_bytes']
  rate, low, high = (
    report[key] for key in ('images_per_second', 'smallest', 'largest')
  )
  count = report['devices']
  lines = [
    f'{errors.format_count(count, "device")} ({report["device"]}), batch'
    f' {report["batch_size"]:,} of {report["image_size"]} pixels,'
    f' {report["precision"]}; compiled, or read from the cache, in'
    f' {report["compile_seconds"]:.0f} s',
    f'{rate:,.4g} images/s, {rate / count:,.4g} a device: the median of'
    f' {report["rounds"]} rounds of {report["steps_per_round"]} steps, from'
    f' {low:,.4g} to {high:,.4g} ({report["spread"]:.0%})',
    f'{report["step_flops_per_device"] / 1e9:,.1f} GFLOP a step and device,'
    f' {report["flops_per_second_per_device"] / 1e12:,.3g} TFLOP/s'
    + (
      f', {report["flop_utilization"]:.0%} of the peak in bfloat16'
      if report['flop_utilization']
      else '; the peak of the device is unknown'
    ),
    f'memory of a device: {report["memory_bytes"] / 2**30:.3g} GiB by the'
    ' compiler' + (f', at most {peak / 2**30:.3g} GiB used' if peak else ''),
    'where the time goes:',
    *(
      f'  {share:5.1%}  {name}' for name, share in report['time_share'].items()
    ),
  ]
  if 'verdict' not in report:
    return [*lines, spread.explain(report['spread'])]
  duration = hardware.format_duration(3600 * report['verdict']['hours'])
  steps = report['verdict']['steps']
  return [*lines, f'the {steps:,} steps of this run would take {duration}']
