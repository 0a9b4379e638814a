"""Which folders are splits, and which are refused as classes."""

import pytest

from tests.helpers.made import describe, names, opened, refused


@pytest.mark.parametrize(
  'train, test',
  [
    *(('Training', 'Testing'), ('Train', 'Test'), ('train2017', 'val2017')),
    *(('train', 'eval'), ('train', 'dev'), ('TRAIN', 'Validation')),
    *(('train_images', 'test_images'), ('trainset', 'testset')),
  ],
)
@pytest.mark.parametrize('classes', [('a/', 'b/'), ('',)])
def test_synonyms_of_train_and_test_are_the_splits(write, train, test, classes):
  files = [
    f'{x}/{c}{i}.jpg' for x in (train, test) for c in classes for i in '12'
  ]
  root = write(*files)
  half = len(files) // 2
  assert names(opened(root, 'train')) == files[:half]
  assert names(opened(root, 'test')) == files[half:]
  assert opened(root).class_names == (('a', 'b') if len(classes) > 1 else None)
  assert f'test: {test}/, {half} images' in describe(root)


def test_of_dev_and_eval_the_second_is_the_test_set(write):
  root = write(
    *(f'{x}/{c}/1.jpg' for x in ('Dev', 'eval', 'train') for c in 'ab')
  )
  found = {split: names(opened(root, split)) for split in ('valid', 'test')}
  assert found == {
    'valid': ['Dev/a/1.jpg', 'Dev/b/1.jpg'],
    'test': ['eval/a/1.jpg', 'eval/b/1.jpg'],
  }


# Folders, and which of auto and none refuse them.
REFUSED = [
  (('fold_0', 'fold_1', 'fold_2'), 'auto'),
  (('Part 1', 'Part 2', 'extra'), 'auto'),
  (('trainA', 'trainB', 'testA', 'testB'), 'auto'),
  (('seg_train/x', 'seg_test/x', 'seg_pred'), 'auto'),
  (('val', 'cat', 'dog'), 'auto'),
  (('bottle/train', 'bottle/test', 'cable/train'), 'auto'),
  (('images', 'masks'), 'auto none'),
  (('JPEGImages', 'SegmentationClass'), 'auto none'),
  (('left', 'depth', 'right'), 'auto none'),
  (('train/images', 'train/masks', 'val/images', 'val/masks'), 'auto none'),
]


@pytest.mark.parametrize('folders, who', REFUSED)
def test_what_looks_like_no_class_needs_a_word(write, folders, who):
  root = write(*(f'{folder}/{i}.jpg' for folder in folders for i in range(9)))
  for labels in ('auto', 'none'):
    if labels in who:
      text = refused(root, labels=labels)
      assert str(root) + '/' in text and 'data.labels=folders' in text
    else:
      assert len(opened(root, labels=labels)) == 9 * len(folders)
      assert opened(root, labels=labels).num_classes is None
  classes = {folder.removeprefix('train/').split('/')[0] for folder in folders}
  classes -= {'val'} if 'images' in classes else set()
  assert opened(root, labels='folders').class_names == tuple(sorted(classes))


def test_the_way_out_of_masks_works(write):
  root = write(*(f'{x}/{i}.jpg' for x in ('images', 'masks') for i in range(3)))
  text = refused(root)
  dataset = text.split('give the folder ')[1].split(';')[0]
  assert names(opened(dataset)) == ['0.jpg', '1.jpg', '2.jpg']


@pytest.mark.parametrize(
  'folders',
  [
    ('bullet_train', 'station', 'train_station'),
    ('edge', 'labelled', 'mask on', 'no mask'),
    tuple('0123456789'),
    ('bus', 'train'),
  ],
)
def test_usual_names_of_classes_are_classes(write, folders):
  root = write(*(f'{folder}/{i}.jpg' for folder in folders for i in range(9)))
  assert opened(root).class_names == folders


@pytest.mark.parametrize(
  'folders',
  [
    ('train', 'Training'),
    ('train', 'val', 'valid'),
    ('train', 'dev', 'eval', 'test'),
  ],
)
def test_two_folders_for_one_split_are_refused(write, folders):
  root = write(*(f'{folder}/{c}/1.jpg' for folder in folders for c in 'ab'))
  text = refused(root)
  assert 'one folder for training' in text and 'train/' in text
