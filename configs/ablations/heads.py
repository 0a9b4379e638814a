"""Heads without batch norm: `configs/ablations/heads.py:ROW`.

Not in the paper, whose authors answer elsewhere whether BYOL needs the batch
statistics. `group` is group norm with standardised weights.
"""

from configs.ablations import baseline

ROWS = {
  'batch': baseline.BYOL,
  'none': baseline.Row(None, {'network.head_norm': 'none'}),
  'layer': baseline.Row(None, {'network.head_norm': 'layer'}),
  'group': baseline.Row(None, {'network.head_norm': 'group'}),
}
get_config = baseline.make_get_config(ROWS)
