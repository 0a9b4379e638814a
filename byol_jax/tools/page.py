"""Writes the report of a run as one page of HTML that loads nothing."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
import html
import itertools
import json
import math
import pathlib
import shlex
from typing import Any

from byol_jax import errors, files
from byol_jax.evaluation import pretrained
from byol_jax.tools import charts, gallery as gallery_lib
from byol_jax.training import monitor, provenance, scalars as scalars_lib

_STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 62rem; margin: 0 auto; padding: 0 1rem 3rem }
h1, h2 { line-height: 1.2; overflow-wrap: anywhere }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd }
p, li { overflow-wrap: anywhere }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .2rem .4rem; text-align: right;
  border-bottom: 1px solid #eee }
td:first-child, th:first-child { text-align: left; padding-left: 0 }
.wide { overflow-x: auto }
.facts td { text-align: left; vertical-align: top }
.facts td + td { overflow-wrap: anywhere; min-width: 9rem }
figure { margin: 0; min-width: 0 }
figcaption { font-size: .8rem; color: #555; overflow-wrap: anywhere }
svg { width: 100%; height: auto; display: block }
svg text { font-size: 11px; fill: #555 }
polyline { fill: none; stroke: #4e79a7; stroke-width: 1.5 }
polyline ~ circle, .axis ~ circle { fill: #4e79a7 }
.axis { fill: none; stroke: #aaa }
.map { max-width: 40rem; border: 1px solid #ddd }
.map circle { fill-opacity: .7 }
.curves { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)) }
.images { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr)) }
.row { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px }
.nearest { display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)) }
.near { grid-template-columns: repeat(6, 1fr) }
.near figure:first-child { padding-right: 6px }
.near figcaption { font-size: .7rem }
img { width: 100%; display: block; aspect-ratio: 1; object-fit: contain;
  background: #f4f4f4 }
.same img { outline: 2px solid #59a14f }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .8em }
td .key { margin-left: 0 }
pre { background: #f4f4f4; padding: .6rem; overflow-x: auto }
.bad { color: #b00020; font-weight: 600 }
"""


def write_page(
  path: pathlib.Path,
  run: pretrained.Run,
  step: int | None,
  table: Sequence[tuple[str, list[str]]],
  gallery: gallery_lib.Gallery,
  seconds: Mapping[str, float],
) -> None:
  """Writes the page.

  `table` has labels and cells of the accuracies, or why there are none;
  `seconds` is what the parts of this report took, by name.

  Raises:
    DataError: the file cannot be written.
  """
  lines = read_scalars(run.path)
  title = _text(f'BYOL: {run.path.name}')
  sections = {
    'Result': _show_result(run, table, lines),
    'Nearest neighbours': _show_neighbours(gallery),
    'Map of the representations': _show_map(gallery),
    'Both views of training images': _show_views(gallery),
    'Curves': _show_curves(lines),
    'Where the time went': _show_time(run, lines, seconds),
    'What was run': _show_run(run, step),
    'Use the encoder': _show_use(run),
  }
  body = ''.join(f'<h2>{k}</h2>\n{v}\n' for k, v in sections.items())
  page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style></head>
