"""CIFAR-10: `configs/small/cifar10.py[:cpu]`.

The default is for one GPU: ResNet-18 with the 3x3 stem and common settings for
this set (batch 256, LARS, 1000 epochs, no blur); not run here. `cpu` takes two
CPU cores a quarter of an hour; docs/results.md has its accuracy.
"""

from ml_collections import config_dict

from configs import pretrain
from configs.small import shapes


def get_config(variant: str = 'gpu') -> config_dict.ConfigDict:
  """Returns the variant `gpu` or `cpu`."""
  if variant not in ('gpu', 'cpu'):
    raise ValueError(f"expected 'gpu' or 'cpu', found {variant!r}")
  config = pretrain.get_config('1000')
  config.preset = 'cifar10'
  config.dataset = 'cifar10'
  config.image_size = 32
  config.epochs, config.batch_size = 1000.0, 256
  config.network.encoder = 'ResNet18'
  config.network.stem = 'small'
  config.target.base_tau = 0.99
  config.optimizer.weight_decay = 1e-5
  config.schedule.base_rate = 1.0
  for view in config.augment.values():
    view.blur.probability = 0.0
  config.data.eval_crop = 'whole'
  if variant == 'cpu':
    shapes.for_cpu(config)
    config.preset = 'cifar10 cpu'
    config.epochs, config.batch_size = 9.0, 64
    config.schedule.warmup_epochs = 1.0
    shapes.easier_views(config)
  config.preset_epochs = int(config.epochs)
  config.preset_batch_size = config.batch_size
  return config
