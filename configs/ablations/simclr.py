"""SimCLR in three forms: `configs/ablations/simclr.py:FORM`.

  as_ablated    of tables 5b and 19: equation 6, whose loss has the factor
                2 alpha, with BYOL's projector (4096 hidden, 256 out)
  reproduced    of tables 16 and 17: SimCLR's loss and projector (2048 hidden,
                128 out), BYOL's augmentations
  as_published  the same with SimCLR's augmentations: colour jitter of 0.8, 0.8,
                0.8, 0.2, blur of half of the images of both views, no
                solarization; the paper has no number for 300 epochs

What still differs from SimCLR's code in `as_published`: the learning rate is
outside the momentum of LARS, brightness is added and not multiplied, crops are
clamped and not drawn again (method.md 3.1, 3.2, 4.1), and the loss sums both
directions, where SimCLR has their mean.
"""

from configs.ablations import baseline, table19

LOSS = {
  'target.parameters': 'online',
  'objective.name': 'info_nce',
  'objective.scale_by_temperature': False,
  'network.projector': (2048, 128),
  'network.predictor': (),
}
_STRENGTHS = {'brightness': 0.8, 'contrast': 0.8, 'saturation': 0.8, 'hue': 0.2}
_VIEWS = {
  f'augment.{view}.{key}': value
  for view in ('view1', 'view2')
  for key, value in {
    **{f'jitter.{name}': strength for name, strength in _STRENGTHS.items()},
    'blur.probability': 0.5,
    'solarize.probability': 0.0,
  }.items()
}

ROWS = {
  'as_ablated': table19.ROWS['simclr'],
  'reproduced': baseline.Row(67.9, LOSS, 88.5),
  'as_published': baseline.Row(None, LOSS | _VIEWS),
}
get_config = baseline.make_get_config(ROWS)
