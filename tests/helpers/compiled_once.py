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


# Key of a configuration and a set -> its functions.
_built: dict = {}
_build = experiment.build
# What makes functions of functions: (owner, name).
_CACHED = (
  (experiment.Experiment, 'init_on_host'),
  (multi_step, 'repeat_update'),
  (multi_step, 'monitor_last'),
  (packing, 'on_packed_state'),
  (placement, 'pmap'),
)
# Of the process: files of tests share them as well.
_patches = [
  (owner, name, functools.cache(getattr(owner, name)))
  for owner, name in _CACHED
]


def _build_once(config, num_examples, num_classes):
  configuration.check_ranges(config)  # all sections
  read = {k: v for k, v in config.to_dict().items() if k not in UNREAD}
  key = json.dumps([read, num_examples, num_classes], default=str)
  if key not in _built:
    _built[key] = _build(config, num_examples, num_classes)
  return _built[key]


@contextlib.contextmanager
def shared():
  """Builds and compiles each configuration once inside such blocks."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(experiment, 'build', _build_once)
    for owner, name, function in _patches:
      patch.setattr(owner, name, function)
    yield
