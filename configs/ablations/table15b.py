"""Table 15b, the weight decay: `configs/ablations/table15b.py:DECAY`.

`0` has no number: the paper says that it diverges (section 5) or may be
unstable (caption of the table).
"""

from configs.ablations import baseline

_RESULTS = {
  '1e-6': (72.5, 90.8),
  '0': (None,),
  '1e-7': (72.1, 90.4),
  '5e-7': (72.6, 91.0),
  '5e-6': (71.0, 90.0, 0.3),
  '1e-5': (69.6, 89.3, 0.4),
}

ROWS = baseline.make_rows(
  _RESULTS, {x: {'optimizer.weight_decay': float(x)} for x in _RESULTS}
)
get_config = baseline.make_get_config(ROWS)
