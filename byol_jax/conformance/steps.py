"""A run of the reference, continued by us: `<tag>.{config.json,pkl,npz}`.

Its checkpoint becomes our `ByolState`, its batches go through the update that
`python -m byol_jax pretrain` runs, with every augmentation's probability at 0.
"""

from collections.abc import Iterator, Mapping, Sequence
import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from byol_jax import byol, errors, experiment as experiments, parallel
from byol_jax.conformance import compare, inputs
from byol_jax.conformance.compare import Comparison
from byol_jax.conformance.primitives import RATE_FLOOR
from byol_jax.convert import deepmind
from byol_jax.distributed import placement

Arrays = Mapping[str, np.ndarray]


def comparisons(
  tag: str, folder: Path, arrays: Arrays, devices: Sequence[jax.Device]
) -> Iterator[Comparison]:
  """Continues the run of one tag and compares what came of it.

  Args:
    tag: the files' common name.
    folder: where they are.
    arrays: the content of `<tag>.npz`.
    devices: as many as the batches' leading axis.

  Raises:
    DataError: a file of the tag cannot be used.
  """
  batches = inputs.read_batches(tag, arrays)
  config = inputs.our_config(folder / f'{tag}.config.json', batches)
  experiment = experiments.build(
    config.run, num_examples=config.run.batch_size, num_classes=config.classes
  )
  official = deepmind.read_checkpoint(str(folder / f'{tag}.pkl'))
  named = list(check_names(tag, experiment, official))
  yield from named
  if not all(comparison.holds for comparison in named):
    return  # nothing further can run
  state, logs = continue_run(tag, experiment, official, batches, devices)
  peak = config.run.schedule.base_rate * config.run.batch_size / 256
  yield from compare_logs(tag, logs, arrays, RATE_FLOOR * peak)
  for field in deepmind.TREES:
    prefix = f'final/{field}/'
    theirs = {
      key.removeprefix(prefix): value
      for key, value in arrays.items()
      if key.startswith(prefix)
    }
    if theirs:
      group = f'{tag}: final/{field}'
      yield from compare.trees(group, getattr(state, field), theirs, prefix)
  yield from compare_outputs(tag, experiment, state, arrays, devices[0])


def check_names(
  tag: str,
  experiment: experiments.Experiment,
  official: deepmind.OfficialCheckpoint,
) -> Iterator[Comparison]:
  """Names and shapes of our network beside the checkpoint's."""
  make = functools.partial(byol.init, experiment.forward, experiment.optimizer)
  size = experiment.image_size
  ours = jax.eval_shape(
    parallel.on_one_device(make),
    jax.ShapeDtypeStruct((2,), np.uint32),
    jax.ShapeDtypeStruct((1, size, size, 3), np.float32),
  )
  for field in deepmind.TREES:
    found = deepmind.shapes(getattr(ours, field))
    expected = deepmind.shapes(getattr(official, field))
    differ = [
      f'{name} is {found.get(name)}, {expected.get(name)} in the file'
      for name in sorted(found.keys() | expected.keys())
      if found.get(name) != expected.get(name)
    ]
    yield Comparison(
      group=f'{tag}: names and shapes',
      key=f'{field} of {tag}.pkl',
      error=math.inf if differ else 0.0,
      note=differ[0] if differ else '',
    )


def continue_run(
  tag: str,
  experiment: experiments.Experiment,
  official: deepmind.OfficialCheckpoint,
  batches: Sequence[Arrays],
  devices: Sequence[jax.Device],
) -> tuple[byol.ByolState, dict[str, list[float]]]:
  """Our state after the batches, and the scalars of each step.

  Raises:
    DataError: the checkpoint holds no momentum.
  """
  state = our_state(tag, experiment, official)
  update = placement.pmap(experiment.update, devices=devices)
  replicas = placement.replicate(state, devices)
  logs: dict[str, list[float]] = {}
  for batch in batches:
    placed = placement.shard(dict(batch), devices)
    replicas, scalars = update(replicas, placed)
    for name, value in placement.first_replica(scalars).items():
      logs.setdefault(name, []).append(float(value))
  return placement.first_replica(replicas), logs


def our_state(
  tag: str,
  experiment: experiments.Experiment,
  official: deepmind.OfficialCheckpoint,
) -> byol.ByolState:
  """The checkpoint as our state, before its step."""
  if official.momentum is None:
    raise errors.DataError(
      f'{tag}.pkl: expected the momentum of LARS in opt_state, a tree like'
      ' online_params, found none'
    )
  opt_state = optax.tree_utils.tree_set(
    experiment.optimizer.init(official.online_params),
    trace=official.momentum,
    count=np.int32(official.step),
  )
  trees: dict[str, Any] = {
    field: getattr(official, field) for field in deepmind.TREES
  }
  return byol.ByolState(
    step=jnp.int32(official.step),
    rng=jnp.asarray(official.rng),
    opt_state=opt_state,
    **trees,
  )


def compare_logs(
  tag: str, ours: Mapping[str, list[float]], arrays: Arrays, rate_floor: float
) -> Iterator[Comparison]:
  """The scalars that both log, by step."""
  for key, theirs in arrays.items():
    folder, _, name = key.partition('/')
    if folder == 'logs' and name in ours:
      floor = rate_floor if name == 'learning_rate' else 0.0
      yield compare.scalars(f'{tag}: {key}', key, ours[name], theirs, floor)


def compare_outputs(
  tag: str,
  experiment: experiments.Experiment,
  state: byol.ByolState,
  arrays: Arrays,
  device: jax.Device,
) -> Iterator[Comparison]:
  """The final online network in evaluation mode."""
  if inputs.EVAL_IMAGES not in arrays:
    return
  images = jax.device_put(arrays[inputs.EVAL_IMAGES], device)
  apply = jax.jit(
    functools.partial(experiment.forward.apply, is_training=False)
  )
  outputs, _ = apply(state.online_params, state.online_state, images)
  for name, ours in outputs._asdict().items():
    key = f'eval/{name}'
    if key in arrays and ours is not None:
      yield compare.arrays(f'{tag}: {key}', key, ours, arrays[key])
