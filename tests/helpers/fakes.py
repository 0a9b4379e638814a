"""Image sets and encoders of the evaluation tests: plain numpy."""

import jax
import numpy as np

from byol_jax import networks
from byol_jax.evals import features
from tests.helpers import tiny_run


class ImageSet:
  """A split in memory, with the batches of `data.image_set.ImageSet`.

  Padding holds what would spoil a result that used it.
  """

  def __init__(
    self, images, labels=None, num_classes=None, class_names=None,
    whole=None, rows=None,
  ):  # fmt: skip
    self.images = np.asarray(images, np.float32)
    self.labels = (
      np.full(len(images), -1) if labels is None else np.asarray(labels)
    ).astype(np.int32)
    self.num_examples = len(self.images)
    self.num_classes = num_classes
    self.class_names = class_names
    self.targets = None
    self.unreadable = ()  # ids
    self.reads = 0
    self.place = whole or self, np.arange(len(images)) if rows is None else rows

  def locate_images(self):
    return self.place

  def read_targets(self):
    return self.targets

  def eval_batches(self, batch_size):
    self.reads += 1
    for first in range(0, len(self.images), batch_size):
      ids = np.arange(first, first + batch_size)
      mask = (ids < len(self.images)) & ~np.isin(ids, self.unreadable)
      safe = np.where(mask, ids, 0)
      images = self.images[safe]
      images[~mask] = 7.0
      labels = np.where(mask, self.labels[safe], -1).astype(np.int32)
      ids = np.where(mask, ids, -1)
      batch = {'images': images, 'labels': labels, 'mask': mask, 'ids': ids}
      yield tiny_run.divided(batch, jax.local_device_count())

  def crop_batches(self, batch_size, start_step, num_steps):
    for step in range(start_step, start_step + num_steps):
      generator = np.random.default_rng(step)
      ids = generator.integers(0, len(self.images), batch_size)
      flipped = self.images[ids][:, :, ::-1]
      which = generator.random((batch_size, 1, 1, 1)) < 0.5
      images = np.where(which, flipped, self.images[ids])
      batch = {'images': images, 'labels': self.labels[ids]}
      yield tiny_run.divided(batch, jax.local_device_count())


def pixels(dim, name='pixel'):
  """An encoder whose representation is the pixels, [B, 1, dim / 3, 3]."""

  def apply(params, state, images, is_training):
    assert not is_training
    values = images.reshape(len(images), -1)
    return networks.Outputs(values, values, values, None), state

  forward = networks.Forward(init=None, apply=apply)
  return features.Encoder(forward, {}, {}, dim, name)


def clusters(seed, per_class, num_classes, *, noise, dim=12):
  """Points around one centre a class: images [N, 1, dim / 3, 3], labels.

  The centres do not depend on the seed, and are their own mirror images.
  """
  centres = np.random.default_rng(99).normal(size=(num_classes, 1, dim // 3, 3))
  centres += centres[:, :, ::-1]
  generator = np.random.default_rng(seed)
  labels = generator.permutation(np.arange(per_class * num_classes))
  labels %= num_classes
  spread = generator.normal(size=(len(labels), *centres.shape[1:]))
  return (centres[labels] + noise * spread).astype(np.float32), labels
