"""Writes an encoder as an ONNX graph, built from its parameters.

Padding is explicit. Where the stride is 2, TensorFlow's SAME puts (k - 3) / 2
rows before and (k - 1) / 2 after an even number of rows, and one more before an
odd number: the graph computes that one from the input's shape, so one file is
exact at every height and width.
"""

from collections.abc import Callable, Mapping
import pathlib
from typing import Any

import numpy as np

from byol_jax import errors
from byol_jax.convert import graph, weights as weights_lib

FILE = 'model.onnx'
OPSET, IR_VERSION = 18, 9
# Above it the parameters are in a second file: protobuf ends at 2 GiB.
MAX_FILE_BYTES = 2**30
_LOWEST = float(np.finfo(np.float32).min)  # never the maximum


class _Operations:
  """`graph.Operations` on names of ONNX values, NCHW."""

  def __init__(self, onnx: Any, network: Mapping[str, Any]):
    self._onnx = onnx
    self._epsilon = network['bn_epsilon']
    self._is_symmetric = network.get('padding') == 'torch'
    self.nodes: list[Any] = []
    self.initializers: dict[str, Any] = {}

  def _add(self, kind: str, *inputs: str, **attributes: Any) -> str:
    output = f'{kind.lower()}_{len(self.nodes)}'
    helper = self._onnx.helper
    self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
    return output

  def _hold(self, value: Any, name: str) -> str:
    if name not in self.initializers:
      array = np.ascontiguousarray(value)
      tensor = self._onnx.numpy_helper.from_array(array, name)
      self.initializers[name] = tensor
    return name

  def _hold_integers(self, *values: int) -> str:
    name = 'int64_' + '_'.join(map(str, values))
    return self._hold(np.array(values, np.int64), name)

  def _place_window(
    self, x: str, size: int, stride: int, fill: float
  ) -> tuple[str, dict[str, list[int]]]:
    """Returns the input of a window that moves, padded, and its attributes."""
    half = size // 2
    window = {'kernel_shape': [size, size], 'strides': [stride, stride]}
    if stride == 1 or self._is_symmetric:
      return x, window | {'pads': [half] * 4}
    if size == 1:
      return x, window
    shape = self._add('Shape', x, start=2, end=4)
    odd = self._add('Mod', shape, self._hold_integers(2))
    before = self._add('Add', odd, self._hold_integers(half - 1))
    after = self._hold_integers(half, half)
    pads = self._add('Concat', before, after, axis=0)
    value = self._hold(np.float32(fill), f'float_{fill:g}')
    axes = self._hold_integers(2, 3)
    return self._add('Pad', x, pads, value, axes), window

  def convolve(self, x: str, kernel: np.ndarray, stride: int, name: str) -> str:
    x, window = self._place_window(x, len(kernel), stride, 0.0)
    held = self._hold(kernel.transpose(3, 2, 0, 1), f'{name}/w')
    return self._add('Conv', x, held, **window)

  def normalize(self, x: str, norm: graph.Norm, name: str) -> str:
    parts = (
      self._hold(part, f'{name}/{field}')
      for field, part in norm._asdict().items()
    )
    options = {'epsilon': self._epsilon}
    return self._add('BatchNormalization', x, *parts, **options)

  def relu(self, x: str) -> str:
    return self._add('Relu', x)

  def max_pool(self, x: str) -> str:
    x, window = self._place_window(x, 3, 2, _LOWEST)
    return self._add('MaxPool', x, **window)

  def add(self, x: str, y: str) -> str:
    return self._add('Add', x, y)

  def average(self, x: str) -> str:
    return self._add('Flatten', self._add('GlobalAveragePool', x))

  def multiply(
    self, x: str, matrix: np.ndarray, bias: np.ndarray | None, name: str
  ) -> str:
    product = self._add('MatMul', x, self._hold(matrix, f'{name}/w'))
    if bias is None:
      return product
    return self._add('Add', product, self._hold(bias, f'{name}/b'))


def write_encoder(
  weights: weights_lib.EncoderWeights, folder: pathlib.Path
) -> None:
  """Writes model.onnx into an empty folder.

  Its input `images` is normalised, float32 [batch, 3, height, width], all three
  free; its outputs are those of `graph.build_graph`. Parameters of more than
  1 GiB are in model.onnx.data beside it.

  Raises:
    ConfigError: onnx is not installed.
  """
  errors.require_package('onnx', extra='export')
  import onnx

  operations = _Operations(onnx, weights.network)
  make_value = lambda name, shape: onnx.helper.make_tensor_value_info(
    name, onnx.TensorProto.FLOAT, shape
  )
  outputs = graph.build_graph(weights, operations, 'images')
  nodes = operations.nodes
  for name, value in outputs.items():
    nodes.append(onnx.helper.make_node('Identity', [value], [name]))
  model = onnx.helper.make_model(
    onnx.helper.make_graph(
      nodes,
      weights.network['encoder'],
      [make_value('images', ['batch', 3, 'height', 'width'])],
      [make_value(name, ['batch', None]) for name in outputs],
      list(operations.initializers.values()),
    ),
    opset_imports=[onnx.helper.make_opsetid('', OPSET)],
    ir_version=IR_VERSION,
    producer_name='byol_jax',
    doc_string='images: float32, normalised by the mean and deviation of RGB',
  )
  size = sum(len(x.raw_data) for x in operations.initializers.values())
  onnx.save_model(
    model,
    str(folder / FILE),
    save_as_external_data=size > MAX_FILE_BYTES,
    location=f'{FILE}.data',
  )
  onnx.checker.check_model(str(folder / FILE))


def open_encoder(folder: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
  """Returns an exported encoder: normalised [B, H, W, 3] -> [B, D].

  Raises:
    ConfigError: onnxruntime is not installed.
  """
  errors.require_package('onnxruntime', extra='export')
  import onnxruntime

  session = onnxruntime.InferenceSession(
    str(folder / FILE), providers=['CPUExecutionProvider']
  )

  def encode(images: np.ndarray) -> np.ndarray:
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return session.run(['representation'], {'images': images})[0]

  return encode
