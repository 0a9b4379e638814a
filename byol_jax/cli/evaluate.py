"""The verbs that evaluate a frozen encoder, and their help."""

import argparse
from collections.abc import Callable
from typing import Any

HELP = {
  'knn': """Nearest-neighbour accuracy of a frozen encoder.

  Cosine similarity, weights exp(similarity / 0.1), k = 1, 20 and 200; the bank
  is the training split, the queries the test split. --config.dataset takes
  another set than the run's own; --config.weights is online, target, random
  or random_calibrated.

  example: python -m byol_jax knn --workdir=runs/demo
  """,
  'linear': """Linear accuracy of a frozen encoder (paper, appendix C.1).

  SGD with Nesterov momentum; all learning rates are trained side by side in
  one pass, the best on the held-out part of the training split is reported on
  the test split. --config=evals/linear.py:cpu caches centre-crop features.

  example: python -m byol_jax linear --workdir=runs/demo
           --config=evals/linear.py:cpu
  """,
}


# (arguments, overrides) -> the configuration, joined with the other processes,
# and what prints for all of them.
Begin = Callable[
  [argparse.Namespace, list[str]], tuple[Any, Callable[[str], None]]
]
Verb = Callable[[argparse.Namespace, list[str]], None]


def verbs(begin: Begin) -> dict[str, Verb]:
  """Name -> verb, of each protocol in `evals/`."""

  def make(name: str) -> Verb:
    def verb(arguments: argparse.Namespace, overrides: list[str]) -> None:
      config, say = begin(arguments, overrides)
      run(name, config, arguments.workdir, say)

    verb.__doc__ = HELP[name]
    return verb

  return {name: make(name) for name in HELP}


def run(
  name: str, config: Any, workdir: str, say: Callable[[str], None]
) -> None:
  """Evaluates the run of a workdir.

  Args:
    name: of the protocol.
    config: of the protocol, as in `configs/evals/`.
    workdir: of the pretraining.
    say: prints.
  """
  from byol_jax import api, pretrained

  opened = pretrained.open_run(workdir)
  encoder = pretrained.open_encoder(
    opened, config.weights, calibration_batches=config.calibration_batches
  )
  results = api.evaluate(name, config, opened, encoder, note=say)
  for key, value in results.items():
    shown = f'{value:.4g}' if isinstance(value, float) else value
    say(f'{key}: {shown}')
