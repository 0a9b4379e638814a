"""The optimal linear predictor: `configs/ablations/optimal_linear.py:ROW`.

Without a target network (tau = 0) the predictor is the least-squares map of the
projections of one view onto those of the other, computed on each batch (section
5, appendix I.2). `stopped`: the gradient flows through the projections only;
the paper does not say which of the two has its 52.5 %.
"""

from configs.ablations import baseline

_CHANGES = {
  'target.parameters': 'online_stopped',
  'objective.name': 'optimal_linear',
  'network.predictor': (),
}

ROWS = {
  'baseline': baseline.BYOL,
  'stopped': baseline.Row(52.5, _CHANGES),
  'through_predictor': baseline.Row(
    None, _CHANGES | {'objective.stop_predictor_gradient': False}
  ),
}
get_config = baseline.make_get_config(ROWS)
