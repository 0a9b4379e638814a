"""Prints one table: BYOL beside the untrained encoders of the same run."""

import itertools
from typing import Any

from byol_jax import api, configuration, errors, files, pretrained
from byol_jax.evaluation import protocols

ROWS = {
  'random': 'random encoder',
  'random_calibrated': 'random, batch norm estimated',
  'online': 'BYOL',
}
COLUMNS = {
  'knn_k1_t0.1': 'kNN k=1',
  'knn_k20_t0.1': 'kNN k=20',
  'knn_k200_t0.1': 'kNN k=200',
  'top1': 'linear',
}


def run(
  workdir: str, *, knn: str, linear: str, step: int | None = None
) -> dict[str, dict[str, Any]]:
  """Evaluates the three encoders, prints the table, writes report.json.

  Args:
    workdir: of the pretraining.
    knn: the configuration of the verb `knn`.
    linear: the configuration of the verb `linear`.
    step: of BYOL's checkpoint; None for the newest one.

  Returns:
    {weights: {metric: value}}.
  """
  pretraining = pretrained.open_run(workdir)
  # First: a step that is missing or damaged ends it before any work.
  trained = pretrained.open_encoder(pretraining, step=step)
  results: dict[str, dict[str, Any]] = {}
  last: dict[str, list[str]] = {}
  for weights, label in ROWS.items():
    encoder = trained
    if weights != trained.name:
      encoder = pretrained.open_encoder(pretraining, weights)
    results[weights] = {}
    for name, spec in (('knn', knn), ('linear', linear)):
      config = configuration.load(spec, {'weights': weights})
      log = lambda text, row=label: print(
        errors.to_line(f'{row}: {text}'), flush=True
      )
      found = api.evaluate(name, config, pretraining, encoder, log)
      results[weights] |= found
      # What stays is that of the last row, BYOL.
      last[name] = protocols.describe_results(name, found)
  print('\n'.join(format_table(results)))
  print()
  for sentence in itertools.chain(*last.values()):
    print(sentence)
  files.write_json(pretraining.path / 'report.json', results)
  print()
  print(errors.to_line(f'checkpoints, logs, report.json: {pretraining.path}'))
  return results


def format_table(results: dict[str, dict[str, Any]]) -> list[str]:
  """Returns lines of percentages: chance, the encoders, and BYOL's gain."""
  columns = [key for key in COLUMNS if key in results['online']]
  lines = [' ' * 30 + ''.join(COLUMNS[c].rjust(12) for c in columns)]
  chance = 100 / results['online']['num_classes']
  lines.append(_format_row('chance', [chance] * len(columns)))
  percents = {w: [100 * results[w][c] for c in columns] for w in ROWS}
  lines += [_format_row(ROWS[w], values) for w, values in percents.items()]
  gains = [
    byol - max(random, calibrated)
    for random, calibrated, byol in zip(*percents.values())
  ]
  lines.append(_format_row('BYOL above the better random', gains, '+'))
  return lines


def _format_row(label: str, values: list[float], sign: str = '') -> str:
  return label.ljust(30) + ''.join(f'{v:{sign}.1f}'.rjust(12) for v in values)
