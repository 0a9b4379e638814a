"""A plan as facts, and as text."""

from typing import Any

import jax
from ml_collections import config_dict

from byol_jax import errors, experiment as experiments
from byol_jax.planning import (
  compile as plan_step,
  cost as plan_numbers,
  topologies,
)

GB = topologies.GB
MB = 10**6


def report(
  config: config_dict.ConfigDict,
  topology: topologies.Topology,
  share: float,
  *,
  once: bool,
) -> dict[str, Any]:
  """Compiles the step, and concludes.

  Args:
    config: of the run; its batch is a multiple of the devices.
    topology: where it would run.
    share: of the shortest time's speed that the run is taken to reach, (0, 1].
    once: one compilation only, so nothing about the largest batch.

  Returns:
    JSON: bytes, FLOPs and seconds of a step on one device, rates and hours of
    the whole run; see docs/pods.md.

  Raises:
    CheckFailed: the step does not fit.
    UserError: the set or the slice is not known.
  """
  run = plan_step.open_run(config)
  experiment = experiments.build(config, run.num_examples, run.num_classes)
  devices = plan_step.devices_of(topology)
  images = config.batch_size // topology.devices
  try:
    first = plan_step.compile_step(run, experiment, devices, images)
  except plan_step.TooLarge as error:
    raise errors.CheckFailed(too_large(error, images, topology)) from error
  cost = first.cost
  found: dict[str, Any] = {
    'topology': topology._asdict(),
    'devices': topology.devices,
    'hosts': topology.hosts,
    'batch_size': config.batch_size,
    'per_device_batch': images,
    'steps': experiment.num_steps,
    'derived': list(experiment.derived),
    **cost._asdict(),
    'collectives': {k: v._asdict() for k, v in cost.collectives.items()},
    'memory_bytes': plan_numbers.memory(cost),
    'hbm_bytes': topology.hbm_bytes,
    'usable_bytes': topology.usable_bytes,
    'versions': {
      'jax': jax.__version__,
      'libtpu': plan_step.libtpu_version(),
    },
    'lower_seconds': round(first.lower_seconds, 1),
    'compile_seconds': round(first.compile_seconds, 1),
  }
  found |= times(cost, topology, config.batch_size, experiment, share)
  if not once:
    found |= room(run, experiment, devices, images, cost, topology)
  return found


def too_large(
  error: plan_step.TooLarge, images: int, topology: topologies.Topology
) -> str:
  """One line for a step that does not fit."""
  needs = 'more, says the compiler: ' + str(error).partition('\n')[0]
  if error.needed is not None:
    needs = f'{error.needed:,} bytes ({error.needed / GB:.1f} GB)'
  usable = topology.usable_bytes
  return (
    f'{images} images a device do not fit {topology.name}, where a device has'
    f' {usable:,} bytes ({usable / GB:.1f} GB) for a program; take a smaller'
    f' batch_size or more devices; needed {needs}'
  )


def times(
  cost: plan_numbers.Cost,
  topology: topologies.Topology,
  batch_size: int,
  experiment: experiments.Experiment,
  share: float,
) -> dict[str, Any]:
  """Seconds of a step, rates and hours of the run."""
  seconds, source = plan_numbers.step_seconds(cost, topology)
  steps = experiment.num_steps
  best = plan_numbers.pace(seconds, batch_size, steps, topology)
  slower = plan_numbers.pace(seconds / share, batch_size, steps, topology)
  return {
    **best._asdict(),
    # That of the compiler, or of the roofline where it cannot be believed.
    'optimal_seconds': seconds,
    'optimal_seconds_from': source,
    'compiler_optimal_seconds': cost.optimal_seconds,
    'roofline_seconds': plan_numbers.roofline(cost, topology),
    'share': share,
    'at_share': slower._asdict(),
  }


