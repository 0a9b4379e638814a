"""The page of a report in Chromium: drawn, quiet, and as narrow as a phone."""

import html
import json
import re
import shutil
import subprocess

import pytest

from byol_jax.tools import report
from tests.tools import page_test

PHONE = 390  # pixels
# Runs in a copy of the page, which itself allows no script.
PROBE = """<script>
addEventListener('load', () => {
  const box = x => x.getBoundingClientRect();
  const lines = x => {
    const range = document.createRange();
    range.selectNodeContents(x);
    return range.getClientRects().length;
  };
  const found = {
    wide: document.documentElement.scrollWidth,
    outside: [...document.querySelectorAll('img, svg, p, h1, h2, table')]
      .filter(x => !x.closest('.wide, pre, details') &&
        (box(x).left < 0 || box(x).right > innerWidth + 1))
      .map(x => x.outerHTML.slice(0, 80)),
    broken: [...document.querySelectorAll('td')]
      .filter(x => /^[-+.0-9A-Za-z]+$/.test(x.textContent) &&
        !x.closest('details') && lines(x) > 1)
      .map(x => x.textContent),
    images: [...document.images].map(x =>
      x.complete && x.naturalWidth > 0 && box(x).width > 20),
    drawings: [...document.querySelectorAll('svg')].map(x =>
      x.getBBox().width > 0 && box(x).width > 100 && box(x).height > 5),
  };
  parent.postMessage(JSON.stringify(found), '*');
});
</script>"""
# A window of Chromium may not be this narrow; a frame may.
FRAME = """<!DOCTYPE html><pre id="found"></pre><script>
addEventListener('message', x =>
  { document.getElementById('found').textContent = x.data; });
</script><iframe src="probe.html" width="%d" height="800"></iframe>"""


@pytest.fixture
def browse(tmp_path):
  """Runs Chromium on a file; returns what it prints and its console."""
  program = shutil.which('chromium')
  if program is None:
    pytest.skip('chromium is not installed: apt-get install chromium')

  def run(path, *options):
    command = [program, '--headless', '--no-sandbox', '--disable-gpu']
    command += ['--enable-logging=stderr', '--log-level=0', '--hide-scrollbars']
    command += [f'--user-data-dir={tmp_path / "profile"}']
    done = subprocess.run(
      [*command, *options, path.as_uri()],
      capture_output=True,
      text=True,
      timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, re.findall(r'.*CONSOLE.*', done.stderr)

  return run


@pytest.mark.report
def test_a_report_is_drawn_at_the_width_of_a_phone(labelled, browse, tmp_path):
  workdir = labelled[1]
  report.run(str(workdir), knn='evals/knn', linear='evals/linear:cpu')
  page = workdir / 'report.html'
  expected = page_test.check_page(page)
  # A picture of the page to look at, and what the console says of it.
  picture = workdir / 'report.png'
  _, console = browse(
    page, f'--screenshot={picture}', '--window-size=1000,4000'
  )
  assert console == [] and picture.stat().st_size > 50_000
  print(f'screenshot: {picture}')

  text = page.read_text()
  probe, count = re.subn('<meta http-equiv=[^>]*>', PROBE, text, count=1)
  assert count == 1
  (tmp_path / 'probe.html').write_text(probe)
  frame = tmp_path / 'frame.html'
  frame.write_text(FRAME % PHONE)
  output, console = browse(frame, '--dump-dom', '--virtual-time-budget=20000')
  found = json.loads(
    html.unescape(re.search(r'<pre id="found">(.*?)</pre>', output)[1])
  )
  assert console == [] and found['wide'] == PHONE and found['outside'] == []
  assert found['broken'] == []  # words and numbers
  assert found['images'] == [True] * len(expected.named('img'))
  assert found['drawings'] == [True] * len(expected.named('svg'))


@pytest.mark.report
def test_the_page_forbids_what_it_does_not_need(labelled, browse, tmp_path):
  """A script that got into it would not run: the console says so."""
  path = tmp_path / 'page.html'
  run = page_test.pretrained.open_run(labelled[1])
  shown = page_test.make_gallery(['a'])
  page_test.page.write_page(path, run, 2, [('table', [])], shown, {})
  path.write_text(
    path.read_text().replace('<h1>', '<script>document.title="x"</script><h1>')
  )
  output, console = browse(path, '--dump-dom')
  assert '<title>BYOL: run</title>' in output
  assert len(console) == 1 and 'Content Security Policy' in console[0]
