"""Lists known image sets: splits, sizes, hold-outs (method.md 5.1, 5.3).

Counts are images. A set that is not listed works too: its prepared directory
says what it holds; `train` is trained on and `test`, else `validation`, is the
test set.
"""

import re
from typing import NamedTuple


class Facts(NamedTuple):
  """Facts of a set that are known before it is opened.

  Attributes:
    num_train: images of the split `train`.
    num_test: images of `test_split`.
    num_classes: of the labels.
    test_split: its name in TFDS.
    num_valid: size of the paper's `valid` (table 10), None for a set of which
      it names none. Without one of the next two these are random images of
      train.
    valid_split: a split that is `valid`, so that all of train remains; it
      trains too once hyperparameters are chosen.
    valid_per_class: random images of each class of train that are `valid`.
    metric: 'top1', 'mean_per_class', or 'map' of images with several classes,
      the 11-point mean average precision.
    homepage: of a set that TFDS does not have.
  """

  num_train: int
  num_test: int
  num_classes: int
  test_split: str
  num_valid: int | None
  valid_split: str | None = None
  valid_per_class: int | None = None
  metric: str = 'top1'
  homepage: str | None = None


_PER_CLASS = 'mean_per_class'
_FACTS = {
  'imagenet2012': Facts(1_281_167, 50_000, 1000, 'validation', 10_009),
  'cifar10': Facts(50_000, 10_000, 10, 'test', 5_000),
  'cifar100': Facts(50_000, 10_000, 100, 'test', 5_067),
  # TFDS' `test` has no labels.
  'places365_small': Facts(1_803_460, 36_500, 365, 'validation', None),
  'imagenette': Facts(9_469, 3_925, 10, 'validation', None),
  'shapes': Facts(4_000, 1_000, 10, 'test', None),
  'food101': Facts(75_750, 25_250, 101, 'validation', 7_575),
  # The text has as many a class as in test, about 5; table 10 about 10.
  'birdsnap': Facts(
    *(47_386, 2_443, 500, 'test', 4_981),
    valid_per_class=10,
    homepage='https://thomasberg.org',
  ),
  # Of at most 120,000 pixels. The other configs of TFDS are other splits.
  'sun397/standard-part1-120k': Facts(
    *(19_850, 19_850, 397, 'test', 3_970), valid_per_class=10
  ),
  'cars196': Facts(8_144, 8_041, 196, 'test', 1_650),
  'fgvc_aircraft': Facts(
    *(3_334, 3_333, 100, 'test', 3_333),
    valid_split='validation',
    metric=_PER_CLASS,
    homepage='https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/',
  ),
  'voc/2007': Facts(
    *(2_501, 4_952, 20, 'test', 2_510), valid_split='validation', metric='map'
  ),
  'dtd': Facts(1_880, 1_880, 47, 'test', 1_880, valid_split='validation'),
  'oxford_iiit_pet': Facts(
    *(3_680, 3_669, 37, 'test', 740), valid_per_class=20, metric=_PER_CLASS
  ),
  # With the background. The paper has 3,060 and 6,084: TFDS draws 30 files a
  # class, one of which is no image.
  'caltech101': Facts(
    *(3_059, 6_085, 102, 'test', 510), valid_per_class=5, metric=_PER_CLASS
  ),
  'oxford_flowers102': Facts(
    *(1_020, 6_149, 102, 'test', 1_020),
    valid_split='validation',
    metric=_PER_CLASS,
  ),
}

# The paper's transfer tasks (table 3): their short names, and those above.
TRANSFER_SETS = {
  'food101': 'food101',
  'cifar10': 'cifar10',
  'cifar100': 'cifar100',
  'birdsnap': 'birdsnap',
  'sun397': 'sun397/standard-part1-120k',
  'cars': 'cars196',
  'aircraft': 'fgvc_aircraft',
  'voc2007': 'voc/2007',
  'dtd': 'dtd',
  'pets': 'oxford_iiit_pet',
  'caltech101': 'caltech101',
  'flowers': 'oxford_flowers102',
}

# ImageNet's hold-outs: the paper's text and the official code disagree.
HOLDOUTS = {'paper': ('last', 10_009), 'official': ('first', 10_000)}

# (name, fraction of the labels) -> the TFDS name of a published part.
SUBSETS = {
  ('imagenet2012', 0.01): 'imagenet2012_subset/1pct',
  ('imagenet2012', 0.1): 'imagenet2012_subset/10pct',
}


def find_facts(name: str) -> Facts | None:
  """Returns facts of a TFDS name, 'imagenette/160px-v2:1.0.0', or None."""
  name = name.partition(':')[0]
  return _FACTS.get(name) or _FACTS.get(name.partition('/')[0])


def find_name(dataset: str) -> str | None:
  """Returns the name here of a TFDS name, or of the path of a prepared set.

  'imagenette' of 'imagenette/160px-v2:1.0.0', and 'imagenet2012' of
  '/data/imagenet2012/5.1.0'; None of a set that is not listed.
  """
  text = re.sub(r'[:/]\d+\.\d+\.\d+$', '', dataset.rstrip('/'))
  parts = text.split('/')
  found = ('/'.join(parts[-2:]), parts[-1], parts[-2] if parts[1:] else '')
  return next((name for name in found if name in _FACTS), None)
