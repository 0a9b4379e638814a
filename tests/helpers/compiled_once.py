"""Runs of one process that share what they compile.

The same configuration means the same pure functions, so a run may take those
of the run before it: JAX then finds its programs again, which saves each run
seconds of tracing. What a run reads, writes, logs and raises is its own.
"""

import contextlib
import functools
import json

import pytest

from byol_jax import configuration, experiment
from byol_jax.training import multi_step

# Parts of a configuration that `experiment.build` does not read.
UNREAD = ('checkpoint', 'faults', 'log', 'input', 'data_dir')


@contextlib.contextmanager
def shared():
  """As long as it lasts, a configuration is built and compiled once."""
  built = {}
  build, init = experiment.build, experiment.Experiment.init_on_host
  compile_streamed = multi_step.Streamed.compile
  compiled = functools.cache(lambda update: compile_streamed(None, update))

  def build_once(config, num_examples, num_classes):
    configuration.check_ranges(config)  # of all parts
    read = {k: v for k, v in config.to_dict().items() if k not in UNREAD}
    key = json.dumps([read, num_examples, num_classes], default=str)
    if key not in built:
      built[key] = build(config, num_examples, num_classes)
    return built[key]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(experiment, 'build', build_once)
    patch.setattr(experiment.Experiment, 'init_on_host', functools.cache(init))
    patch.setattr(
      multi_step.Streamed, 'compile', lambda self, update: compiled(update)
    )
    yield
