"""Reports a run: BYOL beside the untrained encoders, and pictures."""

from collections.abc import Callable
import time
from typing import Any

from byol_jax import api, configuration, errors, files
from byol_jax.data import from_config
from byol_jax.evals import features
from byol_jax.evaluation import pretrained, protocols
from byol_jax.tools import gallery, page

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
  """Evaluates the three encoders, prints the table, writes the report.

  WORKDIR/report.json has the numbers, report.html all of it with pictures.
  Without labels and a test split there are no accuracies.

  Args:
    workdir: of the pretraining.
    knn: the configuration of the verb `knn`.
    linear: the configuration of the verb `linear`.
    step: of BYOL's checkpoint; None for the newest one.

  Returns:
    {weights: {metric: value}}, empty without accuracies.
  """
  pretraining = pretrained.open_run(workdir)
  # Before any work.
  folder = files.find_writable_folder('report:', pretraining.path)
  with files.refuse_unwritable(f'report: {errors.quote(folder)}'):
    folder.mkdir(parents=True, exist_ok=True)  # of a run in a bucket
  specs = {'knn': knn, 'linear': linear}
  configs = {name: configuration.load(spec) for name, spec in specs.items()}
  # First: a step that is missing or damaged ends it before any work.
  trained = pretrained.open_encoder(pretraining, step=step)
  trained = trained._replace(store=features.FeatureStore())
  reason = _find_lack(pretraining)
  results: dict[str, dict[str, Any]] = {}
  sentences: list[str] = []
  seconds: dict[str, float] = {}
  if not reason or any(config.dataset for config in configs.values()):
    for weights, label in ROWS.items():
      began = time.monotonic()
      encoder = trained
      if weights != trained.name:
        encoder = pretrained.open_encoder(pretraining, weights)
      results[weights], sentences = measure_encoder(
        pretraining, encoder, configs
      )
      seconds[label] = time.monotonic() - began
  lines = format_table(results) if results else [f'no accuracies: {reason}']
  print('\n'.join([*lines, '', *sentences]))
  began = time.monotonic()
  pictures = gallery.make_gallery(
    pretraining.config, trained, not reason, _make_log('pictures')
  )
  seconds['pictures'] = time.monotonic() - began
  files.write_json(pretraining.path / 'report.json', results)
  table = list_rows(results) if results else [(lines[0], [])]
  html = pretraining.path / 'report.html'
  page.write_page(html, pretraining, trained.step, table, pictures, seconds)
  print()
  print(errors.to_line(f'checkpoints, logs, report.json: {pretraining.path}'))
  print(errors.to_line(f'with pictures: {html.absolute()}'))
  return results


def measure_encoder(
  run: pretrained.Run, encoder: features.Encoder, configs: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
  """Returns an encoder's results by several protocols, and as sentences.

  Args:
    run: of the encoder.
    encoder: from `pretrained.open_encoder`.
    configs: of each protocol by its name; their `weights` are set.
  """
  results: dict[str, Any] = {}
  sentences: list[str] = []
  log = _make_log(ROWS[encoder.name])
  for name, config in configs.items():
    config.weights = encoder.name
    found = api.evaluate(name, config, run, encoder, log)
    results |= found
    sentences += protocols.describe_results(name, found)
  return results, sentences


def _make_log(what: str) -> Callable[[str], None]:
  return lambda text: print(errors.to_line(f'{what}: {text}'), flush=True)


def _find_lack(run: pretrained.Run) -> str:
  """Returns why the images of a run allow no accuracy; '' if they do."""
  num_classes = run.training_set['num_classes'] or 0
  if num_classes < 2:
    return ('the images have no labels', 'all images are of one class')[
      num_classes
    ]
  try:
    from_config.open_split(run.config, 'test')
  except errors.DataError as error:
    return str(error)
  return ''


def list_rows(
  results: dict[str, dict[str, Any]],
) -> list[tuple[str, list[str]]]:
  """Returns labels and cells: chance, the encoders, and BYOL's gain, in %."""
  columns = [key for key in COLUMNS if key in results['online']]
  chance = 100 / results['online']['num_classes']
  rows = {'chance': [chance] * len(columns)}
  for weights, label in ROWS.items():
    rows[label] = [100 * results[weights][column] for column in columns]
  *random, byol = (rows[label] for label in ROWS.values())
  gains = [last - max(others) for last, *others in zip(byol, *random)]
  return [
    ('', [COLUMNS[column] for column in columns]),
    *((label, [f'{x:.1f}' for x in values]) for label, values in rows.items()),
    ('BYOL above the better random', [f'{x:+.1f}' for x in gains]),
  ]


def format_table(results: dict[str, dict[str, Any]]) -> list[str]:
  """Returns `list_rows` as lines of one length."""
  return [
    label.ljust(30) + ''.join(cell.rjust(12) for cell in cells)
    for label, cells in list_rows(results)
  ]
