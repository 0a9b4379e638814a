"""Defines every encoder of byol_jax as one plain torch module, and loads it.

A copy lies beside exported weights; it needs torch and safetensors only. The
keys of the state dict are torchvision's. Images are [B, 3, H, W], normalised.
"""

from collections.abc import Sequence
import json
import pathlib

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F


def _pad(
  x: Tensor, kernel: int, stride: int, same: bool, value: float
) -> Tensor:
  """Pads both sides alike, or as TensorFlow's SAME: more after than before."""
  totals = [2 * (kernel // 2)] * 2
  if same:
    sizes = x.shape[:1:-1]  # width, height
    totals = [max(((n - 1) // stride) * stride + kernel - n, 0) for n in sizes]
  pads = [pad for total in totals for pad in (total // 2, total - total // 2)]
  return F.pad(x, pads, value=value)


class Conv(nn.Conv2d):
  """A square convolution without bias, with one of the two paddings."""

  def __init__(
    self, inputs: int, outputs: int, kernel: int, stride: int, same: bool
  ):
    super().__init__(inputs, outputs, kernel, stride, bias=False)
    self.same = same

  def forward(self, x: Tensor) -> Tensor:
    x = _pad(x, self.kernel_size[0], self.stride[0], self.same, 0.0)
    return F.conv2d(x, self.weight, stride=self.stride)


class Block(nn.Module):
  """A residual block; version 2 normalises before each convolution."""

  def __init__(
    self,
    inputs: int,
    outputs: int,
    stride: int,
    project: bool,
    bottleneck: bool,
    version: int,
    same: bool,
  ):
    super().__init__()
    self.version = version
    inner = outputs // 4 if bottleneck else outputs
    plan = [(inner, 1, 1), (inner, 3, stride), (outputs, 1, 1)]
    if not bottleneck:
      plan = [(inner, 3, stride), (outputs, 3, 1)]
    self.depth, channels = len(plan), inputs
    for i, (width, kernel, step) in enumerate(plan, start=1):
      self.add_module(f'conv{i}', Conv(channels, width, kernel, step, same))
      normalised = width if version == 1 else channels
      self.add_module(f'bn{i}', nn.BatchNorm2d(normalised))
      channels = width
    self.downsample = None
    if project:
      self.downsample = nn.Sequential(Conv(inputs, outputs, 1, stride, same))
      if version == 1:
        self.downsample.append(nn.BatchNorm2d(outputs))

  def forward(self, x: Tensor) -> Tensor:
    shortcut = x
    if self.version == 1 and self.downsample is not None:
      shortcut = self.downsample(x)
    for i in range(1, self.depth + 1):
      conv, norm = getattr(self, f'conv{i}'), getattr(self, f'bn{i}')
      if self.version == 1:
        x = norm(conv(x))
        x = F.relu(x) if i < self.depth else x
      else:
        x = F.relu(norm(x))
        if i == 1 and self.downsample is not None:
          shortcut = self.downsample(x)
        x = conv(x)
    x = x + shortcut
    return F.relu(x) if self.version == 1 else x


class ResNet(nn.Module):
  """Images [B, 3, H, W] -> representations [B, D], or logits with `fc`."""

  def __init__(
    self,
    *,
    blocks: Sequence[int],
    channels: Sequence[int],
    initial_channels: int,
    bottleneck: bool,
    version: int,
    kernel: int,
    stride: int,
    pool: bool,
    same: bool,
    bn_epsilon: float,
    num_classes: int,
  ):
    super().__init__()
    self.version, self.pool, self.same = version, pool, same
    self.conv1 = Conv(3, initial_channels, kernel, stride, same)
    self.bn1 = nn.BatchNorm2d(
      initial_channels if version == 1 else channels[-1]
    )
    self.groups, inputs = len(blocks), initial_channels
    kind: tuple = (bottleneck, version, same)
    for g, (count, outputs) in enumerate(zip(blocks, channels), start=1):
      sizes = [(inputs, outputs)] + [(outputs, outputs)] * (count - 1)
      layer = [
        Block(*size, 2 if g > 1 and b == 0 else 1, b == 0, *kind)
        for b, size in enumerate(sizes)
      ]
      self.add_module(f'layer{g}', nn.Sequential(*layer))
      inputs = outputs
    self.fc = nn.Linear(inputs, num_classes) if num_classes else nn.Identity()
    for module in self.modules():
      if isinstance(module, nn.BatchNorm2d):
        module.eps = bn_epsilon

  def forward(self, x: Tensor) -> Tensor:
    x = self.conv1(x)
    if self.version == 1:
      x = F.relu(self.bn1(x))
    if self.pool:
      x = F.max_pool2d(_pad(x, 3, 2, self.same, float('-inf')), 3, 2)
    for g in range(1, self.groups + 1):
      x = getattr(self, f'layer{g}')(x)
    if self.version == 2:  # its only outer norm is the last one
      x = F.relu(self.bn1(x))
    return self.fc(x.mean((2, 3)))


def load_encoder(folder: str = str(pathlib.Path(__file__).parent)) -> ResNet:
  """Returns the network of `model.safetensors`, in evaluation mode."""
  with safe_open(f'{folder}/model.safetensors', 'pt') as file:
    model = ResNet(**json.loads(file.metadata()['byol_jax'])['model'])
  model.load_state_dict(load_file(f'{folder}/model.safetensors'))
  return model.eval()
