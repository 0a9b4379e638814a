"""Collapse: what a run's logged scalars say, and what follows."""

import json

import pytest

from byol_jax import errors
from byol_jax.training import health
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
  policy = health.CollapsePolicy('warn', lambda: health.find_cause(config))
  for line in lines:
    if text := policy.observe(line):
      return line['step'], text
  return None


def config(predictor=(16, 8), base_tau=0.99):
  return {'network': {'predictor': predictor}, 'target': {'base_tau': base_tau}}


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


def test_it_takes_some_lines_in_a_row():
  low, high = health.MIN_SPREAD - 0.01, health.MIN_SPREAD
  assert health.find_collapse(spreads(low, low)) is None
  assert health.find_collapse(spreads(low, low, high, low, low)) is None
  assert health.find_collapse(spreads(low, float('nan'), low)) is None
  assert health.find_collapse([{'tau': 1.0}] * 5) is None
  found = health.find_collapse(spreads(high, low, low, 0.0123))
  assert 'projection_std 0.012, below 0.2 in 3 log lines' in found


def test_a_collapse_warns_once_ends_a_run_or_is_ignored():
  policy = health.CollapsePolicy('warn', lambda: 'so it is')
  lines = spreads(*[0.1] * 5, 0.9, *[0.1] * 4)
  found = [policy.observe(line) for line in lines]
  assert [text is not None for text in found] == [
    *(False, False, True, False, False, False, False, False, True, False)
  ]
  assert 'likely cause: so it is (faults.collapse)' in found[2]
  assert policy.has_collapsed
  policy = health.CollapsePolicy('stop', str)
  assert policy.observe(lines[0]) is policy.observe(lines[1]) is None
  with pytest.raises(errors.DivergedError, match='have collapsed') as caught:
    policy.observe(lines[2])
  assert caught.value.exit_code == 4
  policy = health.CollapsePolicy('ignore', str)
  assert not any(policy.observe(line) for line in lines)
  assert not policy.has_collapsed


def test_the_cause_is_found_in_the_configuration():
  assert 'target.base_tau 0.5' in health.find_cause(config(base_tau=0.5))
  assert 'schedule.base_rate' in health.find_cause(config())
