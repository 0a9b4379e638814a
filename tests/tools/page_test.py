"""The page of a report: whole, self-contained, and safe from its texts."""

import base64
import html.parser
import io
import json
import re
import shutil

import numpy as np
from PIL import Image
import pytest

from byol_jax.evaluation import pretrained
from byol_jax.tools import charts, gallery, page, report
from tests.helpers import tiny_folder

HOSTILE = '<script>alert("x")</script> & \'"><img src=x onerror=y> \udcff'
VOID = {'meta', 'img', 'br', 'circle', 'rect', 'path', 'polyline'}


class Reader(html.parser.HTMLParser):
  """Another reader of HTML: tags must close in order."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.texts = [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)

  def named(self, tag):
    return [attributes for name, attributes in self.tags if name == tag]

  @property
  def text(self):
    return ' '.join(self.texts)


def check_page(path):
  """Nothing is loaded or executed, every picture opens; returns its reader."""
  text = path.read_text(encoding='ascii')
  found = Reader(text)
  assert not {name for name, _ in found.tags} & {'script', 'link', 'iframe'}
  assert 'http:' not in text and 'https:' not in text and len(text) < 3e6
  for tag, attributes in found.tags:
    assert not [name for name in attributes if name.startswith('on')], tag
  for image in found.named('img'):
    kind, _, data = image['src'].partition(',')
    assert kind == 'data:image/jpeg;base64'
    assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) == 96
  for circle in found.named('circle'):
    assert np.isfinite([float(circle['cx']), float(circle['cy'])]).all()
  return found


def make_gallery(names, count=8):
  noise = np.random.default_rng(0).random((9, 7, 3))
  picture = gallery.Picture(gallery.make_thumbnail(noise), HOSTILE, names[0])
  return gallery.Gallery(
    views=[(picture, [picture.uri] * 2)] * 3,
    neighbours=[(picture, [(picture, 0.5)] * 5)] * 2,
    places=np.random.default_rng(1).random((count, 2)),
    classes=np.arange(count) % len(names),
    class_names=names,
  )


def test_texts_of_others_are_shown_and_never_run(labelled, tmp_path):
  workdir = tmp_path / 'a<b>"&\'c'
  shutil.copytree(labelled[1], workdir)
  lines = ['{"step": 1, "time": 1.0, "projection_std": "nan"}', '[[', '{}']
  lines += ['{"step": 2, "time": 2.0, "projection_std": 0.9, "<b>": 1}']
  (workdir / 'scalars.jsonl').write_text('\n'.join(lines))
  (workdir / 'versions.json').write_text(json.dumps({'<i>': HOSTILE}))
  run = pretrained.open_run(workdir)
  shown = make_gallery([HOSTILE, 'b'])
  path = workdir / 'report.html'
  page.write_page(path, run, 2, [(HOSTILE, ['<s>'])], shown, {'<u>': 1.0})
  found = check_page(path)
  for text in ('alert("x")', 'b', '<i>', '<u>', '<b>', '<s>', workdir.name):
    assert text in found.text
  assert len(found.named('img')) == 3 * 3 + 2 * 6
  assert len(found.named('svg')) == 3  # two curves and the map


def test_a_collapse_is_said(labelled):
  run = pretrained.open_run(labelled[1])
  healthy = [{'projection_std': 0.9}] * 5
  collapsed, sentence = page.judge_collapse(run, [*healthy, {'knn': 1.0}])
  assert not collapsed and 'No collapse' in sentence and '0.90' in sentence
  collapsed, sentence = page.judge_collapse(
    run, [*healthy, *[{'projection_std': 0.1}] * 3, {'knn': 1.0}]
  )
  assert collapsed and 'likely cause' in sentence
  assert 'unknown' in page.judge_collapse(run, [])[1]


def test_the_seconds_of_a_training_are_divided():
  # 10 steps of 4 images a line: 2 s, the first 5 s, of them 3 to compile.
  rates = [(10, 8.0, 0.0), (20, 20.0, 0.25), (30, 20.0, 0.75)]
  lines = [
    {'step': s, 'images_per_second': r, 'data_wait': w, 'time': 100.0 + 3 * s}
    for s, r, w in rates
  ]
  # The first interval began at 125.
  for began, before in ((118.0, 7), (131.0, 0)):
    found = page.divide_time([*lines, {'step': 30, 'knn': 0.5}], 4, began)
    assert [*found.values()] == pytest.approx([4, 2, 3 + before, 60 - 4])
  assert page.divide_time(lines[:1], 4, 0.0) == {}


def test_curves_have_gaps_and_keep_the_last_point():
  values = np.arange(5000.0)
  values[2500:2600] = np.nan
  drawn = charts.draw_curve([*range(5000)], values, 'x')
  lines = re.findall(r'points="([^"]+)"', drawn)
  assert len(lines) == 2 and sum(line.count(',') for line in lines) < 450
  assert float(lines[1].split()[-1].split(',')[0]) == pytest.approx(314)
  for values in ([1.0], [np.nan], [2.0, 2.0]):
    assert 'nan' not in charts.draw_curve([*range(len(values))], values, 'x')


def test_the_map_keeps_groups_together():
  generator = np.random.default_rng(0)
  groups = np.arange(60) % 3
  values = np.eye(3, 16)[groups] + generator.normal(0, 0.05, (60, 16))
  scales = generator.uniform(1, 9, (60, 1))  # the angle counts
  places = gallery.project(np.float32(values * scales))
  distances = np.linalg.norm(places[:, None] - places, axis=-1)
  nearest = np.argsort(distances, axis=1)[:, 1]
  assert np.mean(groups[nearest] == groups) == 1
  assert np.all(gallery.project(np.ones((9, 4), np.float32)) == 0)
  assert gallery.project(values[:4]) is None


def test_a_run_without_labels_has_all_but_accuracies(
  labelled, tmp_path, monkeypatch, capsys
):
  folder = tiny_folder.write(tmp_path / 'flat', labelled=False)
  workdir = tmp_path / 'run'
  shutil.copytree(labelled[1], workdir)
  run = pretrained.open_run(workdir)
  encoder = pretrained.open_encoder(run)
  facts = run.training_set | {'num_classes': None}
  with run.config.unlocked():
    run.config.dataset = str(folder)
  run = run._replace(training_set=facts)
  monkeypatch.setattr(report.pretrained, 'open_run', lambda path: run)
  monkeypatch.setattr(
    report.pretrained, 'open_encoder', lambda *x, **y: encoder
  )
  found = report.run(str(workdir), knn='evals/knn', linear='evals/linear:cpu')
  assert found == {}
  assert 'no accuracies: the images have no labels' in capsys.readouterr().out
  shown = check_page(workdir / 'report.html')
  assert 'no labels' in shown.text and 'Outlined' not in shown.text
  # 16 images with two views, 12 queries with five others.
  assert len(shown.named('img')) == 16 * 3 + 12 * 6
  assert 'ant' in shown.text
