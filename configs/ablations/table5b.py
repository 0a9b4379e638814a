"""Table 5b, BYOL and SimCLR: `configs/ablations/table5b.py:ROW`.

Eight rows of table 19, which explains the names; predictor_online_beta1 has
69.1 here and 69.0 there.
"""

from configs.ablations import baseline, table19

_NAMES = (
  *('byol', 'predictor_average_beta1', 'average_beta1', 'simclr'),
  *('predictor_online_beta1', 'predictor_online_beta0', 'average_beta0'),
  'online_beta0',
)

ROWS = {name: table19.ROWS[name] for name in _NAMES}
ROWS['predictor_online_beta1'] = table19.ROWS[
  'predictor_online_beta1'
]._replace(top1=69.1)
get_config = baseline.make_get_config(ROWS)
