"""The functions of byol_jax that evaluate; `api` offers them.

Each is a protocol of `evals` on an encoder of any origin, and its results are
recorded.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import config_dict

from byol_jax import configuration
from byol_jax.evaluation import origins, protocols


def _make_function(name: str, summary: str) -> Callable[..., dict[str, Any]]:
  """Returns the function of a protocol, which returns what `summary` says."""

  def run(
    workdir: str | Path,
    config: str | config_dict.ConfigDict = f'evals/{name}',
    overrides: Mapping[str, Any] | None = None,
    log: Callable[[str], None] = lambda text: None,
    *,
    step: int | None = None,
    output: str | Path | None = None,
  ) -> dict[str, Any]:
    arguments = name, workdir, config, overrides, log, step
    return _evaluate(*arguments, output=output)

  run.__name__ = run.__qualname__ = name
  run.__doc__ = f"""Returns {summary}.

  Args:
    workdir: of the pretraining; or a file or folder of `export`, or a published
      checkpoint: see `pretrained.read_weights`.
    config: a preset by name or path, or a configuration; its `dataset` is by
      default that of the pretraining, which a published checkpoint does not
      know.
    overrides: {{'section.key': value}}, for a preset by name.
    log: called with lines of progress.
    step: of an older checkpoint of the workdir; None for the newest one.
    output: a file to which the results are added, as a line of JSON; by default
      WORKDIR/evaluations.jsonl, and none for weights from elsewhere.

  Returns:
    See `{protocols.PROTOCOLS[name].__name__}.measure_accuracy`.

  Raises:
    UserError: one of `byol_jax.errors`.
  """
  return run


knn = _make_function(
  'knn', 'the nearest-neighbour accuracy of a frozen encoder'
)
linear = _make_function('linear', 'the linear accuracy of a frozen encoder')
online = _make_function('online', 'the accuracy of the online classifier')
semisup = _make_function('semisup', 'the accuracy with few labels')
transfer = _make_function(
  'transfer', 'the accuracy on other sets, `datasets` of the configuration'
)


def finetune(
  workdir: str | Path,
  config: str | config_dict.ConfigDict = 'evals/finetune',
  overrides: Mapping[str, Any] | None = None,
  log: Callable[[str], None] = lambda text: None,
  *,
  step: int | None = None,
  output: str | Path | None = None,
  save: str | Path | None = None,
) -> dict[str, Any]:
  """Returns the accuracy of a fine-tuned encoder; arguments as of `knn`.

  Args:
    save: a folder, missing or empty, for the network that was tested: encoder
      and classifier, which `load` reads.

  Returns:
    See `evals.finetune.measure_accuracy`.
  """
  arguments = 'finetune', workdir, config, overrides, log, step
  return _evaluate(*arguments, output=output, save=save)


def _evaluate(
  name: str,
  workdir: str | Path,
  config: str | config_dict.ConfigDict,
  overrides: Mapping[str, Any] | None,
  log: Callable[[str], None],
  step: int | None,
  **paths: str | Path | None,
) -> dict[str, Any]:
  config = configuration.load_or_validate(config, overrides, f'evals/{name}')
  batches = config.calibration_batches
  origin, encoder = origins.open_origin(
    workdir, config.weights, calibration_batches=batches, step=step
  )
  return protocols.evaluate(name, config, origin, encoder, log, **paths)
