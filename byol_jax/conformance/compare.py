"""Compares arrays with those of the reference, and lists the comparisons.

An error is stated in multiples of a scale, so that one tolerance serves all:
arrays and trees have the scale max(1, max|b|), scalars |b|, b the reference.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Comparison:
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
  largest = np.abs(np.asarray(theirs, np.float64)).max(initial=0.0)
  return _compare(group, key, ours, theirs, max(1.0, largest))


def compare_scalars(
  group: str, key: str, ours: Any, theirs: Any, floor: float = 0.0
) -> Comparison:
  """Returns the error max(|a-b| / |b|) over single numbers.

  Args:
    group: see `Comparison`.
    key: see `Comparison`.
    ours: numbers of any shape.
    theirs: the reference's.
    floor: the least scale, for differences of larger numbers.
  """
  scale = np.maximum(np.abs(np.asarray(theirs, np.float64)), floor)
  return _compare(group, key, ours, theirs, scale)


def _compare(
  group: str, key: str, ours: Any, theirs: Any, scale: Any
) -> Comparison:
  """Another shape, a NaN or an infinity is an infinite error."""
  a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  if a.shape != b.shape:
    note = f'shape {a.shape}, expected {b.shape}'
    return Comparison(group, key, math.inf, note)
  difference = np.abs(a - b)
  with np.errstate(divide='ignore', invalid='ignore'):
    errors = np.where(difference == 0, 0.0, difference / scale)
  if not np.isfinite(errors).all():
    return Comparison(group, key, math.inf, 'not finite')
  return Comparison(group, key, float(errors.max(initial=0.0)))


def compare_trees(
  group: str,
  ours: Mapping[str, Mapping[str, Any]],
  theirs: Mapping[str, Any],
  prefix: str = '',
  separator: str = '|',
) -> Iterator[Comparison]:
  """Yields a comparison for every leaf on either side.

  Args:
    group: see `Comparison`.
    ours: {module: {leaf: array}}.
    theirs: {'module|leaf': array}.
    prefix: of their keys in the file.
    separator: between module and leaf in their names.
  """
  flat = {
    f'{module}{separator}{name}': leaf
    for module, leaves in ours.items()
    for name, leaf in leaves.items()
  }
  for name in sorted(flat.keys() | theirs.keys()):
    key = prefix + name
    if name not in flat:
      yield Comparison(group, key, math.inf, 'absent in ours')
    elif name not in theirs:
      yield Comparison(group, key, math.inf, 'only in ours')
    else:
      yield compare_arrays(group, key, flat[name], theirs[name])


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
