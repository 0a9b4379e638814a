"""A run that takes seconds, and a data set of arrays for it."""

import hashlib

import numpy as np

from byol_jax import configuration

SMALL = {
  **{'image_size': 16, 'batch_size': 8, 'epochs': 2.5},
  **{'network.encoder': 'TinyResNet', 'network.stem': 'small'},
  'network.width': 0.5,
  **{'network.projector': (16, 8), 'network.predictor': (16, 8)},
  **{'schedule.warmup_epochs': 0.5, 'checkpoint.every_steps': 0},
  # As in the stored run of `training/stored_run_test.py`.
  **{'schedule.base_rate': 2e-3, 'data.eval_crop': 'whole'},
  **{'log.every_steps': 2, 'log.every_seconds': 0.0},
  'log.tensorboard': False,
}


# Compiling the colour operations would be most of a start of such a run.
FLIP_ONLY = {
  f'augment.{view}.{operation}.probability': 0.0
  for view in ('view1', 'view2')
  for operation in ('jitter', 'grayscale', 'blur', 'solarize')
}


def tiny(preset='shapes', **overrides):
  """A preset, by default the demo's, made small; '__' stands for a dot.

  Of the augmentation only flips are left.
  """
  changes = {key.replace('__', '.'): v for key, v in overrides.items()}
  return configuration.load(preset, SMALL | FLIP_ONLY | changes)


class ArraySet:
  """32 random images whose views are a function of the step."""

  num_examples = 32
  fingerprint = hashlib.sha256(b'arrays').hexdigest()

  def __init__(self, num_classes=4, size=16, poison=()):
    self.num_classes = num_classes
    self.size = size
    self.poison = poison  # steps
    self.asked = []  # the steps of which a batch was made

  def view_batches(self, batch_size, start_step, num_steps):
    """One device's batches."""
    for step in range(start_step, start_step + num_steps):
      self.asked.append(step)
      generator = np.random.default_rng(step)
      shape = (1, batch_size, self.size, self.size, 3)
      batch = {
        name: generator.random(shape, np.float32) for name in ('view1', 'view2')
      }
      if self.num_classes:
        batch['labels'] = generator.integers(
          0, self.num_classes, shape[:2]
        ).astype(np.int32)
      if step in self.poison:
        # Pixels are clipped, so they cannot: no such class, no number.
        batch['labels'][0, 0] = 10**6
      yield batch
