"""Draws small charts as SVG."""

from collections.abc import Mapping, Sequence
import colorsys
import html
import math

import numpy as np

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 320, 170, 58, 18, 8
_MAX_POINTS = 400
# Ten colours that also people who confuse red and green tell apart.
_COLOURS = (
  *('#4e79a7', '#f28e2b', '#59a14f', '#e15759', '#b07aa1'),
  *('#9c755f', '#edc948', '#76b7b2', '#ff9da7', '#79706e'),
)


def list_colours(count: int) -> list[str]:
  """Returns a colour for each of `count` classes."""
  if count <= len(_COLOURS):
    return [*_COLOURS[:count]]
  found = []
  for i in range(count):
    rgb = colorsys.hls_to_rgb(i / count, (0.4, 0.6)[i % 2], 0.75)
    found.append('#' + ''.join(f'{round(255 * x):02x}' for x in rgb))
  return found


def draw_curve(
  steps: Sequence[float], values: Sequence[float], label: str
) -> str:
  """Returns a curve over rising steps; what is not finite is a gap.

  `label` is for readers who do not see it.
  """
  stride = -(-len(steps) // _MAX_POINTS)
  kept = sorted({*range(0, len(steps), stride), len(steps) - 1})
  x, y = np.asarray(steps, float)[kept], np.asarray(values, float)[kept]
  finite = y[np.isfinite(y)]
  low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
  margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
  span = max(x[-1] - x[0], 1.0)
  across = _LEFT + (x - x[0]) / span * (_WIDTH - _LEFT - 6)
  axis = _HEIGHT - _BOTTOM
  scale = (axis - _TOP) / (high - low + 2 * margin)
  to_top = lambda value: axis - (value - low + margin) * scale
  runs: list[list[str]] = [[]]
  for left, top in zip(across, to_top(y)):
    if math.isfinite(top):
      runs[-1].append(f'{left:.1f},{top:.1f}')
    elif runs[-1]:
      runs.append([])
  lines = ''.join(
    f'<polyline points="{" ".join(run)}"/>' for run in runs if run
  )
  dots = ''
  if len(kept) <= 20:  # also shows a single point, which is no line
    places = [place.split(',') for run in runs for place in run]
    dots = ''.join(f'<circle cx="{a}" cy="{b}" r="2.5"/>' for a, b in places)
  ticks = ''.join(
    f'<text x="{_LEFT - 4}" y="{to_top(value) + 4:.1f}" text-anchor="end">'
    f'{value:.3g}</text>'
    for value in dict.fromkeys((high, low))
  )
  ends = (
    f'<text x="{_LEFT}" y="{_HEIGHT - 4}">{x[0]:,.0f}</text>'
    f'<text x="{_WIDTH - 6}" y="{_HEIGHT - 4}" text-anchor="end">'
    f'step {x[-1]:,.0f}</text>'
  )
  frame = f'<path class="axis" d="M{_LEFT} {_TOP}V{axis}H{_WIDTH - 4}"/>'
  return _wrap(_WIDTH, _HEIGHT, label, f'{frame}{lines}{dots}{ticks}{ends}')


def draw_map(
  places: np.ndarray, groups: np.ndarray | None, names: Sequence[str]
) -> str:
  """Returns points in the plane, float [N, 2], coloured by group.

  `groups`, int [N], has the row of each in `names`; None draws one colour.
  """
  side, margin = 600, 8
  low, high = places.min(axis=0), places.max(axis=0)
  scaled = (places - low) / np.maximum(high - low, 1e-9).max()
  scaled = margin + scaled * (side - 2 * margin)
  height = math.ceil(scaled[:, 1].max()) + margin
  parts = []
  for group, colour in enumerate(list_colours(len(names)) or _COLOURS[:1]):
    rows = scaled if groups is None else scaled[groups == group]
    dots = ''.join(
      f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4"/>' for x, y in rows
    )
    title = f'<title>{html.escape(names[group])}</title>' if names else ''
    parts.append(f'<g style="fill:{colour}">{title}{dots}</g>')
  label = 'map of the representations'
  return _wrap(side, height, label, ''.join(parts), 'map')


def draw_bar(parts: Mapping[str, float]) -> str:
  """Returns one bar divided in proportion to positive numbers."""
  total, left, drawn = sum(parts.values()) or 1.0, 0.0, []
  for value, colour in zip(parts.values(), list_colours(len(parts))):
    width = 600 * value / total
    drawn.append(
      f'<rect x="{left:.1f}" width="{width:.1f}" height="24" fill="{colour}"/>'
    )
    left += width
  return _wrap(600, 24, 'shares of the time', ''.join(drawn))


def draw_pairs(
  rows: Mapping[str, tuple[float | None, float | None]],
  names: tuple[str, str],
  label: str,
) -> str:
  """Returns two columns of bars side by side, each with a separate scale.

  The SVG can be opened alone: it needs no style sheet.

  Args:
    rows: name -> the value in each column, not negative; None draws nothing.
    names: of the columns.
    label: for readers who do not see it.
  """
  left, width, line = 8 * max(map(len, rows), default=0) + 10, 200, 20
  parts = []
  for column, colour in enumerate(list_colours(2)):
    start = left + column * (width + 60)
    values = [row[column] for row in rows.values()]
    scale = width / max((x for x in values if x is not None), default=1)
    parts.append(
      f'<text x="{start}" y="14">{html.escape(names[column])}</text>'
    )
    for i, value in enumerate(values, 1):
      if value is not None:
        end = value * scale
        parts.append(
          f'<rect x="{start}" y="{i * line + 3}" width="{end:.1f}" height="14"'
          f' fill="{colour}"/><text x="{start + end + 4:.0f}"'
          f' y="{i * line + 14}">{value:.1f}</text>'
        )
  parts += [
    f'<text x="{left - 8}" y="{i * line + 14}" text-anchor="end">'
    f'{html.escape(name)}</text>'
    for i, name in enumerate(rows, 1)
  ]
  wide, high = left + 2 * (width + 60), (len(rows) + 1) * line + 4
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}"'
    f' role="img" aria-label="{html.escape(label)}" font-family="sans-serif"'
    f' font-size="12"><rect width="{wide}" height="{high}" fill="white"/>'
    f'{"".join(parts)}</svg>'
  )


def _wrap(
  width: int, height: int, label: str, inner: str, kind: str = ''
) -> str:
  return (
    f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img"'
    f' aria-label="{html.escape(label)}">{inner}</svg>'
  )
