from unittest import mock

import pytest

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


@pytest.mark.parametrize('name', catalog.TRANSFER_SETS)
def test_the_sets_of_the_paper_are_those_of_tfds(name, tmp_path):
  import tensorflow_datasets as tfds

  dataset = catalog.TRANSFER_SETS[name]
  facts = catalog.find_facts(dataset)
  if facts.homepage:
    with pytest.raises(tfds.core.registered.DatasetNotFoundError):
      tfds.builder_cls(dataset)
    return
  # Nothing is downloaded: a builder knows its features.
  builder = tfds.builder(dataset, data_dir=str(tmp_path), try_gcs=False)
  features = builder.info.features
  if facts.metric == 'map':
    lists = features['labels'], features['labels_no_difficult']
    assert {found.num_classes for found in lists} == {facts.num_classes}
  else:
    assert features['label'].num_classes == facts.num_classes
  assert isinstance(features['image'], tfds.features.Image)
  if name in ('cifar10', 'cifar100', 'sun397'):
    return  # read what they have downloaded
  downloads = mock.Mock()
  for method in ('download', 'extract', 'download_and_extract'):
    getattr(downloads, method).side_effect = lambda found: (
      dict.fromkeys(found, tmp_path) if isinstance(found, dict) else tmp_path
    )
  made = builder._split_generators(downloads)
  splits = made if isinstance(made, dict) else {str(x.name) for x in made}
  named = {'train', facts.test_split, facts.valid_split} - {None}
  assert named == {*splits}


def test_held_out_images_are_as_many_as_in_the_paper():
  # Orig. train, train, valid, test of table 10.
  table = """
    food101    75750 68175 7575 25250
    cifar10    50000 45000 5000 10000
    cifar100   50000 44933 5067 10000
    birdsnap   47386 42405 4981  2443
    sun397     19850 15880 3970 19850
    cars        8144  6494 1650  8041
    aircraft    3334  3334 3333  3333
    voc2007     2501  2501 2510  4952
    dtd         1880  1880 1880  1880
    pets        3680  2940  740  3669
    caltech101  3060  2550  510  6084
    flowers     1020  1020 1020  6149"""
  rows = [line.split() for line in table.split('\n')[1:]]
  assert [row[0] for row in rows] == [*catalog.TRANSFER_SETS]
  for name, *sizes in rows:
    original, fit, valid, test = map(int, sizes)
    facts = catalog.find_facts(catalog.TRANSFER_SETS[name])
    # TFDS draws one file of Caltech-101 that is no image.
    assert (original - facts.num_train) == (name == 'caltech101')
    assert (facts.num_test - test) == (name == 'caltech101')
    assert facts.num_valid == valid
    assert original == fit + (0 if facts.valid_split else valid)
    if facts.valid_per_class and name != 'birdsnap':
      assert facts.valid_per_class * facts.num_classes == valid
