"""The table of a suite: what was measured, beside the paper's numbers."""

from collections.abc import Iterable, Mapping
from typing import Any

from byol_jax.evals import headlines, paper_results

_TITLES = {
  'name': 'evaluation',
  'value': 'ours, %',
  'half_width': '95 %',
  'paper': 'paper',
  'difference': 'difference',
  'chance': 'chance',
  'random': 'random encoder',
  'num_images': 'images',
  'note': 'note',
}
# Of numbers; others have one digit after the point.
_FORMATS = {
  'half_width': '+-{:.1f}',
  'difference': '{:+.1f}',
  'num_images': '{:,}',
}


def make_row(
  headline: headlines.Headline, paper: paper_results.Result | None
) -> dict[str, Any]:
  """Returns a row in percent, without what is known of other encoders."""
  name, value, num_images, half_width = headline
  if half_width is None:
    half_width = headlines.compute_half_width(value, num_images)
  row = {
    'name': name,
    'value': 100 * value,
    'half_width': 100 * half_width,
    'num_images': num_images,
  }
  if paper is not None:
    row |= {
      'paper': paper.value,
      'difference': 100 * value - paper.value,
      'note': _describe_source(paper),
    }
  return row


def compute_chance(headline: str, num_classes: int | None) -> float | None:
  """Returns the accuracy of guessing, in percent; None if it is not known."""
  if num_classes is None or headline.endswith(headlines.METRICS['map']):
    return None
  return min(100.0, (500 if headline.endswith('top-5') else 100) / num_classes)


def format_table(
  rows: Iterable[Mapping[str, Any]], beside_random: bool
) -> list[str]:
  """Returns the lines of a Markdown table, its columns aligned.

  A row without a value has an `error`, the reason.
  """
  rows = [*rows]
  left_out = () if beside_random else ('chance', 'random')
  columns = [key for key in _TITLES if key not in left_out]
  if not any(row.get('note') or row.get('error') for row in rows):
    columns.remove('note')
  cells = [[_TITLES[key] for key in columns]]
  cells += [[_format_cell(row, key) for key in columns] for row in rows]
  widths = [max(map(len, column)) for column in zip(*cells)]
  widths[-1] = 3 if columns[-1] == 'note' else widths[-1]
  lines = [
    f'| {" | ".join(cell.ljust(w) for cell, w in zip(line, widths))} |'
    for line in cells
  ]
  return [lines[0], f'| {" | ".join("-" * w for w in widths)} |', *lines[1:]]


def _format_cell(row: Mapping[str, Any], key: str) -> str:
  if key == 'note' and 'error' in row:
    return str(row['error']).replace('|', '/')
  value = row.get(key)
  if value is None:
    return '' if key == 'note' else '-'
  if isinstance(value, str):
    return value
  return _FORMATS.get(key, '{:.1f}').format(value)


def _describe_source(paper: paper_results.Result) -> str:
  trained = paper.pretraining
  return (
    f'{paper.source}: {trained.epochs:g} epochs, batch {trained.batch_size}'
  )
