"""Table 5a, modes of the target: `configs/ablations/table5a.py:ROW`.

`constant_random` never moves it, `stopped` copies the online network at each
step (tau = 0); the numbers are tau at step 0, which rises to 1.
"""

from configs.ablations import baseline

ROWS = {
  '0.99': baseline.BYOL,
  'constant_random': baseline.Row(
    18.8, {'target.base_tau': 1.0, 'target.schedule': 'constant'}, spread=0.7
  ),
  '0.999': baseline.Row(69.8, {'target.base_tau': 0.999}),
  '0.9': baseline.Row(68.4, {'target.base_tau': 0.9}),
  'stopped': baseline.Row(0.3, {'target.parameters': 'online_stopped'}),
}
get_config = baseline.make_get_config(ROWS)
