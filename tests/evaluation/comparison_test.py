"""The paper's number stands beside a result of the same encoder and sets."""

import pytest

from byol_jax import configuration
from byol_jax.evals import headlines
from byol_jax.evaluation import comparison, origins, pretrained, table


def make_run(count=1_281_167, **changes):
  changes = {k.replace('__', '.'): v for k, v in changes.items()}
  config = configuration.load('pretrain', changes)
  return pretrained.Run('run', 'run', config, None, {'num_examples': count})


def find(run, name, count, dataset, pretrained_on=None):
  headline = headlines.Headline(name, 0.7, count)
  trained = comparison.describe_pretraining(pretrained_on, run)
  found = comparison.find_paper_result(headline, trained, dataset)
  return found and found.value


@pytest.mark.parametrize(
  'changes, dataset, count, expected',
  (
    ({}, 'imagenet2012', 50_000, 74.3),
    ({}, '/data/imagenet2012/5.1.0', 49_998, 74.3),
    ({'dataset': '/data/imagenet2012/5.1.0'}, 'imagenet2012', 50_000, 74.3),
    ({'epochs': 300.0}, 'imagenet2012', 50_000, 72.5),
    ({'dataset': 'places365_small', 'count': 1_803_460}, 'imagenet2012', 5e4,
     58.5),
    ({}, 'imagenet2012', 1_000, None),  # a part of the test set
    ({'count': 130_000}, 'imagenet2012', 50_000, None),  # of the training set
    ({}, '/data/pictures', 50_000, None),
    ({'dataset': '/data/pictures'}, 'imagenet2012', 50_000, None),
    ({'network__version': 2}, 'imagenet2012', 50_000, None),
    ({'network__encoder': 'MiniResNet'}, 'imagenet2012', 50_000, None),
  ),
)  # fmt: skip
def test_only_of_the_same_encoder_and_sets(changes, dataset, count, expected):
  assert find(make_run(**changes), 'linear top-1', count, dataset) == expected


def test_weights_from_elsewhere_have_one_if_their_set_is_said():
  run = make_run()
  export = origins.Export('file', run.config, has_dataset=False)
  arguments = (export, 'transfer pets mean per class', 3_669, 'pets')
  assert find(*arguments) is None
  assert find(*arguments, pretrained_on='imagenet2012') == 90.4


def test_a_row_has_the_difference_in_points():
  paper = comparison.find_paper_result(
    headlines.Headline('linear top-1', 0.7, 50_000),
    comparison.describe_pretraining(None, make_run()),
    'imagenet2012',
  )
  row = table.make_row(headlines.Headline('linear top-1', 0.7, 50_000), paper)
  assert row['difference'] == pytest.approx(-4.3) and row['paper'] == 74.3
  other = table.make_row(headlines.Headline('knn', 0.25, 100, 0.09), None)
  lines = table.format_table([row, other, {'name': 'x', 'error': 'no'}], False)
  cells = [[c.strip() for c in line.split('|')[1:-1]] for line in lines]
  assert cells[2] == [
    *('linear top-1', '70.0', '+-0.4', '74.3', '-4.3', '50,000'),
    'T 9: 1000 epochs, batch 4096',
  ]
  assert cells[3] == ['knn', '25.0', '+-9.0', '-', '-', '100', '']
  assert cells[4] == ['x', '-', '-', '-', '-', '-', 'no']


def test_chance_is_that_of_guessing():
  assert table.compute_chance('linear top-1', 10) == 10
  assert table.compute_chance('linear top-5', 10) == 50
  assert table.compute_chance('knn k=20, T=0.1', 4) == 25
  assert table.compute_chance('transfer voc2007 11-point mAP', 20) is None
