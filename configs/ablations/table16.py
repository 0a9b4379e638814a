"""Table 16, the batch size: `configs/ablations/table16.py:ROW`.

4096 / N images: N such batches, each with its own batch norm and SimCLR's
negative examples, before one update and one of the target (section 5).
"""

from configs.ablations import baseline, simclr

_BYOL = {
  '4096': (72.5, 90.8),
  '2048': (72.4, 90.7),
  '1024': (72.2, 90.7),
  '512': (72.2, 90.8),
  '256': (71.8, 90.7),
  '128': (69.6, 89.6, 0.5),
  '64': (59.7, 83.2, 1.5),
}
_SIMCLR = {
  '4096': (67.9, 88.5),
  '2048': (67.8, 88.5),
  '1024': (67.4, 88.1),
  '512': (66.5, 87.6),
  '256': (64.3, 86.3, 2.1),
  '128': (63.6, 85.9),
  '64': (59.2, 83.0, 2.9),
}
_CHANGES = {size: {'batch.accumulate': 4096 // int(size)} for size in _BYOL}

ROWS = baseline.make_rows(_BYOL, _CHANGES) | baseline.make_rows(
  _SIMCLR, _CHANGES, 'simclr_', simclr.LOSS
)
get_config = baseline.make_get_config(ROWS)
