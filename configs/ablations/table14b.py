"""Table 14b, width of the projection: `configs/ablations/table14b.py:WIDTH`."""

from configs.ablations import baseline

_RESULTS = {
  '256': (72.5, 90.8),
  '16': (69.9, 89.9, 0.3),
  '32': (71.3, 90.6),
  '64': (72.2, 90.9),
  '128': (72.5, 91.0),
  '512': (72.6, 91.0),
}

ROWS = baseline.make_rows(
  _RESULTS,
  {
    width: {
      f'network.{x}': (4096, int(width)) for x in ('projector', 'predictor')
    }
    for width in _RESULTS
  },
)
get_config = baseline.make_get_config(ROWS)
