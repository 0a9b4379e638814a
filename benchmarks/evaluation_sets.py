"""A ResNet-18 with random weights and sets of noise, for evaluations."""

import numpy as np

from byol_jax import configuration, experiment
from byol_jax.data import from_config
from byol_jax.data.sources import arrays
from byol_jax.evals import features

NUM_CLASSES = 100


def make_encoder(size):
  """(encoder, configuration) of `pretrain:1000` with a ResNet-18."""
  config = configuration.load('pretrain:1000')
  config.network.encoder = 'ResNet18'
  config.image_size = size
  built = experiment.build(config, 10**6, NUM_CLASSES)
  state = built.init_on_host()
  return features.make_encoder(
    built.forward, state.online_params, state.online_state, 'random'
  ), config


def make_load(config, counts):
  """split name -> image set of uint8 arrays, as many images as in `counts`."""
  rng = np.random.default_rng(0)
  size = config.image_size
  sources = {
    name: arrays.ArraySource(
      rng.integers(0, 256, (count, size, size, 3), np.uint8),
      np.arange(count) % NUM_CLASSES,
      name=name,
    )
    for name, count in counts.items()
  }

  def load(split):
    opened = from_config.open_split
    from_config.open_split = lambda config, split, dataset: sources[split]
    try:
      return from_config.make_image_set(config, split)
    finally:
      from_config.open_split = opened

  return load
