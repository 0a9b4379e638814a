"""One rule for "the same number", and how comparisons are listed.

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

  group: str  # what the table shows, such as 'final/online_params'
  key: str  # the array's name in its file
  error: float  # in multiples of the scale; inf if there is nothing like it
  note: str = ''  # why it could not be compared number by number

  @property
  def holds(self) -> bool:
    """Whether the two agree."""
    return self.error <= TOLERANCE


def arrays(group: str, key: str, ours: Any, theirs: Any) -> Comparison:
  """max|a-b| / max(1, max|b|)."""
  scale = max(1.0, magnitude(theirs))
  return compare(group, key, ours, theirs, np.full(np.shape(theirs), scale))


def scalars(
  group: str, key: str, ours: Any, theirs: Any, floor: float = 0.0
) -> Comparison:
  """max(|a-b| / |b|), one by one.

  Args:
    group: see `Comparison`.
    key: see `Comparison`.
    ours: numbers of any shape.
    theirs: the reference's.
    floor: the least scale. For numbers that are left over when larger ones
      cancel.
  """
  scale = np.maximum(np.abs(np.asarray(theirs, np.float64)), floor)
  return compare(group, key, ours, theirs, scale)


def compare(
  group: str, key: str, ours: Any, theirs: Any, scale: np.ndarray
) -> Comparison:
  """The largest error; a shape or a NaN that differs is infinitely wrong."""
  a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  if a.shape != b.shape:
    note = f'shape {a.shape}, expected {b.shape}'
    return Comparison(group, key, math.inf, note)
  difference = np.abs(a - b)
  with np.errstate(divide='ignore', invalid='ignore'):
    errors = np.where(difference == 0, 0.0, difference / scale)
  if not np.isfinite(errors).all():
    note = 'not finite' if not np.isfinite(a).all() else 'expected another'
    return Comparison(group, key, math.inf, note)
  return Comparison(group, key, float(errors.max(initial=0.0)))


def magnitude(x: Any) -> float:
  """max|x|, 0 for an empty array."""
  return float(np.abs(np.asarray(x, np.float64)).max(initial=0.0))


def trees(
  group: str,
  ours: Mapping[str, Mapping[str, Any]],
  theirs: Mapping[str, Any],
  prefix: str = '',
) -> Iterator[Comparison]:
  """Every leaf on either side.

  Args:
    group: see `Comparison`.
    ours: {module: {leaf: array}}.
    theirs: {'module|leaf': array}.
    prefix: what their keys begin with in the file.
  """
  flat = flatten(ours)
  for name in sorted(flat.keys() | theirs.keys()):
    key = prefix + name
    if name not in flat:
      yield Comparison(group, key, math.inf, 'absent in ours')
    elif name not in theirs:
      yield Comparison(group, key, math.inf, 'only in ours')
    else:
      yield arrays(group, key, flat[name], theirs[name])


def flatten(tree: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """{module: {leaf: array}} to {'module|leaf': array}."""
  return {
    f'{module}|{name}': leaf
    for module, leaves in tree.items()
    for name, leaf in leaves.items()
  }


def table(comparisons: Sequence[Comparison]) -> list[str]:
  """Lines: one a group, with its worst member."""
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
