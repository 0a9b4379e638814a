import pytest

from byol_jax.data import catalog


@pytest.mark.parametrize(
  'holdout, end, train',
  [('paper', 'last', 1_271_158), ('official', 'first', 1_271_167)],
)
def test_the_holdouts_of_imagenet_leave_the_published_numbers(
  holdout, end, train
):
  found, count = catalog.HOLDOUTS[holdout]
  assert found == end
  assert catalog.find_facts('imagenet2012').num_train - count == train


def test_splits_of_the_paper_add_up():
  for name, train in (('cifar10', 45_000), ('cifar100', 44_933)):
    facts = catalog.find_facts(name)
    assert facts.num_train - facts.num_valid == train


def test_variants_and_versions_share_the_facts_of_their_set():
  facts = catalog.find_facts('imagenette')
  assert (facts.num_train, facts.num_test) == (9_469, 3_925)
  for name in ('imagenette/160px-v2', 'imagenette/full-size-v2:1.0.0'):
    assert catalog.find_facts(name) == facts
  assert catalog.find_facts('imagenette128') is None
  assert catalog.find_facts('unknown') is None
