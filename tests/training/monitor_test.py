"""Collapse: what a run's logged scalars say, and what follows."""

import json
import math

import pytest

from byol_jax import errors
from byol_jax.tools import ablate
from byol_jax.training import monitor
from tests.helpers import tiny_run

RESULTS = tiny_run.ROOT / 'benchmarks' / 'results'


def spreads(*values):
  return [{'projection_std': x, 'byol_loss': 1.0} for x in values]


def measured(name):
  """Log lines of a measured run: name of its file."""
  found = json.loads((RESULTS / name).read_text())
  columns = found['curve_columns']
  return [dict(zip(columns, row)) for row in found['curve']]


def first_warning(lines, config):
  """(step, text) of the first warning, or None."""
  policy = monitor.CollapsePolicy('warn', lambda: monitor.find_cause(config))
  for line in lines:
    if text := policy.observe(line):
      return line['step'], text
  return None


def config(predictor=(16, 8), base_tau=0.99, parameters='average', **objective):
  return {
    'network': {'predictor': predictor},
    'target': {'base_tau': base_tau, 'parameters': parameters},
    'objective': {'name': 'regression'} | objective,
  }


@pytest.mark.parametrize(
  'name',
  (
    *('shapes_seed4', 'shapes_seed5', 'shapes_seed6', 'cifar10_cpu_seed1'),
    *('cifar10_cpu_seed2', 'cifar10_cpu_seed3', 'imagenette_cpu_seed1'),
    'collapse_healthy',
  ),
)
def test_a_measured_healthy_run_has_no_warning(name):
  assert first_warning(measured(f'{name}.json'), config()) is None


def test_a_measured_run_without_a_predictor_has_one_early():
  lines = measured('collapse_without_predictor.json')
  step, text = first_warning(lines, config(predictor=()))
  assert step < 150 < lines[-1]['step']
  assert 'network.predictor is empty' in text


def test_runs_no_better_than_random_are_flagged_and_no_others():
  """By some of the log lines of `benchmarks/monitor.py`, which has all."""
  found = json.loads((RESULTS / 'monitor.json').read_text())['runs']
  for name, run in found.items():
    curve = run['curve']
    lines = [dict(zip(curve, row)) for row in zip(*curve.values())]
    ends = range(1, len(lines) + 1)
    flagged = any(monitor.find_collapse(lines[:end]) for end in ends)
    assert flagged == run['failed'], name
  failed = sum(run['failed'] for run in found.values())
  assert failed >= 3 and len(found) - failed >= 10


@pytest.mark.parametrize(
  'path',
  [*tiny_run.ROOT.glob('docs/results/table*.json')],
  ids=lambda x: x.stem,
)
def test_runs_of_ablations_no_better_than_random_are_flagged(path):
  """And no others; the interval is that of 10,000 test images."""
  accuracy = 'knn_k20_t0.1'
  for name, row in json.loads(path.read_text())['rows'].items():
    for run in row['runs']:
      best = run['random'][accuracy] / 100
      half_width = 196 * math.sqrt(best * (1 - best) / 10_000)
      failed = run['results'][accuracy] <= 100 * best + half_width
      flagged = ablate.find_collapse(run['curve'])['collapsed_at']
      assert (flagged is not None) == failed, (name, run['seed'])


def test_it_takes_some_lines_in_a_row():
  low, high = 0.49, 0.5
  assert monitor.find_collapse(spreads(low, low)) is None
  assert monitor.find_collapse(spreads(low, low, high, low, low)) is None
  assert monitor.find_collapse(spreads(low, float('nan'), low)) is None
  assert monitor.find_collapse([{'tau': 1.0}] * 5) is None
  # Lines between two of the monitor lack its scalars.
  between = {'byol_loss': 1.0, 'step': 2000}
  lines = [between | {'target_margin': 0.0}, *[between] * 9] * 3
  assert monitor.find_collapse(lines) and not monitor.find_collapse(lines[:20])
  policy = monitor.CollapsePolicy('warn', lambda: 'x')
  found = [policy.observe(line) is not None for line in lines]
  assert found == [i == 20 for i in range(30)]
  found = monitor.find_collapse(spreads(high, low, low, 0.0123))
  assert 'projection_std 0.012, below 0.5 in 3 log lines' in found


@pytest.mark.parametrize('sign', monitor.SIGNS, ids=lambda sign: sign.scalar)
def test_each_sign_is_seen_alone_and_from_its_step_on(sign):
  healthy = {
    **{'projection_std': 0.9, 'dead_units': 0.0, 'target_margin': 0.7},
  }
  wrong = sign.limit + (-0.01 if sign.is_least else 0.01)

  def lines(value, first=sign.from_step):
    line = healthy | {sign.scalar: value}
    return [line | {'step': first + i} for i in range(monitor.NUM_LINES)]

  assert f'{sign.meaning}: {sign.scalar}' in monitor.find_collapse(lines(wrong))
  for value in (sign.limit, healthy[sign.scalar], float('nan')):
    assert monitor.find_collapse(lines(value)) is None
  assert monitor.find_collapse(lines(wrong)[:-1]) is None
  if sign.from_step:
    assert monitor.find_collapse(lines(wrong, sign.from_step - 1)) is None


def test_a_collapse_warns_once_ends_a_run_or_is_ignored():
  policy = monitor.CollapsePolicy('warn', lambda: 'so it is')
  lines = spreads(*[0.1] * 5, 0.9, *[0.1] * 4)
  found = [policy.observe(line) for line in lines]
  assert [text is not None for text in found] == [
    *(False, False, True, False, False, False, False, False, True, False)
  ]
  assert 'likely cause: so it is (faults.collapse)' in found[2]
  assert policy.has_collapsed
  policy = monitor.CollapsePolicy('stop', str)
  assert policy.observe(lines[0]) is policy.observe(lines[1]) is None
  with pytest.raises(errors.DivergedError, match='have collapsed') as caught:
    policy.observe(lines[2])
  assert caught.value.exit_code == 4
  policy = monitor.CollapsePolicy('ignore', str)
  assert not any(policy.observe(line) for line in lines)
  assert not policy.has_collapsed


def test_the_cause_is_found_in_the_configuration():
  def cause(**changes):
    return monitor.find_cause(config(**changes))

  assert 'network.predictor is empty' in cause(predictor=())
  assert 'target.base_tau 0.5' in cause(base_tau=0.5)
  assert 'target.base_tau 1' in cause(base_tau=1.0)
  assert "target.parameters 'online'" in cause(parameters='online')
  assert 'schedule.base_rate' in cause()
  # Negative examples keep images apart without a predictor or a slow target.
  negatives = {'name': 'info_nce', 'negatives_weight': 1.0}
  simclr = {'predictor': (), 'parameters': 'online', **negatives}
  assert 'schedule.base_rate' in cause(**simclr)
  weightless = simclr | {'negatives_weight': 0.0}
  assert "target.parameters 'online'" in cause(**weightless)
