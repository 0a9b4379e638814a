"""Compares arrays with those of the reference, and lists the comparisons.

An error is stated in multiples of a scale, so that one tolerance serves all:
arrays and trees have the scale max(1, max|b|), scalars |b|, b the reference.
"""

from collections.abc import Iterator, Mapping, Sequence
import math
from typing import Any, NamedTuple

import numpy as np

TOLERANCE = 1e-5


class Comparison(NamedTuple):
  """One array of the reference beside ours."""

  group: str  # of the table, such as 'final/online_params'
  key: str  # the array's name in its file
  error: float  # in multiples of the scale; inf if it could not be computed
  note: str = ''  # why it could not

  @property
  def holds(self) -> bool:
    """Whether the two agree."""
    return self.error <= TOLERANCE


def compare_arrays(group: str, key: str, ours: Any, theirs: Any) -> Comparison:
  """Returns the error max|a-b| / max(1, max|b|)."""
  largest = np.abs(np.asarray(theirs, np.float64)).max(initial=1.0)
  return compare_scalars(group, key, ours, theirs, largest)


def compare_scalars(
  group: str, key: str, ours: Any, theirs: Any, floor: float = 0.0
) -> Comparison:
  """Returns the error max(|a-b| / |b|) over single numbers.

  Another shape, a NaN or an infinity is an infinite error. `floor` is the least
  scale, for differences of larger numbers.
  """
  a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  if a.shape != b.shape:
    note = f'shape {a.shape}, expected {b.shape}'
    return Comparison(group, key, math.inf, note)
  difference = np.abs(a - b)
  with np.errstate(divide='ignore', invalid='ignore'):
    scaled = difference / np.maximum(np.abs(b), floor)
  error = np.where(difference == 0, 0.0, scaled).max(initial=0.0)
  if not np.isfinite(error):
    return Comparison(group, key, math.inf, 'not finite')
  return Comparison(group, key, float(error))


def compare_trees(
  group: str,
  ours: Mapping[str, Mapping[str, Any]],
  arrays: Mapping[str, Any],
  prefix: str,
  separator: str = '|',
) -> Iterator[Comparison]:
  """Yields a comparison for every leaf on either side; none without theirs.

  Ours are {module: {leaf: array}}, theirs {'<prefix>module|leaf': array} with
  `separator` between the names.
  """
  theirs = {key: arrays[key] for key in arrays if key.startswith(prefix)}
  flat = {
    f'{prefix}{module}{separator}{name}': leaf
    for module, leaves in ours.items()
    for name, leaf in leaves.items()
  }
  for key in sorted(flat.keys() | theirs.keys()) if theirs else ():
    if key in flat and key in theirs:
      yield compare_arrays(group, key, flat[key], theirs[key])
    else:
      side = 'only' if key in flat else 'absent'
      yield Comparison(group, key, math.inf, f'{side} in ours')


def format_table(comparisons: Sequence[Comparison]) -> list[str]:
  """Returns one line for each group, with its largest error."""
  groups: dict[str, list[Comparison]] = {}
  for comparison in comparisons:
    groups.setdefault(comparison.group, []).append(comparison)
  width = max([len('quantity'), *(len(group) for group in groups)])
  lines = [
    f'{"quantity":{width}}  keys  largest error  tolerance  ok   where',
  ]
  for group, members in groups.items():
    worst = max(members, key=lambda member: member.error)
    where = worst.key + (f': {worst.note}' if worst.note else '')
    lines.append(
      f'{group:{width}}  {len(members):4}  {worst.error:13.2e}'
      f'  {TOLERANCE:9.0e}  {"yes" if worst.holds else "NO ":3}  {where}'
    )
  return lines
