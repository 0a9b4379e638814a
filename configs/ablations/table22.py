"""Table 22, rates of both heads: `configs/ablations/table22.py:ROW`.

Without a target network (tau = 0): the factors of the learning rates of
predictor, lambda, and projector, mu. `baseline` has a target network.
"""

from configs.ablations import baseline

_LAMBDAS = (1.0, 1.5, 2.0, 5.0, 10.0)
# Mu -> top-1 and its spread by lambda.
_RESULTS = {
  1.0: ((3.2, 2.9), (25.7, 6.6), (60.8, 2.9), (66.7, 0.4), (66.9, None)),
  1.5: ((1.4, 2.0), (9.2, 7.0), (55.2, 5.8), (61.5, 0.6), (66.0, 0.3)),
  2.0: ((2.0, 2.8), (5.3, 1.9), (15.8, 13.4), (60.9, 0.8), (66.3, None)),
  5.0: ((1.5, 0.9), (2.5, 1.5), (2.5, 1.4), (20.5, 2.0), (60.5, 0.6)),
  10.0: ((0.1, None), (2.1, 0.3), (1.9, 0.8), (2.8, 0.4), (8.3, 6.8)),
}

ROWS = {'baseline': baseline.BYOL} | {
  f'predictor{factor:g}_projector{mu:g}': baseline.Row(
    top1,
    {
      'target.parameters': 'online_stopped',
      'schedule.predictor_rate': factor,
      'schedule.projector_rate': mu,
    },
    spread=spread,
  )
  for mu, results in _RESULTS.items()
  for factor, (top1, spread) in zip(_LAMBDAS, results)
}
get_config = baseline.make_get_config(ROWS)
