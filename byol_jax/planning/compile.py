"""Compiles the training step for TPUs that are not attached.

The update, its mapping over devices and the donated arguments are those of
training. Only shapes go in, and nothing runs: libtpu compiles without a TPU.
"""

from collections.abc import Sequence
import importlib.metadata
import os
import time
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies as aot
import jax.numpy as jnp
from ml_collections import config_dict

from byol_jax import errors, experiment, parallel
from byol_jax.data import catalog, from_config
from byol_jax.data.loading import resident
from byol_jax.distributed import packing, placement
from byol_jax.planning import cost, topologies
from byol_jax.training import multi_step

LIBTPU = 'libtpu==0.0.51'  # that the figures in benchmarks/results are of


class StepTooLarge(Exception):
  """A step does not fit a device; says how much the compiler needed."""


class PlannedRun(NamedTuple):
  """A run as far as its shapes need it; no image is decoded."""

  config: config_dict.ConfigDict
  experiment: experiment.Experiment
  num_classes: int | None
  dataset: resident.ResidentImageSet | None  # with data.resident=True


class CompiledStep(NamedTuple):
  """The cost of a step, and the seconds that it took to get it."""

  cost: cost.Cost
  lower_seconds: float
  compile_seconds: float


def read_libtpu_version() -> str:
  """Returns the version of the compiler for TPUs.

  Raises:
    ConfigError: it is not installed.
  """
  try:
    return importlib.metadata.version('libtpu')
  except importlib.metadata.PackageNotFoundError:
    raise errors.ConfigError(
      'plan: expected the compiler for TPUs, which no run needs, found none;'
      f' pip install {LIBTPU}'
    ) from None


def isolate_libtpu(topology: topologies.Topology) -> None:
  """Keeps JAX and libtpu from looking for TPUs; before any device is used."""
  jax.config.update('jax_platforms', 'cpu')
  # A step that comes from the cache would have no compilation time.
  jax.config.update('jax_enable_compilation_cache', False)
  os.environ |= {
    'TPU_SKIP_MDS_QUERY': '1',
    # Without chips there is nothing to lock; several processes may plan.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    # libtpu would ask the machine for these, and warn.
    'TPU_ACCELERATOR_TYPE': topology.name,
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_LOG_DIR': 'disabled',
  }


def describe_devices(topology: topologies.Topology) -> list[jax.Device]:
  """Returns the devices of a slice as the compiler describes them.

  Raises:
    ConfigError: libtpu does not know the slice.
  """
  try:
    return aot.get_topology_desc(
      topology.aot_name, 'tpu', **dict(topology.aot_options)
    ).devices
  except (RuntimeError, ValueError) as error:
    raise errors.ConfigError(
      f'--topology={topology.name}: libtpu {read_libtpu_version()} has no such'
      f' slice: {errors.first_line(error)}'
    ) from error


def open_run(
  config: config_dict.ConfigDict, platform: str | None = None
) -> PlannedRun:
  """Builds a run; a training set in the catalog need not be present.

  Args:
    config: as in `configs/pretrain.py`.
    platform: that its step will be compiled for; None: the one at hand.

  Raises:
    UserError: a value of the configuration cannot be used, or the set is
      missing and not in the catalog, or missing and resident.
  """
  dataset = None
  facts = catalog.find_facts(config.dataset)
  if config.data.resident:
    dataset = from_config.make_image_set(config, 'train')
    size, num_classes = dataset.num_examples, dataset.num_classes
  elif facts is not None:
    size, num_classes = facts.num_train, facts.num_classes
  else:
    source = from_config.open_split(config, 'train')
    size, num_classes = len(source), source.num_classes
  built = experiment.build(config, size, num_classes, platform)
  return PlannedRun(config, built, num_classes, dataset)


def compile_step(
  run: PlannedRun, devices: Sequence[jax.Device], per_device: int
) -> CompiledStep:
  """Compiles the call of training for `per_device` images on each device.

  Raises:
    StepTooLarge: the step does not fit the memory of a device.
  """
  function, arguments = _make_call(run, len(devices), per_device)
  step: Any = placement.map_step(function, devices)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((len(devices), *x.shape), x.dtype),
    arguments,
  )
  start = time.monotonic()
  lowered = step.lower(*shapes)
  middle = time.monotonic()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' in str(error):
      raise StepTooLarge(errors.first_line(error)) from error
    raise
  seconds = middle - start, time.monotonic() - middle
  return CompiledStep(
    read_cost(compiled).repeat(run.config.batch.accumulate), *seconds
  )


def _make_call(
  run: PlannedRun, num_devices: int, per_device: int
) -> tuple[Any, tuple[Any, ...]]:
  """Returns what training maps over devices, and its arguments' shapes."""
  update, config = run.experiment.update, run.config
  shape = jax.ShapeDtypeStruct
  state = jax.eval_shape(lambda: _make_state(run.experiment, num_devices))
  if run.dataset is None:
    side = config.image_size
    views = shape((per_device, side, side, 3), config.data.transfer)
    batch = {'view1': views, 'view2': views}
    if run.num_classes is not None:
      batch['labels'] = shape((per_device,), jnp.int32)
    return packing.on_packed_state(update), (state, batch)
  steps = config.input.steps_per_call or multi_step.choose_steps_per_call(
    (config.log.every_steps, config.checkpoint.every_steps)
  )
  plan = {
    'steps': {
      'ids': shape((steps, per_device), jnp.int32),
      'windows': shape((steps, per_device, 2, 4), jnp.int32),
    },
    'count': shape((), jnp.int32),
  }
  # As `dataset.store()` makes it; only the headers of images are read.
  height, width = run.dataset.extent
  count = run.dataset.num_examples
  taps = (max(height, width), config.image_size, 4)
  store = resident.Store(
    images=shape((count, height, width, 3), jnp.uint8),
    labels=shape((count,), jnp.int32) if run.num_classes else None,
    is_labelled=None,
    indices=shape(taps, jnp.int32),
    weights=shape(taps, jnp.float32),
  )
  function = multi_step.repeat_update(update, run.dataset.views)
  return packing.on_packed_state(function), (state, store, plan)


def _make_state(
  method: experiment.Experiment, num_devices: int
) -> packing.Packed:
  """Returns a state like that of one device; traceable."""
  state = method.initial_state()
  if method.shard_optimizer:
    parts = parallel.take_parts(state.opt_state, num_devices, 0)
    state = state._replace(opt_state=parts)
  return packing.pack(state)


def read_cost(compiled: Any) -> cost.Cost:
  """Returns what the compiler says of a program."""
  # A compiler may know of no cost, as that for GPUs.
  memory, found = compiled.memory_analysis(), compiled.cost_analysis() or {}
  text = compiled.as_text()
  return cost.Cost(
    flops=found.get('flops', 0.0),
    bytes_accessed=found.get('bytes accessed') or cost.sum_bytes_accessed(text),
    optimal_seconds=found.get('optimal_seconds', 0.0)
    + cost.count_unpriced_calls(text),
    argument_bytes=memory.argument_size_in_bytes,
    output_bytes=memory.output_size_in_bytes,
    temp_bytes=memory.temp_size_in_bytes,
    alias_bytes=memory.alias_size_in_bytes,
    code_bytes=memory.generated_code_size_in_bytes,
    estimated_cycles=cost.sum_estimated_cycles(text),
    collectives=cost.count_collectives(text),
  )
