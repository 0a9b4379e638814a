"""The rows of a table of ablations: listed, compared with ours, drawn."""

from collections.abc import Mapping, Sequence
import difflib
import itertools
import json
import pathlib
import re
import runpy
import statistics
from typing import Any

from byol_jax import configuration, errors, files
from byol_jax.tools import charts

KNN, LINEAR = 'knn_k20_t0.1', 'top1'  # accuracies that a table shows
# Two accuracies that differ by less, in percentage points, have no order: it is
# the 95 % interval of 10,000 test images.
MARGIN = 1.0
# Percent, of the paper: at most this is a collapse, which has no order either
# (one configuration has 0.3, 3.2 and 5.5 in three of its tables).
COLLAPSED = 6.0
_MAX_CHANGES = 3  # that a line of the list shows


def list_tables() -> dict[str, dict[str, Any]]:
  """Returns the rows of every table, by its name in configs/ablations/."""
  found = {}
  folder = configuration.find_root() / 'configs' / 'ablations'
  for path in folder.glob('*.py'):
    with configuration.import_our_configs():
      found[path.stem] = runpy.run_path(str(path)).get('ROWS', {})
  number = lambda name: int(re.sub(r'\D', '', name) or 99)  # table5b before 14a
  return {
    name: found[name] for name in sorted(found, key=number) if found[name]
  }


def find_table(name: str) -> str:
  """Returns a table by its name, or its number ('5b').

  Raises:
    ConfigError: no such table; names the nearest.
  """
  tables = list_tables()
  near: list[str] = []
  for known in (name, f'table{name}'):
    if known in tables:
      return known
    near = near or difflib.get_close_matches(known, tables, 3, 0.7)
  raise errors.ConfigError(
    f'table: no table {errors.quote(name)} of ablations;'
    f' {"nearest" if near else "tables"}: {", ".join(near or tables)}'
  )


def select_rows(table: str, names: str | None) -> dict[str, Any]:
  """Returns rows of a table, by default all.

  Args:
    table: from `find_table`.
    names: of rows, with commas.

  Raises:
    ConfigError: no such row; names the nearest.
  """
  rows = list_tables()[table]
  if names is None:
    return rows
  for name in names.split(','):
    configuration.read_preset(f'ablations/{table}:{name}')
  return {name: rows[name] for name in names.split(',')}


def list_lines(table: str | None) -> list[str]:
  """Returns a line for each row of a table, or of all, with its numbers."""
  tables = list_tables()
  lines = []
  for name in [table] if table else tables:
    lines += [f'ablations/{name}', '', *list_rows(tables[name])]
    lines.append('')
  return lines[:-1]


def list_rows(rows: Mapping[str, Any]) -> list[str]:
  """Returns lines: the paper's numbers of each row, and what it changes."""
  cells = [('row', 'top-1', 'top-5', 'changes')]
  for name, (top1, changes, top5, spread) in rows.items():
    shown = [f'{key}={value}' for key, value in changes.items()]
    if len(shown) > _MAX_CHANGES:
      shown[_MAX_CHANGES:] = [f'and {len(shown) - _MAX_CHANGES} more']
    first = _show(top1) + (f' +-{spread:g}' if spread else '')
    cells.append((name, first, _show(top5), ', '.join(shown)))
  return ['  '.join(line).rstrip() for line in _align(cells)]


def compare(rows: Mapping[str, Any]) -> dict[str, Any]:
  """Compares the order of rows by linear accuracy with that of the paper.

  Pairs have an order if both rows have a number here and in the paper, and the
  paper's differ by `MARGIN` or more and are not both `COLLAPSED`.

  Args:
    rows: {name: {'paper': {'top1': ...}, 'runs': [...]}}.

  Returns:
    `pairs`, counts of those in `same` order, `reverse`, and `close`: here they
    differ by less than `MARGIN`; `ours`, {name: summary}, with the names of the
    rows that are in `reverse` order to each.
  """
  ours = {name: _summarize(row['runs']) for name, row in rows.items()}
  counts = dict.fromkeys(('same', 'reverse', 'close'), 0)
  for left, right in itertools.combinations(rows, 2):
    papers = [rows[name]['paper']['top1'] for name in (left, right)]
    found = [ours[name]['linear'] for name in (left, right)]
    if None in papers or None in found or max(papers) <= COLLAPSED:
      continue
    paper, here = papers[0] - papers[1], found[0] - found[1]
    if abs(paper) < MARGIN:
      continue
    kind = 'same' if paper * here > 0 else 'reverse'
    kind = 'close' if abs(here) < MARGIN else kind
    counts[kind] += 1
    for name, other in ((left, right), (right, left)):
      ours[name][kind].append(other)
  return {'pairs': counts, 'ours': ours}


