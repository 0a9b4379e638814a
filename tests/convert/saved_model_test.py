"""SavedModels: any batch and size, every kind of encoder, no JAX."""

import numpy as np
import pytest

from byol_jax import errors
from byol_jax.convert import parity, reference, saved_model
from tests.helpers import encoders, tiny_run

RELOAD = """
import sys
sys.modules['jax'] = sys.modules['byol_jax'] = None  # cannot be imported
import numpy as np
import tensorflow as tf
folder, file = sys.argv[1:]
serve = tf.saved_model.load(folder).signatures['serving_default']
with np.load(file) as images:
  found = {name: serve(images=tf.constant(images[name])) for name in images}
np.savez(file, **{k: x['representation'].numpy() for k, x in found.items()})
"""


@pytest.mark.parametrize(
  'network',
  (
    {'encoder': 'TinyResNet'},
    {'encoder': 'TinyResNet', 'version': 2, 'stem': 'small_stride2'},
  ),
)
def test_representations_are_ours(network, tmp_path):
  encoders.check_export(saved_model, tmp_path, (64, 64), (33, 46), **network)


@pytest.mark.export
@pytest.mark.parametrize(
  'network',
  (
    {'encoder': 'ResNet18'},
    {'encoder': 'ResNet50'},
    {'encoder': 'ResNet50', 'version': 2, 'width': 0.5},
    {'encoder': 'MiniResNet', 'stem': 'small_stride2'},
  ),
)
def test_large_encoders_at_every_size(network, tmp_path):
  encoders.check_export(saved_model, tmp_path, **network)


def test_padding_of_both_sides(tmp_path):
  """No operation of TensorFlow has it by name."""
  _, weights = encoders.make()
  weights = weights._replace(network=weights.network | {'padding': 'torch'})
  saved_model.write_encoder(weights, tmp_path)
  images = parity.make_images((64, 64))
  expected = reference.make_encode(weights)(images)
  found = saved_model.open_encoder(tmp_path)(images)
  np.testing.assert_allclose(found, expected, rtol=1e-4)  # order of sums


@pytest.mark.slow
def test_another_process_reloads_it_without_jax(tmp_path):
  _, weights = encoders.make()
  saved_model.write_encoder(weights, tmp_path)
  images = parity.normalize_images(
    np.tile(parity.make_images((33, 46)), (4, 1, 1, 1))
  )
  batches = {str(n): images[:n] for n in (1, 3, 8)}
  file = tmp_path / 'images.npz'
  np.savez(file, **batches)
  tiny_run.finish(tiny_run.start_python('-c', RELOAD, tmp_path, file))
  encode = reference.make_encode(weights)
  with np.load(file) as found:
    for name, batch in batches.items():
      # The order of sums.
      np.testing.assert_allclose(found[name], encode(batch), rtol=1e-4)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  _, weights = encoders.make()
  with pytest.raises(errors.ConfigError, match=r"install 'byol_jax\[tf\]'"):
    saved_model.write_encoder(weights, tmp_path)
