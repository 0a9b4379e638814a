"""Table 17, the augmentations: `configs/ablations/table17.py:ROW`.

Color is jitter and grayscale. Crop and blur, for example, has no flip (the
paper has a row for crop and flip; method.md 3.3). `simclr_ROW` has SimCLR's
loss and projector (configs/ablations/simclr.py).
"""

from collections.abc import Iterable

from configs.ablations import baseline, simclr

_ALL = ('flip', 'jitter', 'grayscale', 'blur', 'solarize')
_BOTH = ('view1', 'view2')


def _set(
  *names: str, views: Iterable[str] = _BOTH, share: float = 0.0
) -> dict[str, float]:
  return {f'augment.{v}.{x}.probability': share for v in views for x in names}


def _keep(*names: str) -> dict[str, float]:
  return _set(*(x for x in _ALL if x not in names))


_CHANGES = {
  'baseline': {},
  'remove_flip': _set('flip'),
  'remove_blur': _set('blur'),
  'remove_color': _set('jitter', 'grayscale'),
  'remove_jitter': _set('jitter'),
  'remove_grayscale': _set('grayscale'),
  'remove_blur_in_view2': _set('blur', views=['view2']),
  'remove_solarize_in_view2': _set('solarize', views=['view2']),
  'remove_both_in_view2': _set('blur', 'solarize', views=['view2']),
  'symmetric': _set('blur', share=0.5) | _set('solarize', share=0.2),
  'crop_only': _keep(),
  'crop_and_flip': _keep('flip'),
  'crop_and_color': _keep('jitter', 'grayscale'),
  'crop_and_blur': _keep('blur'),
}
_BYOL = {
  'baseline': (72.5, 90.8),
  'remove_flip': (71.9, 90.6),
  'remove_blur': (71.2, 90.3),
  'remove_color': (63.4, 85.3, 0.7),
  'remove_jitter': (71.8, 90.7),
  'remove_grayscale': (70.3, 89.8),
  'remove_blur_in_view2': (72.4, 90.8),
  'remove_solarize_in_view2': (72.3, 90.8),
  'remove_both_in_view2': (72.2, 90.8),
  'symmetric': (72.5, 90.8),
  'crop_only': (59.4, 82.4, 0.3),
  'crop_and_flip': (60.1, 83.0, 0.3),
  'crop_and_color': (70.7, 90.0),
  'crop_and_blur': (61.1, 83.9, 0.3),
}
_SIMCLR = {
  'baseline': (67.9, 88.5),
  'remove_flip': (67.3, 88.2),
  'remove_blur': (65.2, 86.6),
  'remove_color': (45.7, 70.6),
  'remove_jitter': (63.7, 85.9),
  'remove_grayscale': (61.9, 84.1),
  'remove_blur_in_view2': (67.5, 88.4),
  'remove_solarize_in_view2': (67.7, 88.2),
  'remove_both_in_view2': (67.4, 88.1),
  'symmetric': (68.1, 88.4),
  'crop_only': (40.3, 64.8, 0.3),
  'crop_and_flip': (40.2, 64.8),
  'crop_and_color': (64.2, 86.2),
  'crop_and_blur': (41.7, 66.4),
}

ROWS = baseline.make_rows(_BYOL, _CHANGES) | baseline.make_rows(
  _SIMCLR, _CHANGES, 'simclr_', simclr.LOSS
)
get_config = baseline.make_get_config(ROWS)
