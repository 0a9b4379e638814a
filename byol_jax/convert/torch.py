"""Writes encoders for torch, as torchvision's ResNet or as one of our own.

Reads pickles of torch back.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
import runpy
import shutil
from typing import Any

import numpy as np

from byol_jax import errors, resnet
from byol_jax.convert import (
  archive,
  safetensors,
  state_dict,
  weights as weights_lib,
)

FILE = 'model.safetensors'
HEADS_FILE = 'heads.safetensors'
LOADER = 'encoder.py'  # beside the weights, a copy of a module of ours


def find_obstacle(network: Mapping[str, Any], library: str) -> str | None:
  """Returns why a library's ResNet cannot hold a network; None if it can.

  The library is 'torchvision', 'timm' or 'transformers'.
  """
  encoder = network['encoder']
  if network['version'] != 1:
    return f'network.version=2 normalises first, {library} normalises last'
  if network['stem'] != 'imagenet':
    return f'network.stem={network["stem"]}, {library} has 7x7 with a pool'
  if not resnet.ENCODERS[encoder].bottleneck:
    return f'{encoder} projects the first shortcut, {library} has none to do so'
  if network['width'] != 1 and library != 'transformers':
    return f'network.width={network["width"]:g}, {library} has 1'
  if encoder == 'ResNet200' and library == 'torchvision':
    return f'{library} has no ResNet200'
  return None


def require_fit(network: Mapping[str, Any], library: str) -> None:
  """Raises ConfigError if a library's ResNet cannot hold a network."""
  if obstacle := find_obstacle(network, library):
    raise errors.ConfigError(
      f'{library} cannot hold the network: {obstacle}; export it to torch'
    )


def write_encoder(weights: weights_lib.EncoderWeights, folder: Path) -> None:
  """Writes weights and loader for torchvision, or for a plain torch module.

  `encoder.py` has `load_encoder`: the padding of torchvision's ResNet is
  swapped; networks that it cannot hold have one module for all of them.
  """
  name = weights.network['encoder'].lower()
  if find_obstacle(weights.network, 'torchvision') is None:
    model = {'library': 'torchvision', 'name': name}
    model['num_classes'] = count_classes(weights)
    write_files(weights, folder, model, 'torch_same')
  else:
    model = describe_plain_module(weights)
    write_files(weights, folder, model, 'torch_resnet')


def count_classes(weights: weights_lib.EncoderWeights) -> int:
  """Returns the classes of the classifier, 0 if none is kept."""
  return weights.params.get('classifier', {'w': np.empty((0, 0))})['w'].shape[1]


def describe_plain_module(
  weights: weights_lib.EncoderWeights,
) -> dict[str, Any]:
  """Returns the arguments of `torch_resnet.ResNet`."""
  network = weights.network
  layers = resnet.ENCODERS[network['encoder']]
  stem = resnet.STEMS[network['stem']]
  scale = lambda channels: resnet.scale_channels(channels, network['width'])
  return {
    'blocks': layers.blocks,
    'channels': [scale(channels) for channels in layers.channels],
    'initial_channels': scale(layers.initial_channels),
    'bottleneck': layers.bottleneck,
    'version': network['version'],
    'kernel': stem.kernel,
    'stride': stem.stride,
    'pool': stem.pool,
    'same': network['padding'] == 'same',
    'bn_epsilon': network['bn_epsilon'],
    'num_classes': count_classes(weights),
  }


def write_files(
  weights: weights_lib.EncoderWeights,
  folder: Path,
  model: Mapping[str, Any],
  loader: str,
  rename: state_dict.Rename = state_dict.name_module,
) -> None:
  """Writes the state dict, with facts in its header, and the loader.

  Heads, where they are kept, are written to a second file: keys and shapes are
  those of an `nn.Sequential` of linear, batch norm, ReLU, linear ...

  `loader`, a module of `byol_jax.convert`, becomes `encoder.py`; it makes the
  network from `model`.
  """
  metadata = {'format': 'pt'}  # transformers refuses a file without it
  heads = state_dict.to_state_dict(weights, state_dict.name_head)
  if heads:
    safetensors.write_arrays(folder / HEADS_FILE, heads, metadata)
  metadata[safetensors.TEXT] = archive.describe_weights(weights, model=model)
  arrays = state_dict.to_state_dict(weights, rename)
  safetensors.write_arrays(folder / FILE, arrays, metadata)
  source = Path(__file__).with_name(f'{loader}.py')
  shutil.copyfile(source, folder / LOADER)


def open_encoder(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
  """Returns the written network: normalised float32 [B, H, W, 3] -> [B, D]."""
  for name in ('torch', 'safetensors'):
    errors.require_package(name, extra='export')
  import torch

  model = load_module(folder)
  model.fc = torch.nn.Identity()  # representations rather than logits
  return make_encode(model)


def make_encode(model: Any) -> Callable[[np.ndarray], np.ndarray]:
  """Returns a torch function of NCHW as a numpy function of NHWC."""
  import torch

  def encode(images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
      found = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return found.numpy()

  return encode


def load_module(folder: Path) -> Any:
  """Returns the torch module of a written encoder, by the loader beside it."""
  loader = runpy.run_path(str(folder / LOADER))
  return loader['load_encoder'](str(folder))


def read_encoder(path: Path) -> weights_lib.EncoderWeights:
  """Reads a state dict of torchvision's or timm's ResNet; runs no code of it.

  Raises:
    ConfigError: torch is not installed.
    DataError: the file is damaged or does not fit; see
      `state_dict.restore_weights`.
  """
  errors.require_package('torch', extra='export')
  import torch

  try:
    found = torch.load(path, map_location='cpu', weights_only=True)
    tensors = found.get('state_dict', found)
    arrays = {
      key: (x.float() if x.is_floating_point() else x).numpy()
      for key, x in tensors.items()
    }
  except Exception as error:  # of many kinds
    raise errors.DataError(
      f'{errors.quote(path)}: expected a state dict: {errors.first_line(error)}'
    ) from error
  return state_dict.restore_weights(arrays, None, path)
