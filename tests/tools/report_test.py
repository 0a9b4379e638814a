"""The table of a run beside its random encoders."""

import errno
import json

import pytest

from byol_jax import errors
from byol_jax.tools import report
from tests.tools import page_test

K1, K20 = 'knn_k1_t0.1', 'knn_k20_t0.1'
RESULTS = {
  'random': {K1: 0.20, K20: 0.30, 'bank': 9, 'top1': 0.40},
  'random_calibrated': {K1: 0.25, K20: 0.10, 'top1': 0.45},
  'online': {K1: 0.50, K20: 0.60, 'top1': 0.40, 'num_classes': 8},
}


def numbers(line):
  """The last three fields of a line."""
  return [float(word) for word in line.split()[-3:]]


def test_byol_is_measured_against_the_better_random_encoder():
  head, chance, random, calibrated, byol, gain = report.format_table(RESULTS)
  assert head.split('  ')[-3:] and 'kNN k=20' in head and 'linear' in head
  assert numbers(chance) == [12.5, 12.5, 12.5]
  assert numbers(random) == [20, 30, 40]
  assert numbers(calibrated) == [25, 10, 45]
  assert numbers(byol) == [50, 60, 40]
  # Column by column: 50 - 25, 60 - 30, 40 - 45.
  assert numbers(gain) == [25, 30, -5]
  assert '+25.0' in gain and '-5.0' in gain
  assert len({len(line) for line in (head, chance, byol, gain)}) == 1


@pytest.mark.slow
def test_it_prints_the_table_and_keeps_the_numbers(labelled, capsys):
  workdir = labelled[1]
  results = report.run(str(workdir), knn='evals/knn', linear='evals/linear:cpu')
  output = capsys.readouterr().out
  for label in ('chance', *report.ROWS.values(), 'BYOL above'):
    assert label in output
  assert str(workdir) in output
  assert json.loads((workdir / 'report.json').read_text()) == results
  shown = page_test.check_page(workdir / 'report.html')
  for text in ('BYOL above the better random', 'Outlined', str(workdir)):
    assert text in shown.text
  records = [
    json.loads(line)
    for line in (workdir / 'evaluations.jsonl').read_text().splitlines()
  ]
  last = [(record['weights'], record['protocol']) for record in records[-6:]]
  assert last == [(w, p) for w in report.ROWS for p in ('knn', 'linear')]


def test_a_missing_step_stops_before_any_work(labelled, monkeypatch):
  calls = []
  monkeypatch.setattr(report.api, 'evaluate', lambda *x: calls.append(x))
  specs = {'knn': 'evals/knn', 'linear': 'evals/linear:cpu'}
  with pytest.raises(errors.DataError, match='no checkpoint of step 1'):
    report.run(str(labelled[1]), **specs, step=1)
  assert not calls


def test_a_workdir_that_is_read_only_stops_before_any_work(
  labelled, monkeypatch
):
  def refuse(**options):
    raise OSError(errno.EROFS, 'Read-only file system')

  monkeypatch.setattr(report.files.tempfile, 'TemporaryDirectory', refuse)
  monkeypatch.setattr(report.pretrained, 'open_encoder', None)
  with pytest.raises(errors.DataError, match=r'^report: .*Read-only'):
    report.run(str(labelled[1]), knn='evals/knn', linear='evals/linear:cpu')
