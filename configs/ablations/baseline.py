"""The setting of the paper's ablations: `configs/ablations/baseline.py`.

300 epochs at batch 4096, base rate 0.3, weight decay 1e-6, tau from 0.99
(section 5; method.md 4.6), as `pretrain:300`: 72.5 % top-1, 90.8 % top-5.

The files beside it hold a table each, with the paper's numbers (method.md 6.7):
`--config=ablations/table5b:simclr` is a row, `byol-jax ablate --list` lists
them all, docs/ablations.md says how to run them in small. No row was run at
this size.
"""

from collections.abc import Callable, Mapping
import difflib
from typing import Any, NamedTuple

from ml_collections import config_dict

from configs import pretrain


class Row(NamedTuple):
  """A row of a table: accuracies by linear evaluation, in percent."""

  top1: float | None  # of the paper; None if it has none
  changes: Mapping[str, Any]  # {'section.key': value} beside the baseline
  top5: float | None = None  # of the paper
  spread: float | None = None  # of top1: (max - min) / 2, shown above 0.25


BYOL = Row(72.5, {}, 90.8)


def make_rows(
  results: Mapping[str, tuple[float | None, ...]],
  changes: Mapping[str, Mapping[str, Any]],
  prefix: str = '',
  shared: Mapping[str, Any] | None = None,
) -> dict[str, Row]:
  """Returns rows by name.

  Args:
    results: of the paper by row: top-1, and top-5 and spread where it has them.
    changes: of each row.
    prefix: of the names.
    shared: changes of all rows.
  """
  return {
    prefix + name: Row(top1, {**(shared or {}), **changes[name]}, *more)
    for name, (top1, *more) in results.items()
  }


def get_config() -> config_dict.ConfigDict:
  """Returns the setting of all rows."""
  return pretrain.get_config('300')


def make_get_config(
  rows: Mapping[str, Row],
) -> Callable[..., config_dict.ConfigDict]:
  """Returns `get_config` of a table: of a row, by default the first one."""

  def get_row_config(row: str = next(iter(rows))) -> config_dict.ConfigDict:
    if row not in rows:
      near = difflib.get_close_matches(row, rows, 4, 0.4)
      listed = ', '.join(near or rows)
      raise ValueError(
        f'no row {row!r}; {"nearest" if near else "rows"}: {listed}'
      )
    config, changes = get_config(), rows[row].changes
    if 'objective.name' in changes:  # brings its own settings
      name = changes['objective.name']
      config.objective = config_dict.ConfigDict(
        {'name': name, **pretrain.OBJECTIVES[name]}
      )
    config.update_from_flattened_dict(changes)
    return config

  return get_row_config
