import logging

import pytest

from byol_jax import errors
from byol_jax.data.preparation import imagenet
from tests.helpers.tars import CLASSES, tar, train, validation


@pytest.fixture
def both(tmp_path):
  tar(tmp_path / 'ILSVRC2012_img_train.tar', train(3))
  tar(tmp_path / 'ILSVRC2012_img_val.tar', validation(5))
  return tmp_path


def test_class_names_are_sorted_and_thousand():
  names = imagenet.class_names()
  assert len(names) == 1000 == len(set(names)) and names == tuple(sorted(names))
  assert names[0] == CLASSES[0] and names[-1] == 'n15075141'


def test_images_names_and_labels(both):
  splits = imagenet.splits(both)
  source = splits['train']
  assert source.class_names == imagenet.class_names()
  found = {source.file_name(i): source.read(i) for i in range(len(source))}
  assert len(found) == 9
  for name, (data, label) in found.items():
    assert source.class_names[label] == name.partition('_')[0]
    assert data.startswith(b'\xff\xd8')
  test = splits['test']
  names = [test.file_name(i) for i in range(5)]
  # The truth of the first five, as the challenge published it.
  wnids = {
    1: 'n01751748',
    2: 'n09193705',
    3: 'n02105855',
    4: 'n04263257',
    5: 'n03125729',
  }
  for i, name in enumerate(names):
    data, label = test.read(i)
    assert test.class_names[label] == wnids[int(name[15:23])]
    assert data == validation(5)[name]
  assert source.fingerprint != test.fingerprint


@pytest.mark.parametrize('split', ['train', 'test'])
def test_one_of_the_tars_is_enough(both, split, caplog):
  other = imagenet.TARS[{'train': 'test', 'test': 'train'}[split]]
  (both / other).unlink()
  assert imagenet.is_one(both)
  with caplog.at_level(logging.WARNING):
    assert list(imagenet.splits(both)) == [split]
  assert other in caplog.text and 'no such split' in caplog.text


def test_other_folders_are_not_imagenet(both):
  for path in both.iterdir():
    path.unlink()
  assert not imagenet.is_one(both)
  assert not imagenet.is_one(both / 'nowhere')


def test_an_incomplete_tar_is_named(both, caplog):
  with caplog.at_level(logging.WARNING):
    imagenet.splits(both)
  assert '9 images, ImageNet has 1,281,167' in caplog.text
  assert '5 images, ImageNet has 50,000' in caplog.text


def test_tars_of_something_else_are_refused(both):
  inner = train(1)['n01440764.tar']
  tar(both / 'ILSVRC2012_img_train.tar', {'n00000001.tar': inner})
  with pytest.raises(errors.DataError, match=r'n00000001/n01440764_0\.JPEG'):
    imagenet.splits(both)
  tar(both / 'ILSVRC2012_img_train.tar', train(1))
  for name in ('x.JPEG', 'ILSVRC2012_val_00050001.JPEG'):
    tar(both / 'ILSVRC2012_img_val.tar', {name: b'x'})
    with pytest.raises(errors.DataError, match=name):
      imagenet.splits(both)
  tar(both / 'ILSVRC2012_img_val.tar', {'readme': b'x'})
  with pytest.raises(errors.DataError, match='no images'):
    imagenet.splits(both)
