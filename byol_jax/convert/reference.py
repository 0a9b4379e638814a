"""Runs an encoder in plain numpy: the formats without a program use it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from byol_jax.convert import graph, weights as weights_lib


class Operations:
  """`graph.Operations` on numpy arrays, NHWC."""

  def __init__(self, network: Mapping[str, Any]):
    self._epsilon = np.float32(network['bn_epsilon'])
    self._is_symmetric = network.get('padding') == 'torch'

  def _list_windows(
    self, x: np.ndarray, size: int, stride: int, fill: float
  ) -> np.ndarray:
    """[B, H, W, C] -> [B, H / stride, W / stride, C, size, size]."""
    pads = [(0, 0), *(self._pad(n, size, stride) for n in x.shape[1:3]), (0, 0)]
    x = np.pad(x, pads, constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    return windows[:, ::stride, ::stride]

  def _pad(self, length: int, size: int, stride: int) -> tuple[int, int]:
    if self._is_symmetric:
      return size // 2, size // 2
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2

  def convolve(
    self, x: np.ndarray, kernel: np.ndarray, stride: int, name: str
  ) -> np.ndarray:
    windows = self._list_windows(x, len(kernel), stride, 0.0)
    return np.tensordot(windows, kernel, ((3, 4, 5), (2, 0, 1)))

  def normalize(self, x: np.ndarray, norm: graph.Norm, name: str) -> np.ndarray:
    inverse = norm.scale / np.sqrt(norm.variance + self._epsilon)
    return (x - norm.mean) * inverse + norm.offset

  def relu(self, x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)

  def max_pool(self, x: np.ndarray) -> np.ndarray:
    return self._list_windows(x, 3, 2, -np.inf).max(axis=(4, 5))

  def add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x + y

  def average(self, x: np.ndarray) -> np.ndarray:
    return x.mean(axis=(1, 2))

  def multiply(
    self, x: np.ndarray, matrix: np.ndarray, bias: Any, name: str
  ) -> np.ndarray:
    return x @ matrix if bias is None else x @ matrix + bias


def make_encode(
  weights: weights_lib.EncoderWeights,
) -> Callable[[np.ndarray], np.ndarray]:
  """Returns an encoder: normalised float32 [B, H, W, 3] -> [B, D]."""
  operations = Operations(weights.network)
  return lambda images: graph.build_graph(weights, operations, images)[
    'representation'
  ]
