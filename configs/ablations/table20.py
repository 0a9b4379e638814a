"""Table 20, normalisation in the loss: `configs/ablations/table20.py:ROW`."""

from configs.ablations import baseline

ROWS = {
  'l2': baseline.BYOL,
  'layer_norm': baseline.Row(
    72.5, {'objective.normalization': 'layer_norm'}, 90.1, 0.4
  ),
  'none': baseline.Row(67.4, {'objective.normalization': 'none'}, 87.1),
  'batch_norm': baseline.Row(
    65.3, {'objective.normalization': 'batch_norm'}, 85.3
  ),
}
get_config = baseline.make_get_config(ROWS)
