"""Encoders with random weights and moved batch-norm averages."""

import jax
import numpy as np

from byol_jax import networks
from byol_jax.convert import parity, weights as weights_lib
from configs import pretrain
from tests.helpers import tiny_run

RANGES = {
  'scale': (0.5, 1.5),
  'offset': (0.0, 0.5),
  'b': (-0.5, 0.5),
  'mean_ema': (-0.3, 0.3),
  'var_ema': (0.5, 1.5),
}


def make(encoder='TinyResNet', *, num_classes=5, **network):
  """(forward, EncoderWeights) with heads and a classifier.

  Representations are not all zeros, and `hidden` is not `average`.
  """
  section = pretrain.get_config().network.to_dict()
  section |= {'encoder': encoder, 'projector': (16, 8), 'predictor': (16, 8)}
  section |= network
  forward = networks.make_forward(
    num_classes=num_classes, axis_name=None, **section
  )
  generator = np.random.default_rng(0)

  def draw(path, x):
    name = path[-1].key
    if name == 'counter':
      return np.full(x.shape, 3, x.dtype)
    if name == 'w':
      deviation = (2 / np.prod(x.shape[:-1])) ** 0.5
      return generator.normal(0, deviation, x.shape).astype(x.dtype)
    kind = path[0].key.rpartition('/')[2] if 'ema' in path[0].key else name
    low, high = RANGES[kind]
    found = generator.uniform(low, high, x.shape).astype(x.dtype)
    return found * np.float32(0.1) if name == 'hidden' else found

  params, state = tiny_run.shapes_of(forward)
  return forward, weights_lib.EncoderWeights(
    params=jax.tree_util.tree_map_with_path(draw, params),
    state=jax.tree_util.tree_map_with_path(draw, state),
    network=section,
    num_classes=num_classes,
    image_size=32,
    eval_crop='resize',
    card={'source': 'random', 'sha256': '0' * 64, 'weights': 'online'},
  )


def check_export(converter, folder, *sizes, **network):
  """Compares an encoder with ours after it was written; see `parity.SIZES`."""
  forward, weights = make(**network)
  converter.write_encoder(weights, folder)
  found = parity.compare_encoders(
    parity.make_ours(forward, weights.params, weights.state),
    converter.open_encoder(folder),
    sizes or parity.SIZES,
  )
  assert parity.holds(found), found
