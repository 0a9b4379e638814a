"""Table 19, from BYOL to SimCLR: `configs/ablations/table19.py:ROW`.

A name says whether there is a predictor, which parameters the target has (their
`average`, those of the online network without a gradient, `stopped`, or with
one, `online`) and beta, the weight of the negative examples. `byol` is
predictor_average_beta0, `simclr` is online_beta1 (temperature 0.1).

The paper has 70.1 in a second row named as predictor_stopped_beta1; and 0.3,
5.5 and 3.2 in three tables for predictor_stopped_beta0: all of them collapsed.
"""

from configs.ablations import baseline

_PLAIN = {'network.predictor': ()}
_CONTRAST = {'objective.name': 'info_nce'}
_STOPPED = {'target.parameters': 'online_stopped'}
_ONLINE = {'target.parameters': 'online'}

ROWS = {
  'byol': baseline.BYOL,
  'predictor_average_beta1': baseline.Row(70.9, _CONTRAST),
  'average_beta1': baseline.Row(70.7, _PLAIN | _CONTRAST),
  'predictor_stopped_beta1': baseline.Row(70.2, _STOPPED | _CONTRAST),
  'simclr': baseline.Row(69.4, _PLAIN | _ONLINE | _CONTRAST),
  'stopped_beta1': baseline.Row(69.2, _PLAIN | _STOPPED | _CONTRAST),
  'predictor_online_beta1': baseline.Row(69.0, _ONLINE | _CONTRAST),
  'predictor_stopped_beta0': baseline.Row(5.5, _STOPPED),
  'predictor_online_beta0': baseline.Row(0.3, _ONLINE),
  'average_beta0': baseline.Row(0.2, _PLAIN),
  'stopped_beta0': baseline.Row(0.1, _PLAIN | _STOPPED),
  'online_beta0': baseline.Row(0.1, _PLAIN | _ONLINE),
}
get_config = baseline.make_get_config(ROWS)
