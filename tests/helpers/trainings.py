"""Stand-ins for trainings of an encoder, with sets and options for them."""

import numpy as np

from byol_jax import errors
from byol_jax.evals import features, finetune, tuning
from tests.helpers import fakes, tiny_run

OPTIONS = finetune.Options(
  seed=3,
  batch_size=64,
  rates=(0.4, 0.1, 0.2),
  weight_decays=(0.0,),
  lengths=(2.0,),
  length_unit='epochs',
  momentum=0.5,
  encoder_rate=0.25,
  batch_norm='local',
  bn_decay=0.75,
  warmup_share=0.0,
  label_smoothing=0.0,
  metric='top1',
  refit=False,
)
SIZES = {'fit': 320, 'valid': 40, 'test': 50, 'fit+valid': 360}


def make_sets(num_classes=4):
  images = np.zeros((360, 2, 2, 3))
  labels = np.arange(360) % num_classes
  return {
    name: fakes.ImageSet(images[:size], labels[:size], num_classes)
    for name, size in SIZES.items()
  }


def make_encoder():
  forward = tiny_run.make_forward()
  params, state = tiny_run.random_network(forward)
  encoder = features.make_encoder(forward, params, state, 'tiny')
  return encoder._replace(network=tiny_run.NETWORK)


class Trainings:
  """Answers for trainings and tests; records what was asked, in order.

  Attributes:
    accuracy: by (rate, weight decay), of the held-out images.
  """

  def __init__(self, monkeypatch, sets, accuracy):
    self.sets = {id(split): name for name, split in sets.items()}
    self.accuracy = accuracy
    self.asked = []
    monkeypatch.setattr(tuning, 'train_classifier', self._train)
    monkeypatch.setattr(finetune.Tuner, 'check_test', lambda *arguments: None)
    monkeypatch.setattr(tuning, 'encode_split', self._encode)
    monkeypatch.setattr(tuning, 'compute_scores', self._score)

  def _point(self, state):
    numbers = {k: float(v) for k, v in state.opt_state.hyperparams.items()}
    rate = round(numbers['rate'] * 256 / 64, 6)
    return rate, round(numbers['weight_decay'] * numbers['rate'], 9)

  def _train(self, trainer, state, split, batch_size, train, name, log):
    point = self._point(state)
    numbers = state.opt_state.hyperparams
    self.asked.append(
      ('train', self.sets[id(split)], point, int(numbers['num_steps']))
    )
    if np.isnan(self.accuracy[point]):
      raise errors.DivergedError(f'{name}: the loss is not finite')
    return state, 0.5

  def _encode(self, trainer, state, split, batch_size, name):
    self.asked.append(('test', self.sets[id(split)], self._point(state)))
    values = np.full((1, 1), self.accuracy[self._point(state)])
    return features.Features(values, np.zeros(1, int), np.zeros(1, int))

  def _score(self, classifier, found):
    value = float(found.values[0, 0])
    return {'top1': value, 'mean_per_class': 1 - value}
