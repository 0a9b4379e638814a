"""Lets the runs of one process share what they compile.

JAX finds a program again if it gets the same function objects. So what makes
functions from a configuration is cached: each run saves seconds of tracing and
compiling. What a run reads, writes, logs and raises is not shared.
"""

import contextlib
import functools
import json

import pytest

from byol_jax import configuration, experiment
from byol_jax.distributed import packing, placement
from byol_jax.training import multi_step

# Sections of a configuration that `experiment.build` does not read.
UNREAD = (
  *('dataset', 'data_dir', 'data', 'input'),
  *('checkpoint', 'faults', 'log', 'eval'),
)


@contextlib.contextmanager
def shared():
  """Builds and compiles each configuration once inside the block."""
  built, build = {}, experiment.build

  def build_once(config, num_examples, num_classes):
    configuration.check_ranges(config)  # all sections
    read = {k: v for k, v in config.to_dict().items() if k not in UNREAD}
    key = json.dumps([read, num_examples, num_classes], default=str)
    if key not in built:
      built[key] = build(config, num_examples, num_classes)
    return built[key]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(experiment, 'build', build_once)
    for owner, name in (
      (experiment.Experiment, 'init_on_host'),
      (multi_step, 'repeat_update'),
      (multi_step, 'monitor_last'),
      (packing, 'on_packed_state'),
      (placement, 'pmap'),
    ):
      patch.setattr(owner, name, functools.cache(getattr(owner, name)))
    yield
