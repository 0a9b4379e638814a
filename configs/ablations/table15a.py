"""Table 15a, the base learning rate: `configs/ablations/table15a.py:RATE`."""

from configs.ablations import baseline

_RESULTS = {
  '0.3': (72.5, 90.8),
  '0.01': (34.8, 60.8, 3.0),
  '0.1': (65.0, 87.0),
  '0.2': (71.7, 90.6),
  '0.4': (72.3, 90.6),
  '0.5': (71.5, 90.1),
  '1': (69.4, 89.2),
}

ROWS = baseline.make_rows(
  _RESULTS, {rate: {'schedule.base_rate': float(rate)} for rate in _RESULTS}
)
get_config = baseline.make_get_config(ROWS)
