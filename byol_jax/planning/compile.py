"""Compiles the step of a run for devices that are not there.

The update, its mapping over devices and what it donates are training's own;
only shapes go in, and nothing runs.
"""

from collections.abc import Sequence
import importlib.metadata
import re
import time
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies as descriptions
import jax.numpy as jnp
from ml_collections import config_dict

from byol_jax import errors, experiment as experiments
from byol_jax.data import catalog, from_config
from byol_jax.data.loading import resident
from byol_jax.distributed import packing, placement
from byol_jax.planning import cost as plan_numbers, hlo, topologies
from byol_jax.training import multi_step


class TooLarge(Exception):
  """The compiler found no way to fit a step; `needed` bytes, if it said."""

  def __init__(self, message: str) -> None:
    super().__init__(message)
    self.needed = needed_bytes(message)


class Run(NamedTuple):
  """What a plan knows of a run: its shapes, and no image."""

  config: config_dict.ConfigDict
  num_examples: int
  num_classes: int | None
  dataset: Any  # `data.resident.ImageSet` of a resident set, else None


def open_run(config: config_dict.ConfigDict) -> Run:
  """The sizes of a training set; those of a known one without looking at it.

  Raises:
    UserError: another set, or one that would live on the devices, is missing.
  """
  facts = catalog.find(config.dataset)
  if config.data.resident:
    dataset = from_config.image_set(config, 'train')
    return Run(config, dataset.num_examples, dataset.num_classes, dataset)
  if facts is not None:
    return Run(config, facts.num_train, facts.num_classes, None)
  source = from_config.source(config, 'train')
  return Run(config, len(source), source.num_classes, None)


def devices_of(topology: topologies.Topology) -> list[jax.Device]:
  """The devices of a slice, as the compiler describes them.

  Raises:
    ConfigError: libtpu does not know the slice.
  """
  try:
    return descriptions.get_topology_desc(
      platform='tpu',
      topology_name=topology.aot_name,
      **dict(topology.aot_options),
    ).devices
  except (RuntimeError, ValueError) as error:
    first = str(error).partition('\n')[0]
    raise errors.ConfigError(
      f'--topology={topology.name}: libtpu {libtpu_version()} gives no such'
      f' slice: {first}'
    ) from error


def libtpu_version() -> str:
  """Of the installed package."""
  return importlib.metadata.version('libtpu')


class Compiled(NamedTuple):
  """A step, and how long it took to get it."""

  cost: plan_numbers.Cost
  lower_seconds: float
  compile_seconds: float


def compile_step(
  run: Run,
  experiment: experiments.Experiment,
  devices: Sequence[jax.Device],
  per_device: int,
) -> Compiled:
  """The call that training makes, for `per_device` images on each device.

  Raises:
    TooLarge: it does not fit the memory of a device.
  """
  function, arguments = call(run, experiment, per_device)
  step: Any = placement.pmap(function, donate_argnums=(0,), devices=devices)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((len(devices), *x.shape), x.dtype),
    arguments,
  )
  began = time.monotonic()
  lowered = step.lower(*shapes)
  middle = time.monotonic()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' in str(error):
      raise TooLarge(str(error)) from error
    raise
  return Compiled(
    cost=cost(compiled),
    lower_seconds=middle - began,
    compile_seconds=time.monotonic() - middle,
  )


def call(
  run: Run, experiment: experiments.Experiment, per_device: int
) -> tuple[Any, tuple[Any, ...]]:
  """What training maps over the devices, and the shapes of its arguments."""
  state = jax.eval_shape(lambda: packing.pack(experiment.initial_state()))
  shape = jax.ShapeDtypeStruct
  if run.dataset is None:
    side = run.config.image_size
    views = shape((per_device, side, side, 3), run.config.data.transfer)
    batch = {'view1': views, 'view2': views}
    if run.num_classes is not None:
      batch['labels'] = shape((per_device,), jnp.int32)
    return packing.on_packed_state(experiment.update), (state, batch)
  section = run.config
  most = section.input.steps_per_call or multi_step.divisor(
    (section.log.every_steps, section.checkpoint.every_steps)
  )
  store = store_shapes(run.dataset, section.image_size)
  plan = {
    'steps': {
      'ids': shape((most, per_device), jnp.int32),
      'windows': shape((most, per_device, 2, 4), jnp.int32),
    },
    'count': shape((), jnp.int32),
  }
  many = multi_step.repeated(experiment.update, run.dataset.views)
  return packing.on_packed_state(many), (state, store, plan)


def store_shapes(dataset: resident.ImageSet, size: int) -> resident.Store:
  """The shapes of `dataset.store()`; reads headers, decodes nothing."""
  height, width = dataset.extent
  count, shape = dataset.num_examples, jax.ShapeDtypeStruct
  lines = (max(height, width), size, 4)
  return resident.Store(
    images=shape((count, height, width, 3), jnp.uint8),
    labels=shape((count,), jnp.int32) if dataset.num_classes else None,
    indices=shape(lines, jnp.int32),
    weights=shape(lines, jnp.float32),
  )


def cost(compiled: Any) -> plan_numbers.Cost:
  """What the compiler says of a program, on one device."""
  memory, found = compiled.memory_analysis(), compiled.cost_analysis()
  return plan_numbers.Cost(
    flops=found.get('flops', 0.0),
    bytes_accessed=found.get('bytes accessed', 0.0),
    optimal_seconds=found.get('optimal_seconds', 0.0),
    argument_bytes=memory.argument_size_in_bytes,
    output_bytes=memory.output_size_in_bytes,
    temp_bytes=memory.temp_size_in_bytes,
    alias_bytes=memory.alias_size_in_bytes,
    code_bytes=memory.generated_code_size_in_bytes,
    collectives=hlo.collectives(compiled.as_text()),
  )


def needed_bytes(message: str) -> int | None:
  """Out of '(295.73G) exceeds available HBM (15.48G)', if it is there.

  The compiler counts in GiB; some versions say 'Used 22.31G of 16.00G hbm'.
  """
  match = re.search(
    r'([\d.]+)([KMGT])(\) exceeds available HBM| of [\d.]+[KMGT] hbm)', message
  )
  if not match:
    return None
  number, unit, _ = match.groups()
  return int(float(number) * 2 ** (10 * ('KMGT'.index(unit) + 1)))
