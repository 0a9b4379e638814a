"""An encoder as a sequence of operations, for the formats that hold a graph.

The one description of all encoders outside of Haiku: v1 and v2, basic and
bottleneck blocks, every stem, heads of any depth.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from byol_jax import resnet
from byol_jax.convert import weights as weights_lib


class Norm(NamedTuple):
  """A batch norm in evaluation mode, float32 [C] each."""

  scale: np.ndarray
  offset: np.ndarray
  mean: np.ndarray
  variance: np.ndarray


class Operations(Protocol):
  """Adds operations to a graph; `name` is of the module with the parameters.

  Convolutions and the pool have the padding of the network: SAME as in
  TensorFlow, for any height and width.
  """

  def convolve(self, x: Any, kernel: np.ndarray, stride: int, name: str) -> Any:
    """Convolves with a kernel HWIO."""

  def normalize(self, x: Any, norm: Norm, name: str) -> Any:
    """Applies a batch norm over the channels of [B, H, W, C] or [B, C]."""

  def relu(self, x: Any) -> Any:
    """Applies ReLU."""

  def max_pool(self, x: Any) -> Any:
    """Takes the maximum of 3x3 windows at a stride of 2."""

  def add(self, x: Any, y: Any) -> Any:
    """Adds two values of one shape."""

  def average(self, x: Any) -> Any:
    """[B, H, W, C] -> [B, C], the mean over height and width."""

  def multiply(
    self, x: Any, matrix: np.ndarray, bias: np.ndarray | None, name: str
  ) -> Any:
    """[B, I] -> [B, O] by a matrix [I, O] and a bias [O]."""


def build_graph(
  weights: weights_lib.EncoderWeights, operations: Operations, images: Any
) -> dict[str, Any]:
  """Returns the outputs of an encoder, of normalised images.

  They are `representation`, and `projection`, `prediction` and `logits` where
  the weights have the heads.
  """
  return _Builder(weights, operations).build(images)


class _Builder:
  """Walks through the modules of the network in the order of its forward."""

  def __init__(
    self, weights: weights_lib.EncoderWeights, operations: Operations
  ):
    self._params = weights.params
    self._state = weights.state
    self._operations = operations
    self._network = weights.network

  def build(self, images: Any) -> dict[str, Any]:
    x = self._encode(images)
    outputs = {'representation': x}
    if 'projector/linear' in self._params:
      outputs['projection'] = self._apply_mlp(x, 'projector')
    if 'predictor/linear' in self._params:
      projection = outputs.get('projection', x)
      outputs['prediction'] = self._apply_mlp(projection, 'predictor')
    if 'classifier' in self._params:
      outputs['logits'] = self._multiply(x, 'classifier')
    return outputs

  def _encode(self, x: Any) -> Any:
    layers = resnet.ENCODERS[self._network['encoder']]
    stem = resnet.STEMS[self._network['stem']]
    is_first = self._network['version'] == 1
    root = f'{layers.module_name}/~'
    x = self._convolve(x, stem.stride, f'{root}/initial_conv')
    if is_first:
      x = self._norm_relu(x, f'{root}/initial_batchnorm')
    if stem.pool:
      x = self._operations.max_pool(x)
    compute = self._apply_block_v1 if is_first else self._apply_block_v2
    num_layers = 3 if layers.bottleneck else 2
    for group, num_blocks in enumerate(layers.blocks):
      for block in range(num_blocks):
        stride = 2 if group > 0 and block == 0 else 1
        strides = (stride, 1) if num_layers == 2 else (1, stride, 1)
        name = f'{root}/block_group_{group}/~/block_{block}/~'
        x = compute(x, strides, stride, name)
    if not is_first:
      x = self._norm_relu(x, f'{root}/final_batchnorm')
    return self._operations.average(x)

  def _apply_block_v1(
    self, x: Any, strides: tuple[int, ...], stride: int, name: str
  ) -> Any:
    shortcut = x
    if f'{name}/shortcut_conv' in self._params:
      shortcut = self._convolve(x, stride, f'{name}/shortcut_conv')
      shortcut = self._normalize(shortcut, f'{name}/shortcut_batchnorm')
    for i, step in enumerate(strides):
      x = self._convolve(x, step, f'{name}/conv_{i}')
      x = self._normalize(x, f'{name}/batchnorm_{i}')
      if i < len(strides) - 1:
        x = self._operations.relu(x)
    return self._operations.relu(self._operations.add(x, shortcut))

  def _apply_block_v2(
    self, x: Any, strides: tuple[int, ...], stride: int, name: str
  ) -> Any:
    shortcut = x
    for i, step in enumerate(strides):
      x = self._norm_relu(x, f'{name}/batchnorm_{i}')
      if i == 0 and f'{name}/shortcut_conv' in self._params:
        shortcut = self._convolve(x, stride, f'{name}/shortcut_conv')
      x = self._convolve(x, step, f'{name}/conv_{i}')
    return self._operations.add(x, shortcut)

  def _apply_mlp(self, x: Any, name: str) -> Any:
    suffix, i = '', 0
    while f'{name}/batch_norm{suffix}' in self._params:
      x = self._multiply(x, f'{name}/linear{suffix}')
      x = self._norm_relu(x, f'{name}/batch_norm{suffix}')
      i += 1
      suffix = f'_{i}'
    return self._multiply(x, f'{name}/linear{suffix}')

  def _convolve(self, x: Any, stride: int, name: str) -> Any:
    kernel = np.asarray(self._params[name]['w'])
    return self._operations.convolve(x, kernel, stride, name)

  def _multiply(self, x: Any, name: str) -> Any:
    leaves = self._params[name]
    matrix = np.asarray(leaves['w'])
    bias = np.asarray(leaves['b']) if 'b' in leaves else None
    return self._operations.multiply(x, matrix, bias, name)

  def _norm_relu(self, x: Any, name: str) -> Any:
    return self._operations.relu(self._normalize(x, name))

  def _normalize(self, x: Any, name: str) -> Any:
    leaves = self._params[name]
    # `hidden` lacks the correction for the start of the moving average.
    mean, variance = (
      self._state[f'{name}/~/{moment}_ema']['average']
      for moment in ('mean', 'var')
    )
    parts = (leaves['scale'], leaves['offset'], mean, variance)
    norm = Norm(*(np.asarray(part).reshape(-1) for part in parts))
    return self._operations.normalize(x, norm, name)
