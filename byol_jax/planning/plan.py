"""Reports what a run would take on a TPU slice: the verb `plan`.

No accelerator is needed: the step that training calls is compiled for the
devices of the slice.
"""

from collections.abc import Sequence
import contextlib
import json
import math
import re
from typing import Any

import jax

from byol_jax import configuration, errors, parallel
from byol_jax.planning import compile, cost, topologies


def run(
  spec: str,
  overrides: list[str],
  *,
  topology: str,
  share: float = 0.5,
  once: bool = False,
  as_json: bool = False,
) -> None:
  """Compiles the step of a run for a slice, and prints what it would take.

  Args:
    spec: the configuration; see `configuration.load`.
    overrides: `--config.section.key=value` arguments.
    topology: name of a slice; see `topologies.find_topology`.
    share: of the highest speed, (0, 1], for a second estimate of the hours.
    once: compile once; the largest batch stays unknown.
    as_json: print the report as one line of JSON, after the text.

  Raises:
    ConfigError: a value, the topology or the batch cannot be used, or libtpu
      is missing.
    DataError: the training set is missing.
    CheckFailed: the step does not fit the memory of a device.
  """
  row = topologies.find_topology(topology)
  config = configuration.load(spec, overrides)
  parallel.check_division(
    *('batch_size', config.batch_size, row.devices),
    accumulate=config.batch.accumulate,
    bn_group=config.network.bn_group,
  )
  compile.isolate_libtpu(row)
  planned = compile.open_run(config, 'tpu')
  versions = {'jax': jax.__version__, 'libtpu': compile.read_libtpu_version()}
  print(f'compiling for {row.devices} devices; takes minutes', flush=True)
  report = {'config': spec, 'overrides': overrides, 'versions': versions}
  report |= _make_report(planned, row, share, once)
  print(describe_report(report))
  if as_json:
    print(json.dumps(report))


def _make_report(
  planned: compile.PlannedRun,
  topology: topologies.Topology,
  share: float,
  once: bool,
) -> dict[str, Any]:
  """Compiles the step; the keys are those of the table in pods.md."""
  devices = compile.describe_devices(topology)
  batch_size, steps = planned.config.batch_size, planned.experiment.num_steps
  images = batch_size // topology.devices
  accumulate = planned.config.batch.accumulate
  try:
    step = compile.compile_step(planned, devices, images)
  except compile.StepTooLarge as error:
    raise errors.CheckFailed(
      f'{images} images a device{_describe_parts(accumulate)} do not fit'
      f' {topology.name}; take a larger batch.accumulate, a smaller batch_size'
      f' or more devices; the compiler: {error}'
    ) from error
  seconds, source = cost.estimate_step_seconds(step.cost, topology)
  collectives = step.cost.collectives.items()
  report = {
    'topology': topology._asdict(),
    'devices': topology.devices,
    'hosts': topology.hosts,
    'batch_size': batch_size,
    'per_device_batch': images,
    'steps': steps,
    'derived': list(planned.experiment.derived),
    **step.cost._asdict(),
    'collectives': {kind: all_._asdict() for kind, all_ in collectives},
    'memory_bytes': step.cost.memory_bytes,
    'hbm_bytes': topology.hbm_bytes,
    'usable_bytes': topology.usable_bytes,
    'lower_seconds': round(step.lower_seconds, 1),
    'compile_seconds': round(step.compile_seconds, 1),
    **cost.compute_pace(seconds, batch_size, steps, topology),
    # The compiler's, or the roofline's where that cannot be right.
    'optimal_seconds': seconds,
    'optimal_seconds_from': source,
    'compiler_optimal_seconds': step.cost.optimal_seconds,
    'roofline_seconds': cost.compute_roofline(step.cost, topology),
    'share': share,
    'at_share': cost.compute_pace(seconds / share, batch_size, steps, topology),
  }
  if accumulate > 1:
    report['accumulate'] = accumulate
  if not once:
    points = _measure_memory(planned, devices, images, step.cost, topology)
    largest = cost.estimate_largest_batch(
      points, topology.devices, topology.usable_bytes, accumulate
    )
    report |= {'largest_batch': largest, 'largest_batch_from': points}
  return report


