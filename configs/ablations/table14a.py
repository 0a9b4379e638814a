"""Table 14a, depth of the heads: `configs/ablations/table14a.py:ROW`.

The number of linear layers of projector and predictor; 1 is a linear map.
"""

from configs.ablations import baseline

_WIDTHS = {1: (256,), 2: (4096, 256), 3: (4096, 4096, 256)}
# Depth of the projector -> top-1 and top-5 by depth of the predictor, from 1.
_RESULTS = {
  1: ((61.9, 86.0), (65.0, 86.8), (65.7, 86.8)),
  2: ((71.5, 90.7), (72.5, 90.8), (71.4, 90.4)),
  3: ((71.4, 90.4), (72.1, 90.5), (72.1, 90.5)),
}

ROWS = {'projector2_predictor2': baseline.BYOL} | {
  f'projector{g}_predictor{q}': baseline.Row(
    top1,
    {'network.projector': _WIDTHS[g], 'network.predictor': _WIDTHS[q]},
    top5,
  )
  for g, results in _RESULTS.items()
  for q, (top1, top5) in enumerate(results, 1)
}
get_config = baseline.make_get_config(ROWS)