def _summarize(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns means over the runs of a row, in percent, and what went wrong."""
  summary: dict[str, Any] = {'runs': len(runs)}
  measured = [run for run in runs if run['results'] is not None]
  for name, key in (('knn', KNN), ('linear', LINEAR)):
    values = [run['results'][key] for run in measured]
    gains = [run['results'][key] - run['random'][key] for run in measured]
    summary[name] = round(statistics.mean(values), 2) if values else None
    summary[f'{name}_runs'] = values
    summary[f'{name}_gain'] = (
      round(statistics.mean(gains), 2) if gains else None
    )
  summary['diverged'] = sum(run['diverged'] is not None for run in runs)
  summary['collapsed_at'] = [
    run['collapsed_at'] for run in runs if run['collapsed_at'] is not None
  ]
  return summary | {kind: [] for kind in ('same', 'reverse', 'close')}


def format_table(table: Mapping[str, Any]) -> list[str]:
  """Returns the lines of a Markdown table: ours, paper, same order?"""
  header = (
    *('row', 'paper', 'linear', 'of each seed', 'above random', 'kNN'),
    *('above random', 'what happened', 'same order?'),
  )
  cells = [header]
  for name, row in table['rows'].items():
    ours = table['ours'][name]
    if not ours['runs']:
      continue
    each = ', '.join(f'{x:.1f}' for x in ours['linear_runs'])
    cells.append(
      (
        *(f'`{name}`', _show(row['paper']['top1']), _show(ours['linear'])),
        *(each or '-', _show(ours['linear_gain'], '+'), _show(ours['knn'])),
        *(_show(ours['knn_gain'], '+'), _describe(ours), _judge(ours)),
      )
    )
  lines = [f'| {" | ".join(line)} |' for line in _align(cells)]
  rule = ['-' * len(cell) for cell in _align(cells)[0]]
  return [lines[0], f'| {" | ".join(rule)} |', *lines[1:]]


def _describe(ours: Mapping[str, Any]) -> str:
  found = []
  if ours['collapsed_at']:
    steps = ', '.join(map(str, ours['collapsed_at']))
    found.append(f'collapse seen at step {steps}')
  if ours['diverged']:
    found.append(f'{ours["diverged"]} of {ours["runs"]} diverged')
  return '; '.join(found)


def _judge(ours: Mapping[str, Any]) -> str:
  if ours['reverse']:
    return f'no: {", ".join(ours["reverse"])}'
  return 'yes' if ours['same'] else '-'


def _show(value: float | None, sign: str = '') -> str:
  return '-' if value is None else f'{value:{sign}.1f}'


def _align(cells: Sequence[Sequence[str]]) -> list[list[str]]:
  widths = [max(map(len, column)) for column in zip(*cells)]
  return [[x.ljust(w) for x, w in zip(line, widths)] for line in cells]


def write(table: Mapping[str, Any], folder: pathlib.Path) -> None:
  """Writes TABLE.json, and of it TABLE.md and TABLE.svg."""
  name, counts = table['table'], table['pairs']
  text = [
    f'# {name} on {table["base"]}',
    '',
    f'With {" ".join(table["overrides"]) or "its values"}. Percent; the mean'
    ' over seeds; random is the better of two untrained encoders.',
    '',
    *format_table(table),
    '',
    f'Of {sum(counts.values())} pairs of rows that the paper tells apart,'
    f' {counts["same"]} have its order here, {counts["reverse"]} the reverse,'
    f' {counts["close"]} are within {MARGIN:g} point.',
  ]
  bars = {
    row: (table['rows'][row]['paper']['top1'], ours['linear'])
    for row, ours in table['ours'].items()
    if ours['runs']
  }
  drawn = charts.draw_pairs(bars, ('paper', 'ours'), 'top-1 by linear, percent')
  numbers = re.compile(r'\[[^][{}"]*\]')  # a list of them on a line
  written = numbers.sub(
    lambda found: re.sub(r'\s+', ' ', found[0]), json.dumps(table, indent=1)
  )
  files.write_text(folder / f'{name}.json', written + '\n')
  files.write_text(folder / f'{name}.md', '\n'.join(text) + '\n')
  files.write_text(folder / f'{name}.svg', drawn + '\n')
