"""What the rounds of a benchmark say: a median, and how far they differ."""

from collections.abc import Sequence
import statistics
from typing import Any

MAX_SPREAD = 0.2  # of the rounds, for a verdict


def summarize(rates: Sequence[float]) -> dict[str, Any]:
  """Returns the median of rates, and their range as a share of it."""
  median = statistics.median(rates)
  return {
    'images_per_second': median,
    'smallest': min(rates),
    'largest': max(rates),
    'spread': (max(rates) - min(rates)) / median,
  }


def explain(spread: float) -> str:
  """Returns why there is no verdict; '' if there may be one."""
  if spread <= MAX_SPREAD:
    return ''
  return (
    f'no verdict: the rounds differ by {spread:.0%}, more than'
    f' {MAX_SPREAD:.0%}; end other programs, or give more --rounds'
  )
