"""Loads the encoder of this folder into a ResNet of its library.

TensorFlow's SAME padding depends on the image's size, which no weights make up
for: five modules, those with stride 2, are swapped; all keys stay.
"""

from importlib import import_module
import json
import pathlib

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F


def _pad(x: Tensor, kernel: int, value: float) -> Tensor:
  totals = [max((n - 1) // 2 * 2 + kernel - n, 0) for n in x.shape[:1:-1]]
  pads = [pad for total in totals for pad in (total // 2, total - total // 2)]
  return F.pad(x, pads, value=value)


class SameConv2d(nn.Conv2d):
  def forward(self, x: Tensor) -> Tensor:
    return F.conv2d(_pad(x, self.kernel_size[0], 0.0), self.weight, stride=2)


class SameMaxPool2d(nn.MaxPool2d):
  def forward(self, x: Tensor) -> Tensor:
    return F.max_pool2d(_pad(x, 3, float('-inf')), 3, stride=2)


def _make(folder: str, library: str, name: str, num_classes: int) -> nn.Module:
  if library == 'transformers':
    hf = import_module('transformers')
    return getattr(hf, name)(hf.ResNetConfig.from_pretrained(folder))
  if library == 'timm':
    return import_module('timm').create_model(name, num_classes=num_classes)
  models = import_module('torchvision').models
  model = models.get_model(name, num_classes=num_classes or 1)
  model.fc = model.fc if num_classes else nn.Identity()
  return model


def load_encoder(folder: str = str(pathlib.Path(__file__).parent)) -> nn.Module:
  """Returns a network of normalised images [B, 3, H, W]."""
  with safe_open(f'{folder}/model.safetensors', 'pt') as file:
    facts = json.loads(file.metadata()['byol_jax'])
  model = _make(folder, **facts['model'])
  model.load_state_dict(load_file(f'{folder}/model.safetensors'))
  is_same = facts['network']['padding'] == 'same'
  swaps = {nn.Conv2d: SameConv2d, nn.MaxPool2d: SameMaxPool2d}
  for module in model.modules():
    is_strided = is_same and getattr(module, 'stride', 1) in (2, (2, 2))
    if isinstance(module, nn.BatchNorm2d):
      module.eps = facts['network']['bn_epsilon']
    elif is_strided and type(module) in swaps and module.padding != (0, 0):
      module.__class__ = swaps[type(module)]
  return model.eval()
