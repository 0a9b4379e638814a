"""Lists known image sets: splits, sizes, hold-outs (method.md 5.1, 5.3).

Counts are images. A set that is not listed works too: its prepared directory
says what it holds; `train` is trained on and `test`, else `validation`, is the
test set.
"""

from typing import NamedTuple


class Facts(NamedTuple):
  """Facts of a set that are known before it is opened.

  num_valid is the size of the paper's hold-out from train (table 10), None
  for a set of which it names none.
  """

  num_train: int
  num_test: int
  num_classes: int
  test_split: str
  num_valid: int | None


_FACTS = {
  'imagenet2012': Facts(1_281_167, 50_000, 1000, 'validation', 10_009),
  'cifar10': Facts(50_000, 10_000, 10, 'test', 5_000),
  'cifar100': Facts(50_000, 10_000, 100, 'test', 5_067),
  # TFDS' `test` has no labels.
  'places365_small': Facts(1_803_460, 36_500, 365, 'validation', None),
  'imagenette': Facts(9_469, 3_925, 10, 'validation', None),
  'shapes': Facts(4_000, 1_000, 10, 'test', None),
}

# ImageNet's hold-outs: the paper's text and the official code disagree.
HOLDOUTS = {'paper': ('last', 10_009), 'official': ('first', 10_000)}


def find_facts(name: str) -> Facts | None:
  """Returns facts of a TFDS name, 'imagenette/160px-v2:1.0.0', or None."""
  return _FACTS.get(name.partition(':')[0].partition('/')[0])
