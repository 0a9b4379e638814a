"""The result of an evaluation in one sentence, with its 95 % interval."""

from collections.abc import Mapping
import math
from typing import Any, NamedTuple

from byol_jax import errors

_Z = 1.96  # standard deviations of a normal distribution: 95 %


class Headline(NamedTuple):
  """A result in one sentence."""

  name: str  # 'linear top-1'
  value: float  # fraction in [0, 1]
  num_images: int  # of the test set
  half_width: float | None = None  # of its 95 % interval; None: of a share


# Keys of results, and what they are in a sentence.
METRICS = {
  'top1': 'top-1',
  'top5': 'top-5',
  'mean_per_class': 'mean per class',
  'map': '11-point mAP',
}


def list_accuracies(
  name: str, results: Mapping[str, Any], num_images: int
) -> list[Headline]:
  """Returns the metrics that a result has, of `num_images` each."""
  return [
    Headline(
      f'{name} {text}',
      results[key],
      num_images,
      results.get(f'{key}_half_width'),
    )
    for key, text in METRICS.items()
    if key in results
  ]


def format_headline(headline: Headline) -> str:
  """Returns e.g. 'linear top-1 61.2 % on 10,000 images (+-1.0)'.

  The number in brackets is half the width of the 95 % interval, in percentage
  points: what other test images of the same kind might change.
  """
  name, value, count, half_width = headline
  if half_width is None:
    half_width = compute_half_width(value, count)
  images = errors.format_count(count, 'image')
  return f'{name} {100 * value:.1f} % on {images} (+-{100 * half_width:.1f})'


def compute_half_width(share: float, count: int) -> float:
  """Returns how far the 95 % interval of a share reaches at most from it.

  The interval is Wilson's, 'Probable inference' (1927): 1.96 sqrt(p (1 - p) /
  n) of the normal approximation for large counts, but not 0 where all or none
  of a few images were hit.

  Args:
    share: in [0, 1], of images hit.
    count: of images, positive.
  """
  shrink = 1 + _Z**2 / count
  centre = (share + _Z**2 / (2 * count)) / shrink
  variance = share * (1 - share) / count + (_Z / (2 * count)) ** 2
  return abs(centre - share) + _Z * math.sqrt(variance) / shrink
