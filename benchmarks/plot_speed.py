"""Draws our speed over that of others: docs/img/speed.svg.

python benchmarks/plot_speed.py

Each bar is a ratio that one committed result measured side by side.
"""

import json
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'
LEFT, WIDTH, LINE, TOP = 330, 300, 22, 30
TEXT = 'font-family="sans-serif" font-size="12" fill="#57606a"'
CPU_STEPS = {
  'resnet18_64': 'ResNet-18, 64 pixels',
  'resnet50_224': 'ResNet-50, 224 pixels',
  'resnet18_96': 'ResNet-18, 96 pixels',
  'resnet18_32_small': 'ResNet-18, 32 pixels, small stem',
}
INPUT = {
  'as configured, from memory': 'input from JPEG',
  'from the decoded cache': 'input from the decoded cache',
}


def read_ratios() -> dict[str, float]:
  """Returns what is compared -> our speed over the other's."""
  gpu = json.loads((RESULTS / 'gpu_h100.json').read_text())
  found = {
    'H100 step, ResNet-50, bfloat16 : lightly': gpu[
      'ours_over_lightly_bfloat16'
    ]
  }
  peer = json.loads((RESULTS / 'cpu_peer.json').read_text())['shapes']
  found |= {
    f'CPU step, {text} : lightly': peer[name]['ours']['ratio']
    for name, text in CPU_STEPS.items()
  }
  path = RESULTS / 'input_imagenet_sample.json'
  for result in json.loads(path.read_text())['results']:
    cores = f'{result["cores"]} core{"s" * (result["cores"] > 1)}'
    found |= {
      f'{text}, {cores} : official': result['of_official'][name]
      for name, text in INPUT.items()
    }
  return found


def draw(ratios: dict[str, float]) -> str:
  """Returns the bars and the line of equal speed as SVG."""
  scale = WIDTH / max(ratios.values())
  bottom = TOP + LINE * len(ratios)
  parts = []
  for row, (text, ratio) in enumerate(ratios.items()):
    y = TOP + LINE * row
    colour = '#1a7f37' if ratio >= 1 else '#9a6700'
    parts.append(
      f'<text x="{LEFT - 8}" y="{y + 12}" {TEXT} text-anchor="end">{text}'
      '</text>'
      f'<rect x="{LEFT}" y="{y}" width="{scale * ratio:.1f}" height="16"'
      f' fill="{colour}"/>'
      f'<text x="{LEFT + scale * max(ratio, 1) + 6:.1f}" y="{y + 12}"'
      f' {TEXT}>{ratio:.2f}</text>'
    )
  equal = LEFT + scale
  parts.append(
    f'<path d="M{equal:.1f} {TOP - 6}V{bottom}" stroke="#8c959f"'
    ' stroke-dasharray="4 4"/>'
    f'<text x="{equal:.1f}" y="{TOP - 12}" {TEXT} text-anchor="middle">equal'
    '</text>'
  )
  size = f'width="{LEFT + WIDTH + 50}" height="{bottom + 8}"'
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    '<rect width="100%" height="100%" fill="white"/>'
    f'{"".join(parts)}</svg>\n'
  )


if __name__ == '__main__':
  (ROOT / 'docs' / 'img' / 'speed.svg').write_text(draw(read_ratios()))
