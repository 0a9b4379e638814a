"""ONNX files in onnxruntime: every kind of encoder, at every size."""

import jax
import numpy as np
import pytest

from byol_jax.convert import onnx as convert_onnx, parity
from tests.helpers import encoders

# Blocks, versions, stems; the padding of both kinds.
NETWORKS = (
  {'encoder': 'ResNet18'},
  {'encoder': 'ResNet50'},
  {'encoder': 'ResNet50', 'version': 2, 'width': 0.5},
  {'encoder': 'TinyResNet', 'stem': 'small'},
  {'encoder': 'MiniResNet', 'stem': 'small_stride2', 'version': 2},
)


@pytest.mark.export
@pytest.mark.parametrize('network', NETWORKS)
def test_representations_are_ours(network, tmp_path):
  pytest.importorskip('onnxruntime')
  encoders.check_export(convert_onnx, tmp_path, **network)


@pytest.mark.export
def test_heads_and_one_image(tmp_path):
  onnxruntime = pytest.importorskip('onnxruntime')
  forward, weights = encoders.make(projector=(16, 16, 8), predictor=(12, 8))
  convert_onnx.write_encoder(weights, tmp_path)
  session = onnxruntime.InferenceSession(str(tmp_path / convert_onnx.FILE))
  images = parity.make_images((33, 46))
  apply = jax.jit(forward.apply, static_argnums=3)
  expected, _ = apply(weights.params, weights.state, images, False)
  expected = expected._asdict()
  for count in (1, 2):
    inputs = parity.normalize_images(images[:count]).transpose(0, 3, 1, 2)
    outputs = session.run([*expected], {'images': inputs})
    for found, whole in zip(outputs, expected.values()):
      # The order of sums; values are of order 1.
      np.testing.assert_allclose(found, whole[:count], rtol=1e-4, atol=1e-5)


@pytest.mark.export
def test_large_parameters_get_their_own_file(monkeypatch, tmp_path):
  """Protobuf ends at 2 GiB."""
  pytest.importorskip('onnxruntime')
  monkeypatch.setattr(convert_onnx, 'MAX_FILE_BYTES', 1000)
  encoders.check_export(convert_onnx, tmp_path, (33, 46))
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {'model.onnx', 'model.onnx.data'}
