"""One table: BYOL beside the untrained encoders of the same run."""

from typing import Any

from byol_jax import api, configuration, files, pretrained

ROWS = {
  'random': 'random encoder',
  'random_calibrated': 'random, batch norm estimated',
  'online': 'BYOL',
}


def run(workdir: str, *, knn: str, linear: str) -> dict[str, dict[str, Any]]:
  """Evaluates the three encoders, prints the table, writes report.json.

  Args:
    workdir: of the pretraining.
    knn: the configuration of the verb `knn`.
    linear: the configuration of the verb `linear`.

  Returns:
    {weights: {metric: value}}.
  """
  pretraining = pretrained.open_run(workdir)
  results: dict[str, dict[str, Any]] = {}
  for weights in ROWS:
    encoder = pretrained.open_encoder(pretraining, weights)
    results[weights] = {}
    for name, spec in (('knn', knn), ('linear', linear)):
      config = configuration.load(spec, {'weights': weights})
      results[weights] |= api.evaluate(name, config, pretraining, encoder)
  for line in table(results):
    print(line)
  files.write_json(pretraining.path / 'report.json', results)
  print(f'\ncheckpoints, logs and report.json: {pretraining.path}')
  return results


def table(results: dict[str, dict[str, Any]]) -> list[str]:
  """Lines of percentages: chance, the rows, and BYOL's gain."""
  columns = [key for key in results['online'] if key in COLUMNS]
  lines = [''.ljust(30) + ''.join(COLUMNS[c].rjust(12) for c in columns)]
  chance = 100 / results['online']['num_classes']
  lines.append(row('chance', [chance] * len(columns)))
  for weights, label in ROWS.items():
    values = [100 * results[weights][column] for column in columns]
    lines.append(row(label, values))
  gains = [
    100 * results['online'][column]
    - 100 * max(results[w][column] for w in ROWS if w != 'online')
    for column in columns
  ]
  lines.append(row('BYOL above the better random', gains, '+'))
  return lines


COLUMNS = {
  'knn_k1': 'kNN k=1',
  'knn_k20': 'kNN k=20',
  'knn_k200': 'kNN k=200',
  'top1': 'linear',
}


def row(label: str, values: list[float], sign: str = '') -> str:
  """A label and its percentages."""
  return label.ljust(30) + ''.join(f'{v:{sign}.1f}'.rjust(12) for v in values)
