"""Sentences with numbers, and the interval of a share."""

import numpy as np
import pytest

from byol_jax.evals import headlines


@pytest.mark.parametrize(
  'headline, sentence',
  (
    (('linear top-1', 0.612, 10_000), 'linear top-1 61.2 % on 10,000 images'),
    (('x', 1.0, 1), 'x 100.0 % on 1 image'),
  ),
)
def test_a_sentence_has_the_number_in_percent_and_its_images(
  headline, sentence
):
  found = headlines.format_headline(headlines.Headline(*headline))
  assert found.startswith(f'{sentence} (+-') and found.isascii()


def test_the_interval_is_given_or_that_of_a_share():
  format_headline = headlines.format_headline
  found = format_headline(headlines.Headline('x', 0.612, 10_000))
  assert found.endswith('(+-1.0)')  # 1.96 sqrt(0.612 * 0.388 / 10000) = 0.0096
  found = format_headline(headlines.Headline('x', 0.612, 10_000, 0.0321))
  assert found.endswith('(+-3.2)')


@pytest.mark.parametrize('share', (0.0, 0.02, 0.5, 0.9, 1.0))
@pytest.mark.parametrize('count', (20, 300))
def test_the_interval_covers_the_rate_of_hits_in_95_of_100_samples(
  share, count
):
  """Counts drawn from a known rate, and a rate of 0 or 1 seen by its hits.

  Wilson's interval covers 92 to 100 % at these counts, and ours contains it.
  """
  generator = np.random.default_rng(0)
  hits = generator.binomial(count, share, 4000) / count
  reach = np.vectorize(headlines.compute_half_width)(hits, count)
  assert np.mean(np.abs(hits - share) <= reach) > 0.92
  assert (reach > 0).all()
  if 0.1 < share < 0.9:
    normal = 1.96 * np.sqrt(share * (1 - share) / count)
    assert reach[hits == share] == pytest.approx(normal, rel=2 / count**0.5)
