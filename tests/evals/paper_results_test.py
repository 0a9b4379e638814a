"""The paper's numbers: complete, typed without a slip, found for a headline."""

from byol_jax.data import catalog
from byol_jax.evals import (
  finetune,
  headlines,
  linear,
  paper_results,
  semi_supervised,
  transfer,
)

PAPER = paper_results.Pretraining('ResNet50', 1.0, 'imagenet2012')


def find(headline, on='imagenet2012', pretraining=PAPER, **changes):
  found = paper_results.find_result(
    pretraining._replace(**changes), on, headline
  )
  return found and found.value


def test_the_numbers_are_those_of_the_paper():
  rows = [*paper_results.list_results()]
  keys = [row[:3] for row in rows]
  assert len(set(keys)) == len(keys) == 104
  # Sums of the columns of tables 1, 7 and 9, 2, and 3; a wrong digit shows.
  total = lambda headline, *sources: round(
    sum(
      row.value
      for row in rows
      if row.headline == headline and row.source in sources
    ),
    1,
  )
  assert total('linear top-1', 'T 9') == 935.2
  assert total('linear top-5', 'T 9') == 1126.4
  assert total('semi-supervised 1 % top-1', 'T 2') == 255.7
  assert total('semi-supervised 10 % top-1', 'T 2') == 295.7
  assert total('semi-supervised 1 % top-5', 'T 2') == 339.9
  assert total('semi-supervised 10 % top-5', 'T 2') == 366.9
  linear_t3, tuned_t3 = (
    [row.value for row in rows if row.source == 'T 3' and x in row.headline]
    for x in ('transfer', 'fine-tuned')
  )
  assert round(sum(linear_t3), 1) == 931.5 and len(linear_t3) == 12
  assert round(sum(tuned_t3), 1) == 1036.2 and len(tuned_t3) == 12
  t13 = [row.value for row in rows if row.source == 'T 13']
  assert len(t13) == 14 and round(sum(t13), 1) == 891.4
  t7 = [row.value for row in rows if row.source == 'T 7']
  assert len(t7) == 18 and round(sum(t7), 1) == 1543.1


def test_a_number_is_shown_where_encoder_and_both_sets_are_the_papers():
  assert find('linear top-1') == 74.3 and find('linear top-5') == 91.6
  assert find('linear both top-1', width=4.0) == 79.0
  assert find('semi-supervised 10 % top-5') == 89.0
  assert find('fine-tuned top-1') == 77.7
  assert find('fine-tuned mean per class', 'oxford_flowers102') == 97.0
  assert find('linear top-1', 'places365_small') == 51.0
  assert find('linear top-1', dataset='places365_small') == 58.5
  assert find('linear top-1', 'cifar10') is None
  assert find('linear top-1', dataset='imagenette') is None
  assert find('linear top-1', encoder='ResNet18') is None
  assert find('linear top-1', width=1.5) is None
  assert find('knn k=20, T=0.1') is None


def test_the_number_of_the_same_length_and_batch_comes_first():
  assert find('linear top-1', epochs=300.0) == 72.5
  assert find('linear top-1', epochs=40.0) == 61.5
  assert find('linear top-1', batch_size=512) == 73.7
  assert find('linear top-1', epochs=100.0) == 74.3
  assert find('linear top-1', epochs=300.0, batch_size=512) == 74.3
  # Of 1,000 epochs there is none.
  assert find('online top-1', epochs=40.0) == 62.0
  assert find('online top-1') is None


def results(metric):
  return {
    'value': 0.5, 'half_width': 0.1, 'test': 9, 'metric': metric
  }  # fmt: skip


def test_every_headline_of_the_protocols_that_the_paper_has_is_found():
  top = {'top1': 0.5, 'top5': 0.9, 'test': 50_000}
  names = [headline.name for headline in linear.list_headlines(top)]
  assert [find(name) for name in names] == [74.3, 91.6]
  tuned = finetune.list_headlines(top)
  assert [find(headline.name) for headline in tuned] == [77.7, 93.9]
  parts = [{'fraction': share} | top for share in (0.01, 0.1)]
  few = semi_supervised.list_headlines({'fractions': parts, 'test': 50_000})
  assert [find(headline.name) for headline in few] == [53.2, 78.4, 68.8, 89.0]
  for short, name in catalog.TRANSFER_SETS.items():
    facts = catalog.find_facts(name)
    found = transfer.list_headlines(
      {'sets': {short: results(facts.metric) | {'name': short}}, 'named': 1}
    )
    assert find(found[0].name, name), found[0].name
    metric = headlines.METRICS[facts.metric]
    assert find(f'fine-tuned {metric}', name)
  for row in paper_results.list_results():
    for name in (row.pretraining.dataset, row.evaluated_on):
      assert catalog.find_facts(name), name