def room(
  run: plan_step.Run,
  experiment: experiments.Experiment,
  devices: Any,
  images: int,
  cost: plan_numbers.Cost,
  topology: topologies.Topology,
) -> dict[str, Any]:
  """The largest batch that fits, from a second compilation."""
  points = [(images, plan_numbers.memory(cost))]
  far = plan_numbers.second_point(images, cost, topology.usable_bytes)
  for other in filter(None, (far, images // 2)):
    try:
      second = plan_step.compile_step(run, experiment, devices, other)
    except plan_step.TooLarge:
      continue
    points.append((other, plan_numbers.memory(second.cost)))
    break
  if len(points) == 1:
    return {
      'largest_batch': images * len(devices),
      'largest_batch_from': points,
    }
  largest = plan_numbers.largest_batch(
    plan_numbers.line(points), len(devices), topology.usable_bytes
  )
  return {'largest_batch': largest, 'largest_batch_from': points}


def described(found: dict[str, Any]) -> list[str]:
  """The report in words."""
  topology, versions = found['topology'], found['versions']
  return [
    f'{topology["name"]} ({topology["grid"]}):'
    f' {plan_numbers.counted(found["devices"], "device")},'
    f' {plan_numbers.counted(found["hosts"], "host")}; batch'
    f' {found["batch_size"]:,},'
    f' {plan_numbers.counted(found["per_device_batch"], "image")} a device',
    *found['derived'],
    f'compiled in {found["compile_seconds"]:.0f} s, after'
    f' {found["lower_seconds"]:.0f} s of tracing; jax {versions["jax"]}, libtpu'
    f' {versions["libtpu"]}',
    '',
    *memory_lines(found),
    '',
    *time_lines(found),
    '',
    *collective_lines(found['collectives']),
  ]


def memory_lines(found: dict[str, Any]) -> list[str]:
  """Memory of a device, by kind, and the largest batch."""
  total, usable = found['memory_bytes'], found['usable_bytes']
  rows = (
    ('arguments', found['argument_bytes'], 'state and batch'),
    ('outputs', found['output_bytes'], 'state and scalars'),
    ('donated', -found['alias_bytes'], 'outputs written over arguments'),
    ('temporaries', found['temp_bytes'], ''),
    ('code', found['code_bytes'], ''),
    (
      *('together', total),
      f'{total / usable:.1%} of the {usable / MB:,.0f} that a program may use'
      f' of {found["hbm_bytes"] / MB:,.0f}',
    ),
  )
  return [
    'memory of a device, MB (1e6 bytes)',
    *(f'  {k:12}{v / MB:10,.1f}  {text}'.rstrip() for k, v, text in rows),
    *largest_lines(found),
  ]


def largest_lines(found: dict[str, Any]) -> list[str]:
  """The largest batch, if it was looked for."""
  points = found.get('largest_batch_from')
  if points is None:
    return []
  largest = found['largest_batch']
  if len(points) == 1:
    return [f'largest batch: no larger one than {largest:,} was found to fit']
  if largest is None:
    return ['largest batch: unknown, memory does not grow with it']
  few, many = sorted(images for images, _ in points)
  return [
    f'largest batch: about {largest:,}, {largest // found["devices"]} images a'
    f' device; an estimate, by a line through {few} and {many}'
  ]


def time_lines(found: dict[str, Any]) -> list[str]:
  """Time of a step, and what it means."""
  slower, share = found['at_share'], found['share']
  unit = 'core' if found['topology']['generation'] == 'v3' else 'device'
  rows = (
    ('step, ms', 'step_seconds', 1e3, '.1f'),
    ('images/s', 'images_per_second', 1, ',.0f'),
    ('images/s that each host must feed', 'host_images_per_second', 1, ',.0f'),
    ('hours of the run', 'hours', 1, ',.2f'),
    (f'{unit}-hours', 'device_hours', 1, ',.1f'),
  )
  compiler = found['compiler_optimal_seconds']
  lines = [
    f'a step of a device: {found["flops"] / 1e9:,.1f} GFLOP,'
    f' {found["bytes_accessed"] / GB:,.2f} GB read and written',
    f'shortest time: {found["optimal_seconds"] * 1e3:.1f} ms, from'
    f' {found["optimal_seconds_from"]} (compiler {compiler * 1e3:.1f} ms,'
    f' roofline {found["roofline_seconds"] * 1e3:.1f} ms)',
    f'{"":36}{"shortest":>10}{f"at {share:g} of it":>16}',
  ]
  for text, key, factor, form in rows:
    first = format(found[key] * factor, form)
    lines.append(
      f'{text:36}{first:>10}{format(slower[key] * factor, form):>16}'
    )
  return lines


def collective_lines(collectives: dict[str, Any]) -> list[str]:
  """What a step sends between devices."""
  rows = [
    f'  {kind}: {plan_numbers.counted(all_["operations"], "operation")},'
    f' {all_["bytes"] / MB:,.1f} MB'
    for kind, all_ in sorted(collectives.items())
  ]
  return ['between devices, a step', *(rows or ['  nothing'])]
