from byol_jax.data import catalog


def test_splits_of_the_paper_add_up():
  for name, train in (('cifar10', 45_000), ('cifar100', 44_933)):
    facts = catalog.find_facts(name)
    assert facts.num_train - facts.num_valid == train
  size = catalog.find_facts('imagenet2012').num_train
  assert [(end, size - n) for end, n in catalog.HOLDOUTS.values()] == [
    ('last', 1_271_158), ('first', 1_271_167)
  ]  # fmt: skip


def test_variants_and_versions_share_the_facts_of_their_set():
  facts = catalog.find_facts('imagenette')
  assert (facts.num_train, facts.num_test) == (9_469, 3_925)
  for name in ('imagenette/160px-v2', 'imagenette/full-size-v2:1.0.0'):
    assert catalog.find_facts(name) == facts
  assert catalog.find_facts('imagenette128') is None
  assert catalog.find_facts('unknown') is None