<body><h1>{title}</h1>
{body}</body></html>
"""
  # ASCII: also a locale without Unicode can write it.
  files.write_text(path, page.encode('ascii', 'xmlcharrefreplace').decode())


def _text(value: Any) -> str:
  """Returns a text from outside as HTML."""
  return html.escape(errors.to_line(str(value)))


def _table(rows: Iterable[Iterable[str]], kind: str = '') -> str:
  """Returns a table; its cells are HTML."""
  lines = (''.join(f'<td>{cell}</td>' for cell in row) for row in rows)
  inner = ''.join(f'<tr>{line}</tr>' for line in lines)
  return f'<div class="wide"><table class="{kind}">{inner}</table></div>'


def _figure(inner: str, caption: str, attribute: str = '') -> str:
  caption = f'<figcaption>{caption}</figcaption>'
  return f'<figure {attribute}>{inner}{caption}</figure>'


def _image(uri: str, name: str) -> str:
  return f'<img src="{uri}" alt="{_text(name)}">'


def _key(colour: str) -> str:
  return f'<span class="key" style="background:{colour}"></span>'


def read_scalars(workdir: pathlib.Path) -> list[dict[str, float]]:
  """Returns the lines of scalars.jsonl, none if it is missing."""
  try:
    found = scalars_lib.read(workdir)
  except errors.DataError:
    return []
  found = [x for x in found if {'step', 'time'} <= x.keys()]
  return [scalars_lib.order(x) for x in found]


def judge_collapse(
  run: pretrained.Run, lines: Sequence[Mapping[str, float]]
) -> tuple[bool, str]:
  """Returns whether a run has collapsed at its end, and a sentence."""
  lines = [line for line in lines if 'projection_std' in line]
  if not lines:
    return False, 'Collapse: unknown, no spread of the projections was logged.'
  found = monitor.find_collapse(lines)
  if found is not None:
    cause = monitor.find_cause(run.config.to_dict())
    return True, f'{found}; likely cause: {cause}.'
  last = lines[-1]['projection_std']
  return False, (
    'No collapse: the spread of the projections (projection_std, from 0 to 1;'
    f' healthy: from 0.7) was {last:.2f} at the end.'
  )


def _show_result(
  run: pretrained.Run,
  table: Sequence[tuple[str, list[str]]],
  lines: list[dict[str, float]],
) -> str:
  collapsed, sentence = judge_collapse(run, lines)
  kind = ' class="bad"' if collapsed else ''
  rows = [map(_text, (label, *cells)) for label, cells in table]
  unit = 'accuracy on the test images, %' if len(table) > 1 else ''
  return f'{_table(rows)}\n<p>{unit}</p><p{kind}>{_text(sentence)}</p>'


def _show_facts(facts: Mapping[str, Any]) -> str:
  return _table((map(_text, fact) for fact in facts.items()), 'facts')


def _show_run(run: pretrained.Run, step: int | None) -> str:
  config, method = run.config, run.experiment
  classes = run.training_set['num_classes']
  facts = {
    'images': f'{config.dataset}: {run.training_set["num_examples"]:,}, '
    + (f'{classes} classes' if classes else 'no labels'),
    'encoder': f'{config.network.encoder}, {config.image_size} pixels',
    'length': f'step {step} of {method.num_steps}, batch {config.batch_size}',
    'optimizer': config.optimizer.name,
    'workdir': run.path.absolute(),
  }
  command = run.path / 'command.txt'
  if command.is_file():
    text = files.read_file(command).decode(errors='replace')
    facts['command'] = ' && '.join(text.splitlines())
  settings = provenance.flatten_config(config.to_dict())
  hidden = {
    'Versions': _read_json(run.path / 'versions.json'),
    f'All {len(settings)} values of the configuration': settings,
  }
  return _show_facts(facts) + ''.join(
    f'\n<details><summary>{name}</summary>{_show_facts(values)}</details>'
    for name, values in hidden.items()
  )


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return dict(json.loads(files.read_file(path)))
  except (errors.DataError, ValueError, TypeError, RecursionError):
    return {}


def _show_curves(lines: list[dict[str, float]]) -> str:
  names = scalars_lib.order({n: 0.0 for line in lines for n in line})
  figures = []
  for name in names:
    if name in ('step', 'time'):
      continue
    pairs = [(x['step'], x[name]) for x in lines if name in x]
    steps, values = zip(*pairs)
    meaning = scalars_lib.describe(name).partition('\n')[0]
    curve = charts.draw_curve(steps, values, name)
    caption = f'{_text(name)}, last {values[-1]:.4g}'
    figures.append(_figure(curve, caption, f'title="{_text(meaning)}"'))
  if not figures:
    return '<p>The workdir has no scalars.jsonl with lines.</p>'
  return f'<div class="curves">{"".join(figures)}</div>'


def _show_views(gallery: gallery_lib.Gallery) -> str:
  figures = []
  for picture, views in gallery.views:
    images = _image(picture.uri, picture.name)
    images += ''.join(_image(x, f'view {i}') for i, x in enumerate(views, 1))
    row = f'<div class="row">{images}</div>'
    figures.append(_figure(row, _text(picture.name)))
  return (
    '<p>An image, then its two views in the first step of the run;'
    ' <code>byol-jax views</code> shows how each was made.</p>\n'
    f'<div class="images">{"".join(figures)}</div>'
  )


def _show_neighbours(gallery: gallery_lib.Gallery) -> str:
  rows = []
  for query, near in gallery.neighbours:
    shown = [(query, '', '')]
    for picture, cosine in near:
      is_same = query.label and picture.label == query.label
      kind = 'class="same"' if is_same else ''
      shown.append((picture, f'{cosine:.2f} ', kind))
    figures = ''.join(
      _figure(
        _image(picture.uri, picture.name),
        _text(prefix + (picture.label or picture.name)),
        kind,
      )
      for picture, prefix, kind in shown
    )
    rows.append(f'<div class="row near">{figures}</div>')
  outlined = ' Outlined: of the same class.' if gallery.class_names else ''
  return (
    '<p>First a query, then its five nearest images with the cosine of the'
    f' representations.{outlined}</p>\n<div class="nearest">'
    f'{"".join(rows)}</div>'
  )


def _show_map(gallery: gallery_lib.Gallery) -> str:
  if gallery.places is None:
    return '<p>Not drawn: it needs at least five images.</p>'
  names, keys = gallery.class_names, ''
  if gallery.classes is not None:
    counts = Counter(gallery.classes.tolist())
    colours = charts.list_colours(len(names))
    shown = sorted(x for x, _ in counts.most_common(20))
    keys = ''.join(_key(colours[x]) + _text(names[x]) for x in shown)
    keys += f' and {len(counts) - 20} more' if len(counts) > 20 else ''
  drawn = charts.draw_map(gallery.places, gallery.classes, names)
  return (
    f'<p>t-SNE of {len(gallery.places):,} representations: near points are'
    ' similar images; distances between groups mean little.</p>\n'
    + _figure(drawn, keys)
  )


def _show_time(
  run: pretrained.Run,
  lines: list[dict[str, float]],
  seconds: Mapping[str, float],
) -> str:
  # Written at each start; of a run that was resumed, later than the first line.
  path = run.path / 'config.json'
  began = path.stat().st_mtime if path.exists() else math.inf
  parts = divide_time(lines, run.config.batch_size, began)
  shown = ''
  if parts:
    bar = _figure(charts.draw_bar(parts), 'The training, from its log.')
    colours = charts.list_colours(len(parts))
    shown = f'{bar}\n' + _table(
      (_key(colour) + name, f'{value:,.1f} s')
      for (name, value), colour in zip(parts.items(), colours)
    )
  took = '; '.join(f'{name} {value:.1f} s' for name, value in seconds.items())
  return f'{shown}\n<p>This report: {_text(took)}.</p>'


def divide_time(
  lines: Sequence[Mapping[str, float]], batch_size: int, began: float
) -> dict[str, float]:
  """Returns where the seconds of a training went, from its log.

  Start and compilation are the time before the steps of the first line, and
  what these took longer than those of later lines. `began`, in seconds since
  1970, is ignored if it is after the first line.

  Returns:
    {what: seconds}; {} with fewer than two lines.
  """
  lines = [x for x in lines if {'images_per_second', 'data_wait'} <= x.keys()]
  rates = [x['images_per_second'] for x in lines]
  if len(lines) < 2 or not all(0 < x < math.inf for x in rates):
    return {}
  ends = [0, *(x['step'] for x in lines)]
  steps = [batch_size * max(b - a, 0) for a, b in itertools.pairwise(ends)]
  spent = [count / rate for count, rate in zip(steps, rates)]
  waited = sum(s * x['data_wait'] for s, x in zip(spent[1:], lines[1:]))
  pace = sum(spent[1:]) / max(sum(steps[1:]), 1)
  slower = max(spent[0] - pace * steps[0], 0.0)
  start = slower + max(lines[0]['time'] - spent[0] - began, 0.0)
  between = lines[-1]['time'] - lines[0]['time'] - sum(spent[1:])
  return {
    'steps': sum(spent) - slower - waited,
    'waiting for images': waited,
    'start and compilation': start,
    'between log lines: checkpoints, evaluations, stops': max(between, 0.0),
  }


def _show_use(run: pretrained.Run) -> str:
  path = str(run.path.absolute())
  word = shlex.quote(path)
  code = (
    'import byol_jax\n\n'
    f'encoder = byol_jax.load({path!r})\n'
    "representations = encoder(['photo.jpg'])  # float32 [1, D]\n"
  )
  commands = (
    f'byol-jax embed --workdir={word} --images=FOLDER --output=images.npz\n'
    f'byol-jax export --workdir={word} --to=onnx --output=FOLDER\n'
  )
  return f'<pre>{html.escape(code)}</pre>\n<pre>{html.escape(commands)}</pre>'
