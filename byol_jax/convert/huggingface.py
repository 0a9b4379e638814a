"""Writes encoders for transformers: its ResNet and an image processor."""

from collections.abc import Callable
import functools
import json
from pathlib import Path

import numpy as np

from byol_jax import errors, networks, resnet
from byol_jax.convert import state_dict, torch, weights as weights_lib


def write_encoder(weights: weights_lib.EncoderWeights, folder: Path) -> None:
  """Writes what `from_pretrained` reads, and a loader that swaps the padding.

  With a classifier it is a `ResNetForImageClassification`.

  Raises:
    ConfigError: transformers' ResNet cannot hold the network.
  """
  torch.require_fit(weights.network, 'transformers')
  errors.require_package('transformers', extra='export')
  import transformers

  classes = torch.count_classes(weights)
  name = 'ResNetForImageClassification' if classes else 'ResNetModel'
  model = {'library': 'transformers', 'name': name, 'num_classes': classes}
  prefix = 'resnet.' if classes else ''
  rename = functools.partial(state_dict.name_for_transformers, prefix=prefix)
  torch.write_files(weights, folder, model, 'torch_same', rename)
  layers = resnet.ENCODERS[weights.network['encoder']]
  scale = functools.partial(
    resnet.scale_channels, width=weights.network['width']
  )
  config = transformers.ResNetConfig(
    embedding_size=scale(layers.initial_channels),
    hidden_sizes=[scale(channels) for channels in layers.channels],
    depths=list(layers.blocks),
    architectures=[name],
    **({'num_labels': classes} if classes else {}),
  )
  config.save_pretrained(folder)
  text = json.dumps(_describe_processor(weights), indent=2)
  (folder / 'preprocessor_config.json').write_text(text + '\n')


def _describe_processor(weights: weights_lib.EncoderWeights) -> dict:
  """Returns the settings of the image processor."""
  size = weights.image_size
  return {
    'image_processor_type': 'BitImageProcessor',
    'do_convert_rgb': True,
    'do_resize': True,
    'size': {'shortest_edge': round(size / weights.crop_share)},
    'resample': 3,  # bicubic
    'do_center_crop': True,
    'crop_size': {'height': size, 'width': size},
    'do_rescale': True,
    'rescale_factor': 1 / 255,
    'do_normalize': True,
    'image_mean': networks.MEAN_RGB,
    'image_std': networks.STD_RGB,
  }


def open_encoder(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
  """Returns the written network: normalised float32 [B, H, W, 3] -> [B, D]."""
  errors.require_package('transformers', extra='export')
  model = torch.load_module(folder)
  encoder = getattr(model, 'resnet', model)
  return torch.make_encode(
    lambda images: encoder(images).pooler_output.flatten(1)
  )
