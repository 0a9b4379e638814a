"""Writes an encoder as a TensorFlow SavedModel.

The graph is made of TensorFlow's own operations, whose SAME padding is the
network's, so the file needs no JAX, takes any batch, height and width, and
does not age with JAX's serialisation format.
"""

from collections.abc import Callable, Mapping
import pathlib
from typing import Any

import numpy as np

from byol_jax import errors
from byol_jax.convert import graph, weights as weights_lib


class _Operations:
  """`graph.Operations` on TensorFlow tensors, NHWC."""

  def __init__(self, tf: Any, network: Mapping[str, Any]):
    self._tf = tf
    self._epsilon = network['bn_epsilon']
    self._is_symmetric = network.get('padding') == 'torch'
    self.variables: dict[str, Any] = {}

  def _hold(self, value: np.ndarray, name: str) -> Any:
    if name not in self.variables:
      self.variables[name] = self._tf.Variable(value, trainable=False)
    return self.variables[name]

  def _padding(self, size: int) -> Any:
    side = [(size - 1) // 2] * 2
    return [[0, 0], side, side, [0, 0]] if self._is_symmetric else 'SAME'

  def convolve(self, x: Any, kernel: np.ndarray, stride: int, name: str) -> Any:
    held = self._hold(kernel, f'{name}/w')
    return self._tf.nn.conv2d(x, held, stride, self._padding(len(kernel)))

  def normalize(self, x: Any, norm: graph.Norm, name: str) -> Any:
    inverse = norm.scale / np.sqrt(norm.variance + np.float32(self._epsilon))
    scale = self._hold(inverse, f'{name}/scale')
    mean = self._hold(norm.mean, f'{name}/mean')
    offset = self._hold(norm.offset, f'{name}/offset')
    return (x - mean) * scale + offset

  def relu(self, x: Any) -> Any:
    return self._tf.nn.relu(x)

  def max_pool(self, x: Any) -> Any:
    return self._tf.nn.max_pool2d(x, 3, 2, self._padding(3))

  def add(self, x: Any, y: Any) -> Any:
    return x + y

  def average(self, x: Any) -> Any:
    return self._tf.reduce_mean(x, axis=(1, 2))

  def multiply(
    self, x: Any, matrix: np.ndarray, bias: np.ndarray | None, name: str
  ) -> Any:
    product = self._tf.matmul(x, self._hold(matrix, f'{name}/w'))
    return product if bias is None else product + self._hold(bias, f'{name}/b')


def write_encoder(
  weights: weights_lib.EncoderWeights, folder: pathlib.Path
) -> None:
  """Writes a SavedModel into an empty folder.

  Its signature `serving_default` takes `images`, normalised float32
  [B, H, W, 3] of any B, H and W, and returns what `graph.build_graph` does.

  Raises:
    ConfigError: TensorFlow is not installed.
    OSError: the folder cannot be written.
  """
  errors.require_package('tensorflow', extra='tf')
  import tensorflow as tf

  operations = _Operations(tf, weights.network)

  def forward(images: Any) -> dict[str, Any]:
    return graph.build_graph(weights, operations, images)

  # Makes the variables, which a traced function must not.
  forward(tf.zeros([1, 32, 32, 3]))
  module = tf.Module()
  module.parameters = list(operations.variables.values())
  images = tf.TensorSpec([None, None, None, 3], tf.float32, 'images')
  # Its control flow is Python's.
  module.serve = tf.function(forward, [images], autograph=False)
  signature = module.serve.get_concrete_function()
  try:
    tf.saved_model.save(module, str(folder), signatures=signature)
  except tf.errors.OpError as error:  # such as a full disk
    raise OSError(errors.first_line(error)) from error


def open_encoder(folder: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
  """Returns an exported encoder: normalised [B, H, W, 3] -> [B, D]."""
  errors.require_package('tensorflow', extra='tf')
  import tensorflow as tf

  model = tf.saved_model.load(str(folder))
  serve = model.signatures['serving_default']

  def encode(images: np.ndarray) -> np.ndarray:
    # The model lives as long as the function that holds it.
    assert model is not None
    return serve(images=tf.constant(images))['representation'].numpy()

  return encode
