"""The paper's numbers, by encoder, images and evaluation (method.md 6).

Accuracies in percent, of the ResNets (v1) of the paper, pretrained for 1,000
epochs at batch 4096 unless an entry says otherwise. `list_results` makes one
row of each number; it is the only reader of the tables.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple


class Pretraining(NamedTuple):
  """What was pretrained, and how."""

  encoder: str  # as in `network.encoder`
  width: float
  dataset: str  # a name of `data.catalog`
  epochs: float = 1000
  batch_size: int = 4096


class Result(NamedTuple):
  """A number of the paper."""

  pretraining: Pretraining  # of the encoder
  evaluated_on: str  # a name of `data.catalog`
  headline: str  # `headlines.Headline.name` of the evaluation that measures it
  value: float  # in percent
  # T is a table of the paper, App an appendix; README and 'its authors' are of
  # the released code.
  source: str


IMAGENET, PLACES = 'imagenet2012', 'places365_small'
RESNET50, RESNET18 = ('ResNet50', 1.0), ('ResNet18', 1.0)
_NETTE, _ABOUT, _README = 'imagenette', 'its authors, +-0.5', 'README, about'

# Encoder, width: linear top-1, top-5 on ImageNet. T 9 has 94.9 for the top-5 of
# ResNet-200 2x, T 1 and T 7 have 94.8.
LINEAR = {
  ('ResNet50', 1.0): (74.3, 91.6),
  ('ResNet101', 1.0): (76.4, 93.0),
  ('ResNet152', 1.0): (77.3, 93.7),
  ('ResNet200', 1.0): (77.8, 93.9),
  ('ResNet50', 2.0): (77.4, 93.6),
  ('ResNet101', 2.0): (78.7, 94.3),
  ('ResNet50', 3.0): (78.2, 93.9),
  ('ResNet152', 2.0): (79.0, 94.6),
  ('ResNet200', 2.0): (79.6, 94.8),
  ('ResNet50', 4.0): (78.6, 94.2),
  ('ResNet101', 3.0): (78.4, 94.2),
  ('ResNet152', 3.0): (79.5, 94.6),
}

# The same by variant of the linear evaluation.
VARIANTS = {
  ('ResNet50', 1.0): {
    'pretrain_aug': (74.4, 91.8),
    'regularised': (74.7, 91.8),
    'both': (74.8, 91.8),
  },
  ('ResNet50', 4.0): {
    'pretrain_aug': (78.6, 94.3),
    'regularised': (78.9, 94.3),
    'both': (79.0, 94.5),
  },
  ('ResNet200', 2.0): {
    'pretrain_aug': (79.6, 94.8),
    'regularised': (79.8, 95.0),
    'both': (80.0, 95.0),
  },
}

# Encoder, width: top-1 with 1 %, 10 % of the labels, top-5 with 1 %, 10 %.
SEMI_SUPERVISED = {
  ('ResNet50', 1.0): (53.2, 68.8, 78.4, 89.0),
  ('ResNet50', 2.0): (62.2, 73.5, 84.1, 91.7),
  ('ResNet50', 4.0): (69.1, 75.7, 87.9, 92.5),
  ('ResNet200', 2.0): (71.2, 77.7, 89.5, 93.7),
}
# ResNet-50, all labels of ImageNet: top-1, top-5.
FINE_TUNED = (77.7, 93.9)

# ResNet-50: short name, name in the catalog, metric; linear, fine-tuned, and
# linear after pretraining on Places365. The linear values of ImageNet are those
# of T 3; T 13 differs from it by up to 1.
TRANSFER = (
  ('food101', 'food101', 'top-1', 75.3, 88.5, 64.7),
  ('cifar10', 'cifar10', 'top-1', 91.3, 97.8, 84.5),
  ('cifar100', 'cifar100', 'top-1', 78.4, 86.1, 66.1),
  ('birdsnap', 'birdsnap', 'top-1', 57.2, 76.3, 28.8),
  ('sun397', 'sun397/standard-part1-120k', 'top-1', 62.2, 63.7, 64.2),
  ('cars', 'cars196', 'top-1', 67.8, 91.6, 55.6),
  ('aircraft', 'fgvc_aircraft', 'mean per class', 60.6, 88.1, 55.9),
  ('voc2007', 'voc/2007', '11-point mAP', 82.5, 85.4, None),
  ('dtd', 'dtd', 'top-1', 75.5, 76.2, 68.5),
  ('pets', 'oxford_iiit_pet', 'mean per class', 90.4, 91.7, 66.1),
  ('caltech101', 'caltech101', 'mean per class', 94.2, 93.8, 84.3),
  ('flowers', 'oxford_flowers102', 'mean per class', 96.1, 97.0, 90.0),
)

# Encoder and width; pretrained on, epochs, batch size; evaluated on, headline,
# value, source.
OTHERS: Any = (
  (RESNET50, (PLACES, 1000, 4096), PLACES, 'linear top-1', 53.2, 'T 13'),
  (RESNET50, (PLACES, 1000, 4096), IMAGENET, 'linear top-1', 58.5, 'T 13'),
  (RESNET50, (IMAGENET, 1000, 4096), PLACES, 'linear top-1', 51.0, 'T 13'),
  (RESNET50, (IMAGENET, 300, 4096), IMAGENET, 'linear top-1', 72.5, 'T 16'),
  (RESNET50, (IMAGENET, 300, 4096), IMAGENET, 'linear top-5', 90.8, 'T 16'),
  (RESNET50, (IMAGENET, 1000, 512), IMAGENET, 'linear top-1', 73.7, 'App G'),
  (RESNET50, (IMAGENET, 40, 4096), IMAGENET, 'linear top-1', 61.5, _ABOUT),
  (RESNET50, (IMAGENET, 40, 4096), IMAGENET, 'online top-1', 62.0, _ABOUT),
  (RESNET18, (_NETTE, 1000, 256), _NETTE, 'online top-1', 92.3, _README),
)


def list_results() -> Iterator[Result]:
  """Yields every number."""
  for encoder, values in LINEAR.items():
    trained = Pretraining(*encoder, IMAGENET)
    for k, value in zip((1, 5), values):
      yield Result(trained, IMAGENET, f'linear top-{k}', value, 'T 9')
  for encoder, variants in VARIANTS.items():
    trained = Pretraining(*encoder, IMAGENET)
    for name, values in variants.items():
      for k, value in zip((1, 5), values):
        headline = f'linear {name} top-{k}'
        yield Result(trained, IMAGENET, headline, value, 'T 7')
  kinds = ('1 % top-1', '10 % top-1', '1 % top-5', '10 % top-5')
  for encoder, four in SEMI_SUPERVISED.items():
    trained = Pretraining(*encoder, IMAGENET)
    for kind, value in zip(kinds, four):
      yield Result(trained, IMAGENET, f'semi-supervised {kind}', value, 'T 2')
  trained = Pretraining(*RESNET50, IMAGENET)
  for k, value in zip((1, 5), FINE_TUNED):
    yield Result(trained, IMAGENET, f'fine-tuned top-{k}', value, 'T 8')
  for short, name, metric, linear, tuned, places in TRANSFER:
    headline = f'transfer {short} {metric}'
    yield Result(trained, name, headline, linear, 'T 3')
    yield Result(trained, name, f'fine-tuned {metric}', tuned, 'T 3')
    if places is not None:
      other = Pretraining(*RESNET50, PLACES)
      yield Result(other, name, headline, places, 'T 13')
  for (encoder, width), images, *number in OTHERS:
    yield Result(Pretraining(encoder, width, *images), *number)


def find_result(
  pretraining: Pretraining, evaluated_on: str, headline: str
) -> Result | None:
  """Returns the paper's number of an evaluation, or None.

  Encoder, width and both sets must be those of the number. Of several the one
  of the same epochs and batch size counts, else that of 1,000 epochs at batch
  4096, the paper's main results. In `headline` a variant of the linear
  evaluation (T 7) comes after 'linear': 'linear both top-1'.
  """
  usual = Pretraining(*pretraining[:3])
  found = {
    result.pretraining: result
    for result in list_results()
    if result.evaluated_on == evaluated_on and result.headline == headline
  }
  return found.get(pretraining, found.get(usual))
