"""Table 18, BYOL with negative examples: `configs/ablations/table18.py:ROW`.

InfoNCE with predictor and target network: its temperature alpha and the weight
beta of the negative examples.
"""

from configs.ablations import baseline

# Alpha -> top-1 and top-5 by beta, 0.1, 0.5 and 1.
_RESULTS = {
  0.01: ((72.2, 90.7), (70.9, 90.2), (53.9, 77.5)),
  0.1: ((72.4, 90.9), (72.0, 90.8), (70.9, 90.3)),
  0.3: ((72.7, 91.0), (72.7, 91.2), (72.7, 91.1)),
  1.0: ((72.6, 90.9), (72.7, 91.1), (72.7, 91.1)),
  3.0: ((72.5, 90.9), (72.6, 91.1), (72.6, 91.0)),
  10.0: ((72.5, 90.9), (72.5, 91.0), (72.6, 91.1)),
}

ROWS = {'beta0': baseline.BYOL} | {
  f'alpha{alpha:g}_beta{beta:g}': baseline.Row(
    top1,
    {
      'objective.name': 'info_nce',
      'objective.temperature': alpha,
      'objective.negatives_weight': beta,
    },
    top5,
    0.5 if (alpha, beta) == (0.01, 1.0) else None,
  )
  for alpha, results in _RESULTS.items()
  for beta, (top1, top5) in zip((0.1, 0.5, 1.0), results)
}
get_config = baseline.make_get_config(ROWS)
