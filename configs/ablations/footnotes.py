"""Variants without a table: `configs/ablations/footnotes.py:ROW`.

predict_representation  the target's representation, not its projection
one_direction           view 1 predicts view 2 and not the reverse
start_online            the target starts equal to the online network
he_init                 weights of twice the variance: above 72 % (section 5)
"""

from configs.ablations import baseline

ROWS = {
  'baseline': baseline.BYOL,
  'predict_representation': baseline.Row(
    None, {'network.projector': (), 'network.predictor': (4096, 2048)}
  ),
  'one_direction': baseline.Row(None, {'objective.symmetric': False}),
  'start_online': baseline.Row(None, {'target.start': 'online'}),
  'he_init': baseline.Row(None, {'network.init_scale': 2.0}),
}
get_config = baseline.make_get_config(ROWS)