def _measure_memory(
  planned: compile.PlannedRun,
  devices: Sequence[jax.Device],
  images: int,
  first: cost.Cost,
  topology: topologies.Topology,
) -> list[tuple[int, int]]:
  """Compiles a second batch; returns (images, bytes) of one or both.

  Small batches are padded to larger tiles, so a line through two of them has a
  wrong slope: the second is half of what would fit if temporaries grew with
  the images, or a smaller one if that does not fit.
  """
  points = [(images, first.memory_bytes)]
  fixed = first.memory_bytes - first.temp_bytes
  room = (topology.usable_bytes - fixed) / max(first.temp_bytes, 1)
  parts = planned.config.batch.accumulate
  for other in (max(2 * images, math.floor(images * room / 2)), images // 2):
    other -= other % parts
    with contextlib.suppress(compile.StepTooLarge):
      if other:
        second = compile.compile_step(planned, devices, other)
        return [*points, (other, second.cost.memory_bytes)]
  return points


def describe_report(report: dict[str, Any]) -> str:
  """Returns a report as text."""
  topology, versions, at_share = (
    report[key] for key in ('topology', 'versions', 'at_share')
  )
  mb = {k: v / 1e6 for k, v in report.items() if k.endswith('_bytes')}
  ms = {k: v * 1e3 for k, v in report.items() if k.endswith('_seconds')}
  device = 'core' if topology['generation'] == 'v3' else 'device'
  rows = (
    ('step, ms', 'step_seconds', 1e3, '.1f'),
    ('images/s', 'images_per_second', 1, ',.0f'),
    ('images/s that each host must feed', 'host_images_per_second', 1, ',.0f'),
    ('hours of the run', 'hours', 1, ',.2f'),
    (f'{device}-hours', 'device_hours', 1, ',.1f'),
  )
  share = f'at {report["share"]:g} of it'
  lines = [
    f'{topology["name"]} ({topology["grid"]}): {report["devices"]:,} devices,'
    f' {report["hosts"]:,} hosts; batch {report["batch_size"]:,},'
    f' {report["per_device_batch"]:,} images a device'
    f'{_describe_parts(report.get("accumulate", 1))}',
    *report['derived'],
    f'traced in {report["lower_seconds"]:.0f} s, compiled in'
    f' {report["compile_seconds"]:.0f} s; jax {versions["jax"]}, libtpu'
    f' {versions["libtpu"]}\n',
    'memory of a device, MB (1e6 bytes)',
    f'  arguments   {mb["argument_bytes"]:10,.1f}  state and batch',
    f'  outputs     {mb["output_bytes"]:10,.1f}  state and scalars',
    f'  donated     {-mb["alias_bytes"]:10,.1f}  outputs written over'
    ' arguments',
    f'  temporaries {mb["temp_bytes"]:10,.1f}',
    f'  code        {mb["code_bytes"]:10,.1f}',
    f'  total       {mb["memory_bytes"]:10,.1f} '
    f' {mb["memory_bytes"] / mb["usable_bytes"]:.1%} of the'
    f' {mb["usable_bytes"]:,.0f} that a program may use of'
    f' {mb["hbm_bytes"]:,.0f}',
    *_describe_largest_batch(report),
    f'\na step of a device: {report["flops"] / 1e9:,.1f} GFLOP,'
    f' {report["bytes_accessed"] / 1e9:,.2f} GB read and written',
    f'shortest time: {ms["optimal_seconds"]:.1f} ms, from'
    f' {report["optimal_seconds_from"]} (compiler'
    f' {ms["compiler_optimal_seconds"]:.1f} ms, roofline'
    f' {ms["roofline_seconds"]:.1f} ms);'
    f' {report["estimated_cycles"] / 1e6:.1f} million cycles by its estimate',
    f'{"":36}{"shortest":>10}{share:>16}',
    *(
      f'{text:36}{report[k] * unit:>10{form}}{at_share[k] * unit:>16{form}}'
      for text, k, unit, form in rows
    ),
    *_describe_collectives(report),
  ]
  plural = r'(?<![\d.,])1 (device|host|image|operation)s'
  return re.sub(plural, r'1 \1', '\n'.join(lines))


def _describe_parts(accumulate: int) -> str:
  return f' in {accumulate} sub-batches' if accumulate > 1 else ''


def _describe_collectives(report: dict[str, Any]) -> list[str]:
  title = '\ncollectives of a step'
  if 'accumulate' in report:
    title += ', those of a sub-batch once'
  lines = [
    f'  {kind}: {all_["operations"]:,} operations,'
    f' {all_["bytes"] / 1e6:,.1f} MB'
    for kind, all_ in sorted(report['collectives'].items())
  ]
  return [title, *(lines or ['  none'])]


def _describe_largest_batch(report: dict[str, Any]) -> list[str]:
  if 'largest_batch' not in report:
    return []
  largest, points = report['largest_batch'], report['largest_batch_from']
  if largest is None:
    return ['largest batch: unknown, memory does not grow with it']
  if len(points) == 1:
    return [f'largest batch: none above {largest:,} was found to fit']
  few, many = sorted(images for images, _ in points)
  return [
    f'largest batch: about {largest:,}, {largest // report["devices"]} images a'
    f' device; an estimate, by a line through {few} and {many}'
  ]
