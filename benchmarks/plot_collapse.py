"""Draws a healthy and a collapsed run: docs/img/collapse.svg.

byol-jax pretrain --config=shapes --config.epochs=8 --config.log.every_steps=10
    --workdir=runs/healthy
byol-jax pretrain --config=shapes --config.epochs=8 --config.log.every_steps=10
    --config.network.predictor='()' --workdir=runs/collapsed
python benchmarks/collect_run.py runs/healthy
    benchmarks/results/collapse_healthy.json
python benchmarks/collect_run.py runs/collapsed
    benchmarks/results/collapse_without_predictor.json
python benchmarks/plot_collapse.py
"""

import json
from pathlib import Path

from byol_jax.training import monitor

ROOT = Path(__file__).parents[1]
RUNS = {
  'collapse_healthy': ('with a predictor', '#1a7f37'),
  'collapse_without_predictor': ('without', '#cf222e'),
}
# Scalar -> greatest value of its axis, and a line to compare with.
PANELS = {'byol_loss': (4, None), 'projection_std': (1, monitor.SIGNS[0].limit)}
WIDTH, HEIGHT, LEFT, TOP, GAP = 260, 150, 40, 30, 60
FONT = 'font-family="sans-serif" font-size="12"'
TEXT = f'{FONT} fill="#57606a"'


def read_curves(name: str) -> dict[str, list[float]]:
  """Returns the scalars of a run by name."""
  path = ROOT / 'benchmarks' / 'results' / f'{name}.json'
  found = json.loads(path.read_text())
  return dict(zip(found['curve_columns'], zip(*found['curve'], strict=True)))


def draw_panel(scalar: str, left: int) -> list[str]:
  """Returns the elements of one diagram, whose axes begin at `left`."""
  greatest, limit = PANELS[scalar]
  y = lambda value: TOP + HEIGHT * (1 - value / greatest)
  bottom = TOP + HEIGHT
  parts = [
    f'<text x="{left}" y="{TOP - 12}" {TEXT}>{scalar}</text>',
    f'<path d="M{left} {TOP}V{bottom}H{left + WIDTH}" fill="none"'
    ' stroke="#8c959f"/>',
  ]
  for value in (0, greatest / 2, greatest):
    parts.append(
      f'<text x="{left - 6}" y="{y(value) + 4:.0f}" {TEXT}'
      f' text-anchor="end">{value:g}</text>'
    )
  if limit is not None:
    parts.append(
      f'<path d="M{left} {y(limit):.1f}h{WIDTH}" stroke="#8c959f"'
      ' stroke-dasharray="4 4"/>'
      f'<text x="{left + WIDTH}" y="{y(limit) - 5:.0f}" {TEXT}'
      f' text-anchor="end">warning below {limit:g}</text>'
    )
  for name, (label, colour) in RUNS.items():
    curves = read_curves(name)
    last = max(curves['step'])
    points = ' '.join(
      f'{left + WIDTH * step / last:.1f},{y(value):.1f}'
      for step, value in zip(curves['step'], curves[scalar], strict=True)
    )
    end = y(curves[scalar][-1])
    parts.append(
      f'<polyline points="{points}" fill="none" stroke="{colour}"'
      ' stroke-width="2"/>'
      f'<text x="{left + WIDTH}" y="{end - 10:.0f}" {FONT}'
      f' fill="{colour}"'
      f' text-anchor="end">{label}</text>'
    )
  parts.append(
    f'<text x="{left}" y="{bottom + 16}" {TEXT}>0</text>'
    f'<text x="{left + WIDTH}" y="{bottom + 16}" {TEXT}'
    f' text-anchor="end">step {last:g}</text>'
  )
  return parts


def main() -> None:
  """Writes the picture."""
  total = LEFT + 2 * WIDTH + GAP + 20
  lines = [
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}"'
    f' height="{TOP + HEIGHT + 26}">',
    '<rect width="100%" height="100%" fill="white"/>',
  ]
  for i, scalar in enumerate(PANELS):
    lines += draw_panel(scalar, LEFT + i * (WIDTH + GAP))
  target = ROOT / 'docs' / 'img' / 'collapse.svg'
  target.parent.mkdir(exist_ok=True)
  target.write_text('\n'.join([*lines, '</svg>', '']))
  print(f'{target}: {target.stat().st_size:,} bytes')


if __name__ == '__main__':
  main()
