"""Writes encoders for timm: its ResNet with the keys of torchvision's."""

import json
from pathlib import Path

from byol_jax import networks
from byol_jax.convert import torch, weights as weights_lib

open_encoder = torch.open_encoder


def write_encoder(weights: weights_lib.EncoderWeights, folder: Path) -> None:
  """Writes weights, timm's config.json, and a loader that swaps the padding.

  With `network.padding='torch'` no loader is needed:
  `timm.create_model('local-dir:FOLDER', pretrained=True)`.

  Raises:
    ConfigError: timm's ResNet cannot hold the network.
  """
  torch.require_fit(weights.network, 'timm')
  name = weights.network['encoder'].lower()
  classes = torch.count_classes(weights)
  model = {'library': 'timm', 'name': name, 'num_classes': classes}
  torch.write_files(weights, folder, model, 'torch_same')
  size = weights.image_size
  config = {
    'architecture': name,
    'num_classes': classes,
    'pretrained_cfg': {
      'input_size': [3, size, size],
      'interpolation': 'bicubic',
      'crop_pct': weights.crop_share,
      'mean': networks.MEAN_RGB,
      'std': networks.STD_RGB,
      'num_classes': classes,
      'first_conv': 'conv1',
      'classifier': 'fc',
    },
  }
  (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
