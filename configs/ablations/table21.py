"""Table 21, no target network: `configs/ablations/table21.py:FACTOR`.

The target has the online parameters (tau = 0), and the predictor's learning
rate is multiplied by a factor. `baseline` has a target network.
"""

from configs.ablations import baseline


def _make_row(
  factor: float, top1: float, spread: float | None = None
) -> baseline.Row:
  changes = {
    'target.parameters': 'online_stopped',
    'schedule.predictor_rate': factor,
  }
  return baseline.Row(top1, changes, spread=spread)


ROWS = {
  'baseline': baseline.BYOL,
  '0': _make_row(0.0, 0.01),
  '1': _make_row(1.0, 5.5),
  '2': _make_row(2.0, 62.8, 1.5),
  '10': _make_row(10.0, 66.6),
  '20': _make_row(20.0, 66.3, 0.3),
}
get_config = baseline.make_get_config(ROWS)
